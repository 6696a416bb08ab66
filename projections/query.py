"""Questions to the views: `TaskResult.objects.filter(status="FAILURE").exclude(worker="w3").order_by("-date_done")[:10]`."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, Self, TypeVar

from psycopg.sql import SQL, Composable, Composed, Identifier

from celery_journal.sql import DEFAULT_SCHEMA

from .aggregates import ROWS, Aggregate
from .fields import FieldError, View
from .lookups import Statement
from .projection import Row
from .task_result import text_of

R = TypeVar("R")
S = TypeVar("S")

#: A statement, and its parameters.
Question = tuple[Composed, Mapping[str, Any]]


class Q:
    """A condition: lookups that all hold. Put together by `&`, `|` and `~`, as in Django."""

    __slots__ = ("children", "connector", "negated")

    def __init__(self, *conditions: Q, **lookups: object) -> None:
        # What can be gone through once only is kept: a set may be asked many times.
        kept = ((name, list(value) if isinstance(value, Iterator) else value) for name, value in lookups.items())
        self.children: tuple[Q | tuple[str, object], ...] = (*(one for one in conditions if one.children), *kept)
        self.connector: Literal["and", "or"] = "and"
        self.negated = False

    def __and__(self, other: Q) -> Q:
        return self._joined(other, "and")

    def __or__(self, other: Q) -> Q:
        return self._joined(other, "or")

    def __invert__(self) -> Q:
        return self._of(self.children, self.connector, negated=not self.negated) if self.children else self

    def __repr__(self) -> str:
        parts = (repr(part) if isinstance(part, Q) else f"{part[0]}={part[1]!r}" for part in self.children)
        return f"{'~' if self.negated else ''}Q({f' {self.connector} '.join(parts)})"

    def condition(self, statement: Statement) -> Composable:
        """Return the condition in SQL, its values among the statement's parameters."""
        parts = [part.condition(statement) if isinstance(part, Q) else statement.condition(*part) for part in self.children]
        if not parts:
            return statement.piece("everything")
        whole = statement.piece("all", parts=SQL(f" {self.connector} ").join(parts))
        return statement.piece("not", condition=whole) if self.negated else whole

    def _joined(self, other: Q, connector: Literal["and", "or"]) -> Q:
        if not self.children or not other.children:
            return self if self.children else other
        # Flat, so that a condition of a thousand parts is not a thousand deep.
        one, two = (
            part.children if not part.negated and (part.connector == connector or len(part.children) == 1) else (part,)
            for part in (self, other)
        )
        return self._of((*one, *two), connector)

    @classmethod
    def _of(cls, children: tuple[Q | tuple[str, object], ...], connector: Literal["and", "or"], *, negated: bool = False) -> Q:
        made = cls()
        made.children, made.connector, made.negated = children, connector, negated
        return made


@dataclass(frozen=True, slots=True)
class Query(Generic[R]):
    """What is asked for, as one statement: which rows of a view, in which order, and what is made of each."""

    model: type[Row]
    view: View
    #: The fields that are read, and what makes of them what the caller gets.
    columns: tuple[str, ...]
    make: Callable[[dict[str, Any]], R]
    where: Q = field(default_factory=Q)
    order: tuple[str, ...] = ()
    start: int = 0
    stop: int | None = None
    #: Whether rows whose columns are the same are one.
    is_distinct: bool = False

    @property
    def is_sliced(self) -> bool:
        """Whether only a part is meant of what the condition finds."""
        return bool(self.start) or self.stop is not None

    @property
    def limit(self) -> int | None:
        """The most rows that there can be; None where that is not known."""
        return None if self.stop is None else max(self.stop - self.start, 0)

    def where_also(self, condition: Q) -> Self:
        """Return the query of those rows for which the condition holds too."""
        if self.is_sliced:
            raise TypeError("a slice cannot be filtered; filter first, then take the slice")
        condition.condition(Statement(self.view, DEFAULT_SCHEMA))  # what does not exist is said where it was written
        return replace(self, where=self.where & condition)

    def in_order(self, names: tuple[str, ...]) -> Self:
        """Return the query in the order of the fields; one with a minus is descending."""
        if self.is_sliced:
            raise TypeError("a slice cannot be put in another order; order first, then take the slice")
        for name in names:
            self.view.field_of(name.removeprefix("-"))
        return replace(self, order=names)

    def backwards(self) -> Self:
        """Return the query in the opposite order."""
        if self.is_sliced:
            raise TypeError("a slice cannot be read from its end; reverse the order first, then take the slice")
        return replace(self, order=tuple(name[1:] if name.startswith("-") else f"-{name}" for name in self._order()))

    def distinct(self) -> Self:
        """Return the query of rows that all differ."""
        if self.is_sliced:
            raise TypeError("of a slice nothing is left out; say distinct() first, then take the slice")
        return replace(self, is_distinct=True)

    def part(self, given: slice) -> Self:
        """Return the query of that part of the rows."""
        start, stop = given.start or 0, given.stop
        if given.step is not None or start < 0 or (stop is not None and stop < 0):
            raise ValueError("a slice counts from the first row on, one by one: [:10], [10:20]; to read from the end, reverse the order")
        ends = [end for end in (self.stop, None if stop is None else self.start + stop) if end is not None]
        return replace(self, start=self.start + start, stop=min(ends, default=None))

    def values(self, names: tuple[str, ...]) -> Query[dict[str, Any]]:
        """Return the query of these fields alone, all of the model's unless given."""
        names = names or self.columns
        texts = {name for name in names if self.view.field_of(name).as_text}

        def make(row: dict[str, Any]) -> dict[str, Any]:
            return {name: text_of(value) if name in texts and isinstance(value, bytes) else value for name, value in row.items()}

        return self._making(names, make)

    def values_list(self, names: tuple[str, ...], *, flat: bool, named: bool) -> Query[Any]:
        """Return the query of these fields as tuples, which have names if `named`; or if `flat` of the one field as it is."""
        if flat and (named or len(names) != 1):
            raise TypeError("flat is for one field, and for no names: values_list('task_id', flat=True)")
        values = self.values(names)
        tuple_of: Callable[[Iterable[Any]], Any] = namedtuple("Row", values.columns)._make if named else tuple  # type: ignore[attr-defined]  # mypy sees no names

        def make(row: dict[str, Any]) -> Any:
            found = values.make(row)
            return found[names[0]] if flat else tuple_of(found[name] for name in values.columns)

        return self._making(values.columns, make)

    def rows(self, schema: str) -> Question:
        """Return the statement that reads the rows, and its parameters."""
        statement = Statement(self.view, schema)
        what = self._what(statement) if self.is_distinct else statement.selected(self.columns)
        return self._of_these(statement, "rows", what=what, order=self._ordered(statement))

    def count(self, schema: str) -> Question:
        """Return the statement that counts them."""
        statement = Statement(self.view, schema)
        return self._of_these(statement, "number", what=self._what(statement))

    def exists(self, schema: str) -> Question:
        """Return the statement that says whether there are any."""
        statement = Statement(self.view, schema)
        return self._of_these(statement, "exists", what=self._what(statement))

    def aggregated(self, asked: Iterable[Aggregate], schema: str) -> Question:
        """Return the statement that reckons these of the rows; raise FieldError where one cannot be reckoned."""
        statement = Statement(self.view, schema)
        for one in asked:
            one.check(self.view)
        fields = dict.fromkeys(one.field for one in asked if one.field != ROWS)
        if self.is_distinct and (unread := fields.keys() - set(self.columns)):
            raise FieldError(f"distinct rows of {', '.join(self.columns)} have no {unread.pop()}; name it in values() as well")
        what = self._what(statement) if self.is_distinct else statement.selected(fields)
        columns = SQL(", ").join(one.column(statement) for one in asked)
        if not self.is_sliced:
            return self._of_these(statement, "aggregates", what=what, aggregates=columns)
        return self._of_these(statement, "aggregates of a slice", what=what, aggregates=columns, order=self._ordered(statement))

    def _making(self, columns: tuple[str, ...], make: Callable[[dict[str, Any]], S]) -> Query[S]:
        return Query(self.model, self.view, columns, make, self.where, self.order, self.start, self.stop, self.is_distinct)

    def _what(self, statement: Statement) -> Composable:
        """Return what tells rows apart that all differ; nothing where each row is one of its own."""
        return statement.piece("distinct", columns=statement.selected(self.columns)) if self.is_distinct else SQL("")

    def _order(self) -> tuple[str, ...]:
        """Return the whole order, so that it is the same each time: the key decides between equals, or all that rows which differ have."""
        if not self.is_distinct:
            return (*self.order, self.view.key)
        fields = {self.view.field_of(name) for name in self.columns}
        unread = [name for name in self.order if self.view.field_of(name.removeprefix("-")) not in fields]
        if unread and self.order != self.view.order:
            order = unread[0].removeprefix("-")
            raise FieldError(f"distinct rows of {', '.join(self.columns)} have no {order} to be put in the order of; name it in values()")
        return (*(name for name in self.order if name not in unread), *self.columns)

    def _ordered(self, statement: Statement) -> Composable:
        return statement.ordered_alone(self._order(), self.columns) if self.is_distinct else statement.ordered(self._order())

    def _of_these(self, statement: Statement, name: str, **parts: Composable) -> Question:
        whole = statement.piece(
            name,
            view=Identifier(self.view.name),
            condition=self.where.condition(statement),
            limit=statement.value(self.limit),
            start=statement.value(self.start),
            **parts,
        )
        return whole, statement.parameters

    def none_found(self) -> Exception:
        """Return the error that there is no such row."""
        return self.model.DoesNotExist(f"{self.view.name} has no row with {self.where!r}")

    def several_found(self) -> Exception:
        """Return the error that there is more than one."""
        return self.model.MultipleObjectsReturned(f"{self.view.name} has more than one row with {self.where!r}")
