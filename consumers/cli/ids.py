"""Ids as people type them: whole, or their beginning where that is enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from celery_journal import sql
from celery_journal.consumers.words import shown
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape

#: Characters that it takes at least, of an id that is not typed whole.
SHORTEST = 4

#: Ids that are named where several begin so.
NAMED = 5

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def whole_id(connection: Connection, schema: str, typed: str) -> str:
    """Return the id that was typed, whole: see `whole_ids`."""
    (found,) = whole_ids(connection, schema, [typed])
    return found


def whole_ids(connection: Connection, schema: str, typed: Sequence[str]) -> list[str]:
    """Return the ids that were typed, whole, in the place of the beginning of one: of a task, a saved group or a chord in the views.

    What is an id as it stands is that one, also where it left the views; what begins none is left as it is. Raises click.UsageError, which
    names them, where several begin so.
    """
    beginnings = {one for one in typed if len(one) >= SHORTEST} - _known(connection, schema, typed)
    whole = {one: _begun_by(connection, schema, one) for one in sorted(beginnings)}
    left = Journal(schema).known(connection, [one for one, found in whole.items() if found])
    for one, begun in whole.items():
        if len(begun) > 1 and one not in left:
            number = _NUMBERS.get(len(begun), f"more than {_NUMBERS[NAMED]}")
            raise click.UsageError(f"{shown(one)} begins {number}: {', '.join(map(shown, begun[:NAMED]))}")
    return [found[0] if (found := whole.get(one)) and one not in left else one for one in typed]


def _known(connection: Connection, schema: str, typed: Iterable[str]) -> set[str]:
    """Return those that are ids as they stand."""
    given = {escape(one): one for one in typed}
    rows = connection.execute(sql.query("ids.sql", "whole", schema), {"ids": list(given)})
    return {given[found] for (found,) in rows}


def _begun_by(connection: Connection, schema: str, beginning: str) -> list[str]:
    """Return the ids that begin so, and no more than are named and one."""
    parameters = {"beginning": escape(beginning), "most": NAMED + 1}
    # Only a plan that is made for this very beginning is a range of the indexes.
    rows = connection.execute(sql.query("ids.sql", "beginning", schema), parameters, prepare=False)
    return [found for (found,) in rows]
