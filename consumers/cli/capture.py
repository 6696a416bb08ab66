"""The command that captures Celery's broadcast."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click
from amqp import AccessRefused, NotAllowed, PreconditionFailed  # type: ignore[import-untyped]
from celery import Celery
from rich.console import Console

from celery_journal.consumers.backend.admission import check_rights
from celery_journal.consumers.backend.sweeper import Sweeper
from celery_journal.consumers.broadcast import Broker, Capture, Recorder, Unrecorded
from celery_journal.consumers.broadcast.presence import Presence
from celery_journal.consumers.broadcast.progress import Progress
from celery_journal.consumers.sweeping import sweeping
from celery_journal.journal import Connection, DatabaseUnreachable, Journal, JournalError, LoginRefused, check_version

from .failure import Failure
from .spans import Seconds
from .target import AppTarget, Target

DEFAULT_QUEUE = "celery-journal.capture"

#: The exit code where no broker answers.
NO_BROKER = 7


@click.command("capture")
@click.option(
    "--broker",
    envvar=["CELERY_JOURNAL_BROKER", "CELERY_BROKER_URL"],
    help="The broker's URL; as `celery -A proj journal capture` it is that of the app.  [env: CELERY_JOURNAL_BROKER, CELERY_BROKER_URL]",
)
@click.option(
    "--queue", default=DEFAULT_QUEUE, show_default=True, help="The queue that the events wait in; captures of one queue share the work."
)
@click.option("--exchange", help="The exchange of the events: the app's `event_exchange`.  [default: celeryev]")
@click.option(
    "--quorum",
    is_flag=True,
    help="Make a quorum queue: RabbitMQ keeps what waits there when it restarts, but may lose the last events of a worker that ends.",
)
@click.option("--batch", default=2000, show_default=True, type=click.IntRange(1, 5000), help="Messages a transaction at most.")
@click.option(
    "--linger",
    default=0.5,
    show_default=True,
    type=Seconds(0, 10),
    help="Seconds to wait for what is told first-hand.",
)
@click.option("--once", "--drain", "once", is_flag=True, help="End when the queue is empty.")
@click.pass_obj
def capture(
    target: Target, broker: str | None, queue: str, exchange: str | None, quorum: bool, batch: int, linger: float, once: bool
) -> None:
    """Record what workers broadcast (`celery worker -E`) that do not load celery-journal, whatever their Celery.

    \b
    RabbitMQ    a durable queue keeps every event until it is recorded, also while
                no capture runs; captures of one queue share the work. Celery sends
                events as transient messages: a restart of RabbitMQ loses those that
                wait, except in a quorum queue.
    Redis       keeps nothing: what is broadcast while no capture runs is lost.
    filesystem  a folder keeps every event while no capture runs; one that is
                killed loses what it has just read.

    What a worker broadcasts that journals by itself is recorded as a witness, not twice. SIGTERM ends the capture when all is
    recorded that it has read.

    \b
    celery-journal --dsn postgresql://me@localhost/app capture --broker amqp://guest@localhost//
    celery -A proj journal capture
    """
    app = _app(target, broker, exchange)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"celery-journal capture: {text}", markup=False, highlight=False, soft_wrap=True)

    try:
        source = Broker(app, queue, prefetch=2 * batch, is_quorum=quorum)
    except Exception as exc:
        raise click.UsageError(f"the broker's URL cannot be used: {str(exc).strip().partition(chr(10))[0]}") from exc
    _check_database(target, once)
    journal = Journal(target.schema, max_payload_bytes=target.options.max_payload_bytes)
    recorder = Recorder(journal, app=app if app is target.app else None)
    capture = Capture(source, recorder, target.connect, batch=batch, linger=linger, once=once, say=say)
    _check_broker(source, once)
    say(f"reading {source.url}: {source.guarantee}")
    presence = Presence(capture, recorder.journal, target.connect, target.options.heartbeat_interval)
    with Progress(capture, console) as progress, _stopping(capture), presence, _sweeping(target, capture):
        capture.on_turn = progress.shown
        try:
            capture.run()
        except Unrecorded as exc:
            raise Failure("the database stayed away, and what was read from the broker is lost", DatabaseUnreachable.exit_code) from exc
    say(progress.summary())


def _app(target: Target, broker: str | None, exchange: str | None) -> Celery:
    """Return the app that this is run for, or one that knows the broker and the journal and nothing else."""
    app = target.app
    if app is None or (broker is not None and broker != app.conf.broker_url):
        if broker is None:
            raise click.UsageError("no broker is named; give --broker amqp://guest@localhost//, or run: celery -A proj journal capture")
        app = Celery("celery-journal-capture", broker=broker, set_as_current=False)
        app.conf.update(broker_connection_timeout=4, task_ignore_result=True)
    if exchange is not None:
        app.conf.event_exchange = exchange
    return app


def _check_database(target: Target, once: bool) -> None:
    """Refuse a journal that cannot be written to; one that does not answer is waited for, unless there is no time for that."""
    try:
        with target.connect() as connection:
            check_version(connection, target.schema)
            check_rights(connection, target.schema)
    except (DatabaseUnreachable, LoginRefused) as exc:
        if once or not (isinstance(exc, DatabaseUnreachable) or exc.may_pass):
            raise


def _check_broker(source: Broker, once: bool) -> None:
    """Refuse a broker that refuses us; one that does not answer is waited for, unless there is no time for that."""
    try:
        source.declare()
    except (AccessRefused, NotAllowed) as exc:
        raise Failure(f"the broker at {source.url} refuses the login or the virtual host; correct the URL", NO_BROKER) from exc
    except PreconditionFailed as exc:
        raise Failure("the queue is there already, of another type; give --quorum or not, as before, or another --queue", 2) from exc
    except source.errors as exc:
        if once:
            reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
            raise Failure(f"no broker answers at {source.url}: {reason}", NO_BROKER) from exc
    finally:
        source.close()


@contextmanager
def _stopping(capture: Capture) -> Iterator[None]:
    """Have the signals stop the capture during the block."""
    before = {number: signal.signal(number, lambda *_: capture.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _sweeping(target: Target, capture: Capture) -> Iterator[None]:
    """Have what is lost marked during the block; and the chords completed that a crash left open, if the app is known whose they are."""
    if isinstance(target, AppTarget):
        sweeper = Sweeper(target.backend)
        sweeper.start()
        try:
            yield
        finally:
            sweeper.stop()
        return

    def connect() -> Connection:
        if capture.is_behind or capture.trouble:
            raise JournalError("what was broadcast is not all recorded yet")
        return target.connect()

    # Not the chords: their bodies are sent as the app is configured, of which nothing is known here.
    with sweeping(connect, capture.recorder.journal, target.options):
        yield
