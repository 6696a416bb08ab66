"""The command that sends recorded tasks again."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click
from rich.console import Console
from rich.progress import Progress

from celery_journal.consumers.capture.control import account
from celery_journal.consumers.words import counted, listed, shown
from celery_journal.journal import Emitter, Journal, check_version
from celery_journal.journal.command import command

from .capture import NO_BROKER
from .choosing import app_of, broker_option, choosing_options, chosen, question, with_members
from .failure import Failure
from .output import Output, confirm, confirming_options, output_options
from .plan import Plan, broker_place, place_of, typed_broker

if TYPE_CHECKING:
    from celery_journal.consumers.replay import Record, Replay, Summary

_RATE = re.compile(r"[0-9]+(\.[0-9]+)?(/[smh])?")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _checked_rate(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not _RATE.fullmatch(value) or float(value.partition("/")[0]) == 0):
        raise click.BadParameter("write 50/s, 100/m or 1000/h")
    return value


def _checked_id(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _ID.fullmatch(value):
        raise click.BadParameter("take up to 100 letters, digits, points, hyphens and underscores")
    return value


@click.command("replay")
@choosing_options
@click.option("--set", "edits", metavar="PLACE=VALUE", multiple=True, help="Change an argument: kwargs.amount=3, args.0=5. Repeatable.")
@click.option("--same-id", is_flag=True, help="Send under the same ids, not under new ones.")
@click.option("--also-succeeded", is_flag=True, help="Also what has succeeded, or has since.")
@click.option("--also-unfinished", is_flag=True, help="Also what has not ended.")
@click.option("--guess-routing", is_flag=True, help="Also what nobody recorded the sending of, as this app would send it today.")
@click.option("--rate", callback=_checked_rate, metavar="RATE", help="No faster than that: 50/s, 100/m.")
@click.option("--reason", help="Why, for the log.")
@click.option("--id", "replay_id", callback=_checked_id, help="A name for the replay.  [default: a new one]")
@click.option("--resume", metavar="ID", help="Go on with the replay of that id, which was interrupted.")
@click.option("--resend-doubtful", is_flag=True, help="Also what may have been sent, by this replay or another; it may run twice.")
@broker_option
@confirming_options
@output_options
@click.pass_context
def replay(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    words: str | None,
    edits: tuple[str, ...],
    same_id: bool,
    also_succeeded: bool,
    also_unfinished: bool,
    guess_routing: bool,
    rate: str | None,
    reason: str | None,
    replay_id: str | None,
    resume: str | None,
    resend_doubtful: bool,
    broker: str | None,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Send recorded tasks again, as they were published, under new ids. Exit code 1 if not all could be, 130 if interrupted.

    \b
    What has succeeded is left out, also where it has since, or in an earlier replay. A failed
    chain goes on from its failed step. A chord is begun anew with the failed tasks of its header;
    name it by one of them, by its group or by its body. Of a task and its replays that failed too
    the last is sent. No task is sent twice in one replay, however often that is interrupted
    (Ctrl-C waits for the batch) and resumed. Where a broker went away and nobody can know whether
    it has a task, that is listed, and not sent again, by another replay neither: RabbitMQ has
    transactions and can tell nearly always; Redis where the message still waits.

    \b
    celery -A shop journal replay --filter 'state:FAILURE name:billing.* since:2h' --reason "bank was down"
    celery -A shop journal replay 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e --set kwargs.amount=3
    """
    from celery_journal.consumers.replay import INTERRUPTED, BrokerAway, Order, Record, Replay, ReplayRefused, Wishes, begin

    target = ctx.obj
    if resume and (
        task_ids or words is not None or edits or same_id or also_succeeded or also_unfinished or guess_routing or reason or replay_id
    ):
        raise click.UsageError("--resume goes on as it was begun; only --rate, --broker and --resend-doubtful can be given with it")
    wishes = Wishes(edits, same_id, also_succeeded, also_unfinished, resend_doubtful, guess_routing, rate, words)
    app, journal, emitter = app_of(target, broker), Journal(target.schema), Emitter()
    try:
        with target.connect() as connection:
            check_version(connection, target.schema)
            if resume:
                record = Record.of(connection, journal, resume)
                asked = record.order.wishes
                wishes = replace(asked, rate=rate or asked.rate, also_doubtful=resend_doubtful or asked.also_doubtful)
                record.order = replace(record.order, wishes=wishes)
            else:
                found = chosen(connection, target.schema, task_ids, words)
                planned = with_members(connection, target.schema, found, chords=False)
                record = Record(Order(replay_id or uuid4().hex, wishes, account(), reason), planned=planned)
            task = Replay(connection, journal, app, record, emitter)
            if not record.planned and not dry_run:
                output.said(_as_object(task.preview()), "no task is found")
                return
            if not _agreed(task, "resume" if resume else "replay", output, yes=yes, dry_run=dry_run):
                return
            if not resume:
                begin(connection, journal, emitter, record.order, record.planned)
            _say(f"replay {record.order.replay_id} of {counted(len(record.planned), 'task')}", output)
            with _progress(record, "replaying") as task.on_progress, _interruptible() as task.is_stopped:
                summary = task.run(resend_doubtful=resend_doubtful)
    except ReplayRefused as exc:
        raise click.UsageError(str(exc)) from exc
    except BrokerAway as exc:
        raise Failure(f"{exc}; when it is back: {_resuming(record.order.replay_id)}", NO_BROKER) from exc
    finally:
        app.backend.database.close()
    _report(summary, output)
    if summary.stopped == INTERRUPTED:
        ctx.exit(130)
    if summary.stopped or summary.refused or summary.doubtful:
        ctx.exit(1)


def _agreed(task: Replay, verb: str, output: Output, *, yes: bool, dry_run: bool) -> bool:
    """Return whether it is to be done, after what would become of all is told to who is to agree, or to who asked for nothing else."""
    if yes and not dry_run:
        return True
    with _progress(task.record, "looking") as task.on_progress:
        preview = task.preview()
    plan = Plan(place_of(task.connection, task.journal.schema), preview.going, broker_place(task.app))
    if dry_run:
        _report(preview, output, plan)
        return False
    told = [*_lines(preview, "would send"), *plan.lines()]
    return confirm(question(verb, task.record.planned, told), output, yes=False, dry_run=False)


def _say(text: str, output: Output) -> None:
    click.echo(text, err=output.is_data)


def _report(summary: Summary, output: Output, plan: Plan | None = None) -> None:
    """Print what has become of all; or, of a preview with its plan, what would."""
    if output.is_data:
        output.object(_as_object(summary, plan))
        return
    for line in _lines(summary, "would send" if plan else "sent"):
        click.echo(line)
    if plan:
        plan.say_dry()
    if summary.stopped:
        left = counted(summary.left, "task is", "tasks are")
        click.echo(f"stopped, {summary.stopped}; {left} left: {_resuming(summary.replay_id)}")
    elif summary.doubtful:
        click.echo(f"to send them after all: {_resuming(summary.replay_id)} --resend-doubtful")


def _resuming(replay_id: str) -> str:
    """Return the command that goes on with a replay."""
    return command(f"replay --resume {replay_id}{typed_broker()}")


def _lines(summary: Summary, verb: str) -> Iterator[str]:
    """Yield how many there are of each kind, with the reasons."""
    yield f"{verb} {counted(len(summary.sent), 'task')}"
    for way, ids in _guessed(summary).items():
        yield f"of these {counted(len(ids), 'task')} by guessed routing to {shown(way)}: {listed(ids)}"
    if summary.along:
        yield f"{counted(summary.along, 'more goes', 'more go')} along with these, in their chains and chords"
    for become, told in (("skipped", summary.skipped), ("refused", summary.refused)):
        for why in dict.fromkeys(why for _, why in told):
            ids = [shown(task_id) for task_id, reason in told if reason == why]
            yield f"{become} {counted(len(ids), 'task')}: {why}: {listed(ids)}"
    if summary.doubtful:
        yield f"in doubt {counted(len(summary.doubtful), 'task')}, which may have been sent or not:"
        yield from (f"  {shown(task_id)}" for task_id in summary.doubtful)


def _guessed(summary: Summary) -> dict[str, list[str]]:
    """Return the tasks whose sending nobody had recorded, by where they go."""
    found: dict[str, list[str]] = {}
    for task_id, way in summary.guessed.items():
        if task_id in summary.sent:
            found.setdefault(way, []).append(shown(task_id))
    return found


def _as_object(summary: Summary, plan: Plan | None = None) -> dict[str, Any]:
    return {
        **({"plan": plan.as_dict()} if plan else {}),
        "replay": summary.replay_id,
        "dry_run": plan is not None,
        "planned": summary.planned,
        "sent": [{"task_id": old, "replayed_as": new} for old, new in summary.sent.items()],
        "guessed": [{"task_id": old, "to": way} for old, way in summary.guessed.items() if old in summary.sent],
        "along": summary.along,
        "skipped": [{"task_id": task_id, "reason": why} for task_id, why in summary.skipped],
        "refused": [{"task_id": task_id, "reason": why} for task_id, why in summary.refused],
        "in_doubt": summary.doubtful,
        "stopped": summary.stopped,
        "left": summary.left,
    }


@contextmanager
def _progress(record: Record, verb: str) -> Iterator[Callable[[int], None]]:
    """What shows how far it is, on a terminal."""
    console = Console(stderr=True)
    # Nothing else is printed meanwhile; and where Ctrl-C comes in the middle of its start, it would leave standard error redirected.
    bars = Progress(console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False, redirect_stderr=False)
    with bars as progress:
        bar = progress.add_task(verb, total=len(record.planned))
        yield lambda done: progress.update(bar, completed=done)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """What says whether Ctrl-C was pressed, which ends nothing by itself; the second time it does."""
    pressed: list[int] = []

    def note(number: int, _frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(pressed)
    finally:
        for number, was in before.items():
            signal.signal(number, was)
