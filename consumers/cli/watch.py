"""The command that tells others what goes wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import click

from celery_journal.consumers import search
from celery_journal.consumers.alerts import (
    KINDS,
    Delivery,
    Execution,
    Facts,
    Kind,
    Queues,
    Spooled,
    Undelivered,
    Watcher,
    Webhook,
    Workers,
)
from celery_journal.consumers.spool import spool_of
from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Journal, Subscription
from celery_journal.projections import Q

from .failure import Failure
from .interrupts import Interruption, until_interrupted
from .lasting import LastingConnection
from .searching import condition_about, say_doubts
from .spans import Seconds

#: It names a file, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def _kinds(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[Kind, ...]:
    given = {word.strip() for word in value.split(",")}
    if unknown := [shown(word) for word in sorted(given - set(KINDS))]:
        raise click.BadParameter(f"there is no {', '.join(map(repr, unknown))}; choose of {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in given)


def _check_name(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise click.BadParameter("a name is up to 64 letters, digits, hyphens and underscores, and begins with a letter or a digit")
    return value


@click.command("watch")
@click.option(
    "--exec",
    "command",
    envvar="CELERY_JOURNAL_WATCH_EXEC",
    metavar="COMMAND",
    help="Run this for each alert, which is on its standard input as JSON; its main fields are in CELERY_JOURNAL_ALERT_... as well.",
)
@click.option(
    "--webhook",
    "url",
    envvar="CELERY_JOURNAL_WATCH_WEBHOOK",
    metavar="URL",
    help="Post each alert to this URL as JSON.  [env: CELERY_JOURNAL_WATCH_WEBHOOK, where `ps` does not show it]",
)
@click.option("--on", "kinds", default=",".join(KINDS), show_default=True, callback=_kinds, help="What is told.")
@click.option("--filter", "words", metavar="WORDS", help="Of failures and lost tasks, those that the words find, as `list` has them.")
@click.option("--queue-age", default="5min", show_default=True, type=Seconds(1), help="How long the oldest task of a queue may wait.")
@click.option("--every", default="30s", show_default=True, type=Seconds(0.1, 3600), help="How often to look at queues, workers and spool.")
@click.option("--timeout", default="30s", show_default=True, type=Seconds(0.1, 3600), help="How long a command or a server may take.")
@click.option("--name", default="watch", show_default=True, callback=_check_name, help="The subscription; each has a place of its own.")
@click.option("--from-start", is_flag=True, help="At the first start begin with the oldest fact of the log, not with what comes now.")
@click.option("--once", is_flag=True, help="Make one pass and end, as for cron.")
@click.pass_obj
def watch(
    target: Any,
    command: str | None,
    url: str | None,
    kinds: tuple[Kind, ...],
    words: str | None,
    queue_age: float,
    every: float,
    timeout: float,
    name: str,
    from_start: bool,
    once: bool,
) -> None:
    """Tell others by a command or a webhook what goes wrong.

    \b
    failure    a task has failed, and is not tried again
    lost       a task will not go on by itself
    queue-age  the oldest task of a queue has waited for too long
    heartbeat  a worker has missed a heartbeat, or is gone
    spool      facts of this machine wait for the database

    The first two are read from the log in its order, each once and none skipped; the others are told when they begin and when they are
    resolved. A later start goes on where the last one was, though that was killed. What could not be delivered is tried again.

    \b
    celery-journal watch --exec 'mail -s "Celery" ops@example.com'
    CELERY_JOURNAL_WATCH_WEBHOOK=https://chat.example.com/hooks/x celery -A proj journal watch
    """
    deliveries = _deliveries(command, url, timeout)
    spool = spool_of(target.location, target.schema, target.options.spool) if target.options.spool != "" else None

    with until_interrupted() as interruption:
        watcher = Watcher(
            Subscription(Journal(target.schema), name),
            deliveries,
            Facts(tuple(kind for kind in kinds if kind in {"failure", "lost"}), name, target.schema, _condition(target, words)),
            Queues(timedelta(seconds=queue_age), target.schema) if "queue-age" in kinds else None,
            Workers(target.schema) if "heartbeat" in kinds else None,
            Spooled(spool) if spool is not None and "spool" in kinds else None,
            every,
            _say,
            _pausing(interruption),
            once,
            from_start,
            greeting="" if once else f"{name} tells {', '.join(kinds)} to {' and '.join(one.where for one in deliveries)}",
        )

        def meanwhile() -> None:
            watcher.pause(0)
            watcher.look_here()

        try:
            watcher.look_here()  # the database may be away
            with closing(LastingConnection(target, _say, meanwhile, waits=not once)) as lasting:
                watcher.run(lasting.ask)
        except Undelivered as exc:
            raise Failure(f"{exc}; the next run goes on with that alert", 1) from exc
        finally:
            _say(f"{counted(watcher.delivered, 'alert')} delivered")


def _deliveries(command: str | None, url: str | None, timeout: float) -> list[Delivery]:
    """Return how alerts are delivered; raise click.UsageError, without a word of the URL, if that cannot be."""
    if command is None and url is None:
        raise click.UsageError("nobody is named to be told; give --exec COMMAND, --webhook URL, or both")
    found: list[Delivery] = []
    try:
        if command is not None:
            found.append(Execution.of(command, timeout))
    except ValueError as exc:
        raise click.UsageError(f"--exec cannot be read: {exc}; write it as in a shell") from exc
    try:
        if url is not None:
            found.append(Webhook.of(url, timeout))
    except ValueError as exc:
        raise click.UsageError(f"--webhook cannot be used: {exc}; write it as https://host/path") from None
    return found


def _condition(target: Any, words: str | None) -> Q | None:
    if not words:
        return None
    try:
        given = search.split(words)
    except search.BadQuery as exc:
        raise click.UsageError(str(exc)) from exc
    condition = condition_about(target, given)
    say_doubts(given)
    return condition


def _pausing(interruption: Interruption) -> Callable[[float], object]:
    def pause(seconds: float) -> None:
        with interruption.waiting():
            time.sleep(seconds)

    return pause


def _say(text: str) -> None:
    click.echo(f"celery-journal watch: {text}", err=True)
