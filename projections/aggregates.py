"""What is reckoned of many rows, as in Django: `TaskResult.objects.aggregate(Max("date_done"), failed=Count("*"))`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from psycopg.sql import Composable, Identifier

from .fields import FieldError, Type, View
from .lookups import Statement

#: Stands for the rows themselves, whatever they hold.
ROWS = "*"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Something that is reckoned of a field in many rows; None where no row has it."""

    field: str

    #: As SQL and Django call it, and the types of fields that it is reckoned of.
    function: ClassVar[str]
    types: ClassVar[frozenset[Type]]

    @property
    def name(self) -> str:
        """The name that it has where the caller gives none: `date_done__max`."""
        return f"{self.field}__{self.function}"

    @property
    def is_distinct(self) -> bool:
        """Whether what is the same in several rows is reckoned once."""
        return False

    def check(self, view: View) -> None:
        """Raise FieldError if the view has no such field, or it is not reckoned of it."""
        found = view.field_of(self.field)
        if found.type not in self.types:
            raise FieldError(f"{type(self).__name__} is not reckoned of {view.name}.{self.field}, which is {_A[found.type]}")

    def column(self, statement: Statement) -> Composable:
        """Return it in SQL, of rows whose fields have the names that they were asked for by."""
        if self.field == ROWS:
            return statement.piece("count of rows")
        kind = statement.view.field_of(self.field).type
        name = f"{self.function}{' distinct' if self.is_distinct else ''}"
        return statement.piece(f"{name} of {kind}" if (name, kind) == ("avg", "integer") else name, column=Identifier(self.field))


class Min(Aggregate):
    """The least of a field."""

    __slots__ = ()
    function = "min"
    types = frozenset({"text", "integer", "moment", "interval"})


class Max(Min):
    """The greatest of a field."""

    __slots__ = ()
    function = "max"


class Sum(Aggregate):
    """The sum of numbers, or of durations: a timedelta."""

    __slots__ = ()
    function = "sum"
    types = frozenset({"integer", "interval"})


class Avg(Sum):
    """The mean of numbers, a float; or of durations, a timedelta."""

    __slots__ = ()
    function = "avg"


@dataclass(frozen=True, slots=True)
class Count(Aggregate):
    """How many rows there are, `Count("*")`; how many have a value in a field; or how many values these are, with `distinct`."""

    distinct: bool = False

    function = "count"
    types = frozenset({"text", "integer", "boolean", "moment", "interval", "bytes", "json", "texts"})

    @property
    def is_distinct(self) -> bool:
        """Whether what is the same in several rows is reckoned once."""
        return self.distinct

    def check(self, view: View) -> None:
        """Raise FieldError if the view has no such field."""
        if self.field != ROWS:
            view.field_of(self.field)


_A: dict[Type, str] = {
    "text": "text",
    "integer": "a number",
    "boolean": "True or False",
    "moment": "a date",
    "interval": "a duration",
    "bytes": "bytes",
    "json": "JSON",
    "texts": "a list",
}


def named(asked: tuple[Aggregate, ...], by_name: Mapping[str, Aggregate]) -> dict[str, Aggregate]:
    """Return what is asked for by its names; raise TypeError where that is no aggregate, or has no name."""
    for one in (*asked, *by_name.values()):
        if not isinstance(one, Aggregate):
            raise TypeError(f"{one!r} is none of Count, Min, Max, Avg and Sum")
    if any(isinstance(one, Count) and one.field == ROWS for one in asked):
        raise TypeError('Count("*") needs a name: aggregate(total=Count("*"))')
    return {**{one.name: one for one in asked}, **by_name}
