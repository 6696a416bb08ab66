"""What can be asked of each view: its fields, by the names that its model, the view and the seeds give them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from celery_journal.journal.errors import JournalError

Type = Literal["text", "integer", "boolean", "moment", "interval", "bytes", "json", "texts"]

_ORDERED = ("exact", "in", "gt", "gte", "lt", "lte", "isnull")

#: The lookups of each type of field; the first is meant where none is named.
LOOKUPS: dict[Type, tuple[str, ...]] = {
    "text": (*_ORDERED, "contains", "icontains", "startswith", "istartswith", "glob"),
    "integer": _ORDERED,
    "boolean": ("exact",),
    #: The last two by the clock of the database, and with a timedelta: `date_done__within=timedelta(hours=1)`.
    "moment": (*_ORDERED, "older_than", "within"),
    "interval": _ORDERED,
    "bytes": ("exact", "in", "isnull", "contains", "startswith", "path"),
    "json": ("exact", "isnull", "path"),
    "texts": ("contains", "isnull"),
}

_ALL_LOOKUPS = frozenset(lookup for lookups in LOOKUPS.values() for lookup in lookups)


class FieldError(JournalError, ValueError):
    """A field, or a lookup of one, does not exist; or it does not take that value."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field: the column of the view, and what can be asked of it."""

    column: str
    type: Type
    #: Whether its value is read as text, though the column holds bytes or jsonb.
    as_text: bool = False
    #: What a key of its JSON looks like that may stand in the place of a lookup, as in `args__0` and `kwargs__user_id`.
    first_key: str = ""

    @property
    def lookups(self) -> tuple[str, ...]:
        """The lookups it has."""
        return LOOKUPS[self.type]


@dataclass(frozen=True, slots=True)
class View:
    """A view, and its fields by name."""

    name: str
    key: str
    #: The order of a list as long as nobody asks for another.
    order: tuple[str, ...]
    fields: dict[str, Field]
    #: Other names of fields.
    aliases: dict[str, str] = field(default_factory=dict)

    def field_of(self, name: str) -> Field:
        """Return the field of that name; raise FieldError if there is none."""
        name = self.aliases.get(name, name)
        if name not in self.fields:
            raise FieldError(f"{self.name} has no field {name!r}; its fields are {_listed(name, self.fields)}")
        return self.fields[name]

    def lookup(self, given: str) -> tuple[Field, str]:
        """Return the field and the lookup of a name such as `date_done__gte`; raise FieldError if there is none.

        Or what stands in its place: the keys of `kwargs__order__id`.
        """
        name, _, lookup = given.partition("__")
        found = self.field_of(name)
        first, *further = lookup.split("__")
        are_keys = re.fullmatch(found.first_key, first) and not _ALL_LOOKUPS.intersection(further)
        if lookup and lookup not in found.lookups and not are_keys:
            raise FieldError(f"{self.name}.{name} has no lookup {lookup!r}; its lookups are {_listed(lookup, found.lookups)}")
        return found, lookup or "exact"


def _listed(name: str, known: Iterable[str]) -> str:
    """Return the known names, those that are most like the given one first."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=3)
    return ", ".join([*nearest, *(other for other in names if other not in nearest)])


def _fields(type_: Type, *names: str) -> dict[str, Field]:
    return {name: Field(name, type_) for name in names}


TASK_RESULT = View(
    "task_result",
    key="task_id",
    order=("-date_done",),
    fields={
        **_fields("text", "task_id", "task_name", "periodic_task_name", "worker", "status", "traceback"),
        **_fields(
            "text", "content_type", "content_encoding", "queue", "root_id", "parent_id", "group_id", "args_content_type", "lost_reason"
        ),
        **_fields("integer", "retries", "pid"),
        **_fields("moment", "date_created", "date_started", "date_done", "date_updated", "date_sent", "recorded_at"),
        #: Of what was asked: the last eta and expires of its messages. Then how long the current attempt ran.
        **_fields("moment", "eta", "expires"),
        **_fields("interval", "run_time"),
        #: The names of what has put another task in its place, and went on under its id as that one: the first of them, or any in a lookup.
        **_fields("text", "replaced_name"),
        #: When it ended; or when it was recorded, where no clock that says so can be true.
        **_fields("moment", "believed_date_done"),
        #: What people have said of it last, by `annotate`.
        **_fields("boolean", "hidden", "resolved"),
        #: Whether nobody needs to look at it any more: it is resolved, or was sent again with success. Then whether it was sent again, and
        #: whether what came of that last has failed, and nothing of it has succeeded.
        **_fields("boolean", "settled", "replayed", "replay_failed"),
        #: How often it was started, and whether one of these runs began while another was at work.
        **_fields("integer", "runs"),
        **_fields("boolean", "overlap"),
        #: Whether these may be more than one, or it may have run for ten seconds: what an index knows.
        **_fields("boolean", "ran_again", "ran_long"),
        **_fields("bytes", "result"),
        "args": Field("args", "bytes", first_key=r"\d+"),
        "kwargs": Field("kwargs", "bytes", first_key=r"\w+"),
        "meta": Field("meta", "bytes", as_text=True),
        "task_args": Field("args", "bytes", as_text=True),
        "task_kwargs": Field("kwargs", "bytes", as_text=True),
        **_fields("json", "result_json", "args_json", "kwargs_json", "meta_json"),
    },
    aliases={
        "pk": "task_id",
        "task": "task_name",
        "state": "status",
        "hostname": "worker",
        "date_submitted": "date_sent",
        "routing_key": "queue",
    },
)

#: `date_done` is reckoned from the members of each group that is looked at, and no index knows it; `date_saved` has one.
GROUP_RESULT = View(
    "group_result",
    key="group_id",
    order=("-date_saved",),
    fields={
        **_fields("text", "group_id", "content_type", "content_encoding"),
        **_fields("moment", "date_created", "date_saved", "date_done", "recorded_at"),
        #: As a task's `believed_date_done`.
        **_fields("moment", "believed_date_saved"),
        **_fields("texts", "members"),
        **_fields("bytes", "result"),
        **_fields("json", "result_json"),
    },
    aliases={"pk": "group_id"},
)

CHORD_COUNTER = View(
    "chord_counter",
    key="group_id",
    order=("-date_created",),
    fields={
        **_fields("text", "group_id", "state", "body_task_id"),
        **_fields("integer", "count", "size", "done", "failed"),
        **_fields("moment", "date_created", "date_done", "recorded_at"),
        "sub_tasks": Field("sub_tasks", "json", as_text=True),
    },
    aliases={"pk": "group_id"},
)
