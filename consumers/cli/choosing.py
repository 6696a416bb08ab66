"""Commands that do something with tasks: which ones, for whom, and through which broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from celery_journal.consumers import search
from celery_journal.consumers.words import counted, listed, shown
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.constraints import MAX_ID_BYTES
from celery_journal.projections import ChordCounter, TaskResult
from celery_journal.projections.query import Q

from .capture import NO_BROKER
from .failure import Failure
from .ids import whole_ids
from .searching import condition_of, say_doubts, with_whole_ids

#: Ids that are looked up at once.
BATCH = 1000

#: Unknown ids that are named.
NAMED = 5

#: Seconds to wait for the broker.
TIMEOUT = 5.0


def choosing_options(command: Any) -> Any:
    """Give the command its tasks: the parameters `task_ids` and `words`."""
    words = click.option("--filter", "words", metavar="WORDS", help="The tasks that these query words find, as `list` has them.")
    return click.argument("task_ids", metavar="[TASK]...", nargs=-1)(words(command))


def chosen(connection: Connection, schema: str, task_ids: Sequence[str], words: str | None, also: Q | None = None) -> list[str]:
    """Return the ids that were named, each whole, and those of the tasks that the words find and for which `also` holds; each once."""
    if not task_ids and words is None:
        raise click.UsageError("no task is named; give ids, or --filter 'state:FAILURE since:2h'")
    if not all(0 < len(escape(one).encode()) <= MAX_ID_BYTES for one in task_ids):
        raise click.UsageError(f"no task has an id that is empty, or longer than {MAX_ID_BYTES:,} bytes; correct it")
    found: list[str] = []
    if words is not None:
        try:
            given = search.split(words)
        except search.BadQuery as exc:
            raise click.UsageError(str(exc)) from exc
        if not given:
            raise click.UsageError("--filter finds every task where it is empty; write words, such as 'state:FAILURE since:2h'")
        condition = condition_of(with_whole_ids(connection, schema, given))
        tasks = TaskResult.objects.using(connection, schema).filter(condition & (also or Q()))
        found = [row["task_id"] for row in tasks.values("task_id")]
        if not found:
            say_doubts(given)
    return list(dict.fromkeys([*whole_ids(connection, schema, task_ids), *found]))


def with_members(connection: Connection, schema: str, task_ids: Sequence[str], *, chords: bool = True) -> list[str]:
    """Return the ids, with its members in the place of a group; of one that is a chord only with `chords`."""
    tasks = TaskResult.objects.using(connection, schema)
    found: list[str] = []
    for start in range(0, len(task_ids), BATCH):
        part = task_ids[start : start + BATCH]
        known = {row["task_id"] for row in tasks.filter(task_id__in=part).values("task_id")}
        others = [one for one in part if one not in known]
        if not chords:
            known |= ChordCounter.get_many(connection, others, schema).keys()
        members: dict[str, list[str]] = {}
        for row in tasks.filter(group_id__in=[one for one in others if one not in known]).values("task_id", "group_id") if others else ():
            members.setdefault(row["group_id"], []).append(row["task_id"])
        for one in part:
            found += members.get(one) or [one]
    return list(dict.fromkeys(found))


def refuse_unknown(connection: Connection, journal: Journal, task_ids: Sequence[str], advice: str) -> None:
    """Raise a Failure that names those of the ids that the journal knows neither as tasks nor as bodies of chords that wait."""
    known = journal.known(connection, task_ids, tasks=True)
    others = [one for one in task_ids if one not in known]
    bodies = ChordCounter.all_objects.using(connection, journal.schema).filter(body_task_id__in=others)
    waiting = {row["body_task_id"] for row in bodies.values("body_task_id")} if others else set()
    unknown = [one for one in others if one not in waiting]
    if unknown:
        named = [shown(one) for one in unknown[:NAMED]]
        more = [f"{len(unknown) - NAMED} more"] if len(unknown) > NAMED else []
        raise Failure(f"the journal knows no task {' and none '.join((*named, *more))}; {advice}", 1)


def question(verb: str, task_ids: Sequence[str], told: Iterable[str] = ()) -> str:
    """Return what to ask before something is done with these tasks, with their whole ids: of some only the beginning was typed.

    Above it stands what is `told` of it, in lines.
    """
    return "\n".join([*told, f"{verb} {counted(len(task_ids), 'task')}: {listed([shown(one) for one in task_ids])}?"])


def broker_option(command: Any) -> Any:
    """Give the command --broker."""
    return click.option(
        "--broker",
        envvar=["CELERY_JOURNAL_BROKER", "CELERY_BROKER_URL"],
        help="The broker's URL, unless there is an app (celery -A proj journal ...).  [env: CELERY_JOURNAL_BROKER, CELERY_BROKER_URL]",
    )(command)


def app_of(target: Any, broker: str | None) -> Any:
    """Return the app through which to send; where there is none, one that knows the broker and the journal and nothing else."""
    if target.app is None and broker is None:
        raise click.UsageError("no broker is named; give --broker amqp://guest@localhost//, or run it as: celery -A proj journal ...")
    app = target.backend.app
    if broker is not None and broker != app.conf.broker_url:
        app.conf.update(broker_url=broker, broker_write_url=broker)
    try:
        _ = app.connection_for_write().transport
    except (KeyError, ValueError, ImportError) as exc:
        raise click.UsageError(f"the broker's URL cannot be used: {str(exc).strip().partition(chr(10))[0]}") from exc
    return app


@contextmanager
def broker_of(app: Any) -> Iterator[Any]:
    """A connection to the app's broker; where none answers, a Failure with exit code 7."""
    from celery_journal.consumers.replay import BrokerAway
    from celery_journal.consumers.replay.sender import in_one_sentence

    try:
        with app.connection_for_write(connect_timeout=TIMEOUT) as connection, in_one_sentence(connection):
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT)
            yield connection
    except BrokerAway as exc:
        raise Failure(str(exc), NO_BROKER) from exc
