"""Names that there are in the place of patterns: how many tasks have one the planner knows, and of a pattern it can but guess."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, reduce
from operator import and_, or_

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import escape
from celery_journal.projections import Q

#: The most names among which patterns are looked for: who has more makes them up as they go.
MOST = 1000

#: What of a name is compared with what, by the lookup.
_ALIKE: dict[str, Callable[[str, str], bool]] = {
    "glob": lambda name, pattern: re.fullmatch(_expression(pattern), name, re.DOTALL) is not None,
    "icontains": lambda name, part: part.lower() in name.lower(),
    "startswith": str.startswith,
}


def narrowed(condition: Q, connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> Q:
    """Return the condition with the names of tasks and workers that are like a pattern in its place.

    A pattern that nothing is like, or seldom, would else be looked for from the newest task to the oldest.
    """

    @cache
    def known(field: str) -> list[str] | None:
        query = sql.query("ids.sql", f"known {field}", schema)
        names = [name for (name,) in connection.execute(query, {"limit": MOST + 1}).fetchall()]
        return names if len(names) <= MOST else None

    def replaced(one: Q | tuple[str, object]) -> Q:
        if isinstance(one, Q):
            return _walked(one)
        field, _, lookup = one[0].partition("__")
        if field not in {"task_name", "worker"} or lookup not in _ALIKE or (names := known(field)) is None:
            return Q(**{one[0]: one[1]})
        return Q(**{f"{field}__in": [name for name in names if _ALIKE[lookup](name, escape(str(one[1])))]})

    def _walked(whole: Q) -> Q:
        if not whole.children:
            return whole
        parts = reduce(and_ if whole.connector == "and" else or_, map(replaced, whole.children))
        return ~parts if whole.negated else parts

    return _walked(condition)


def _expression(pattern: str) -> str:
    """Return what a shell pattern of `*` and `?` is to Python."""
    return "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
