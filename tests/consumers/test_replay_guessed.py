"""Tasks of which nobody has recorded how they were sent are sent as the app would today, where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result
from kombu import Exchange, Queue

from celery_journal.consumers import install
from celery_journal.consumers.chronicle import remark_on
from celery_journal.consumers.cli.main import main
from celery_journal.consumers.cli.target import AppTarget
from celery_journal.consumers.replay import CannotReplay, send_again
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskErased, TaskFailed, TaskReplayed, TaskSucceeded

from .conftest import NewApp
from .lostscene import Log
from .replayscene import begun, only, resumed
from .scene import Mailbox, recorded
from .test_foreign import taken
from .test_imported_arguments import TABLE, old

CALL: dict[str, Any] = {"name": "shop.add", "args": b"[1, 2]", "kwargs": b'{"user_id": 7}', "source": "django-celery-results"}
ADVICE = "it is not recorded how it was sent; --guess-routing sends it by its name and arguments, as this app would today"


def nothing(*_args: object, **_kwargs: object) -> None:
    """What a task does that nobody runs."""


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    """An app that knows the task, and sends it to a queue of its own."""
    app = install(make_app(**mailbox.conf, task_routes={"shop.*": {"queue": "mail", "priority": 3}}))
    app.task(nothing, shared=False, name="shop.add", ignore_result=True, time_limit=30, soft_time_limit=20, expires=600)
    return app


def test_without_the_option_it_is_refused_with_it(app: Celery, log: Log) -> None:
    """Where it would help: not where the name or the arguments are not known, or the payload was erased."""
    log.tell(TaskFailed, "old", **CALL)
    log.tell(TaskFailed, "text", **{**CALL, "args": b'"(1, ...)"'})
    log.tell(TaskFailed, "nameless", **{**CALL, "name": None})
    log.tell(TaskFailed, "bare")

    without = begun(log.connection, app, ["old", "text", "nameless", "bare", "nobody"]).run()
    guessing = begun(log.connection, app, ["text", "nameless", "bare", "nobody"], "r2", guess_routing=True).run()

    assert dict(without.refused) == {
        "old": ADVICE,
        "text": "it is not recorded how it was sent",
        "nameless": "it is not recorded how it was sent",
        "bare": "it is not recorded how it was sent",
        "nobody": "the journal knows no such task",
    }
    assert dict(guessing.refused) == {task_id: why for task_id, why in without.refused if task_id != "old"}


def test_the_app_says_how_it_is_sent(app: Celery, log: Log, mailbox: Mailbox, dsn: str) -> None:
    """Its routes, and the options of its task; with the arguments that are known, and a fact that says it was guessed."""
    log.tell(TaskFailed, "old", **CALL, periodic_task_name="nightly")

    summary = begun(log.connection, app, ["old"], guess_routing=True).run()

    message = only(mailbox)
    told = message.headers
    assert (summary.refused, summary.guessed) == ([], {"old": "mail"})
    assert (told["id"], told["task"], told["root_id"]) == (summary.sent["old"], "shop.add", summary.sent["old"])
    assert (told["timelimit"], told["ignore_result"], told["periodic_task_name"]) == ([30, 20], True, "nightly")
    assert told["expires"] is not None
    assert message.args == [1, 2]
    assert (message.properties["delivery_info"]["routing_key"], message.properties["priority"]) == ("mail", 3)
    (replayed,) = (place.event for place in recorded(dsn, "old") if isinstance(place.event, TaskReplayed))
    assert (replayed.guessed, replayed.task_id) == (True, summary.sent["old"])
    assert (
        remark_on(replayed) == f"sent again as {summary.sent['old']}, where the app sends it now (guessed) by alice@desk: the bank was down"
    )


def test_its_copy_is_recorded_and_sent_again_as_that(app: Celery, log: Log, mailbox: Mailbox, dsn: str) -> None:
    """Of the copy it is known how it was sent: nothing is guessed any more."""
    log.tell(TaskFailed, "old", **CALL)
    copy = begun(log.connection, app, ["old"], guess_routing=True).run().sent["old"]
    app.backend.buffer.flush()
    log.tell(TaskFailed, copy)

    again = begun(log.connection, app, ["old"], "again").run()

    assert (list(again.sent), again.guessed, again.refused) == ([copy], {}, [])


def test_what_has_succeeded_is_left_out_and_what_was_sent_is_not_sent_twice(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """As with every replay; a resumed one still knows that it may guess."""
    log.tell(TaskSucceeded, "fine", **CALL)
    log.tell(TaskFailed, "old", **CALL)
    replay = begun(log.connection, app, ["fine", "old"], guess_routing=True)
    first = replay.run()

    second = resumed(log.connection, app).run()

    assert (first.skipped, second.skipped) == ([("fine", "it has succeeded")],) * 2
    assert first.sent == second.sent
    only(mailbox)


def test_a_task_goes_by_its_exchange(make_app: NewApp, mailbox: Mailbox, log: Log) -> None:
    """A topic exchange with its routing key; and the default queue where nothing routes it."""
    queues = [Queue("work"), Queue("bills", Exchange("billing", "topic"), routing_key="bill.#")]
    routes = {"shop.add": {"queue": "bills", "routing_key": "bill.eu"}}
    app = install(make_app(**mailbox.conf, task_queues=queues, task_routes=routes))
    for name in ("shop.add", "shop.pack"):
        app.task(nothing, shared=False, name=name)
    log.tell(TaskFailed, "old", **CALL)
    log.tell(TaskFailed, "other", **{**CALL, "name": "shop.pack"})

    preview = begun(log.connection, app, ["old", "other"], guess_routing=True).preview()

    assert preview.guessed == {"old": "billing/bill.eu", "other": "work"}


def test_a_task_that_the_app_has_not_is_refused(app: Celery, log: Log) -> None:
    """And one whose router fails; in one sentence each, and the others are sent."""

    def route(name: str, *_args: object, **_more: object) -> None:
        if name == "shop.broken":
            raise RuntimeError("no route\nto it")

    app.conf.task_routes = [route]
    app.amqp.flush_routes()
    app.task(nothing, shared=False, name="shop.broken")
    log.tell(TaskFailed, "old", **CALL)
    log.tell(TaskFailed, "gone", **{**CALL, "name": "shop.gone"})
    log.tell(TaskFailed, "broken", **{**CALL, "name": "shop.broken"})

    summary = begun(log.connection, app, ["gone", "broken", "old"], guess_routing=True).run()

    assert dict(summary.refused) == {
        "gone": "this app has no task shop.gone, whose routing could be guessed; run it as: celery -A proj journal replay",
        "broken": "the app's routing of shop.broken fails: no route",
    }
    assert list(summary.sent) == ["old"]


def test_what_was_erased_is_not_guessed(app: Celery, log: Log) -> None:
    """Its arguments are gone."""
    log.tell(TaskFailed, "old", **CALL)
    log.tell(TaskErased, "old")

    summary = begun(log.connection, app, ["old"], guess_routing=True).run()

    assert summary.refused == [("old", "its payload was erased")]


def test_python_guesses_where_it_is_told_to(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """`replay(guess_routing=True)`."""
    log.tell(TaskFailed, "old", **CALL)

    with pytest.raises(CannotReplay, match="--guess-routing"):
        send_again(app.backend, "old")
    copy = send_again(app.backend, "old", guess_routing=True, set={"kwargs.user_id": 8})

    assert only(mailbox).headers["id"] == copy


def test_what_was_imported_is_replayed(app: Celery, log: Log, mailbox: Mailbox, tmp_path: Path) -> None:
    """From the tables of django-celery-results to the queue."""
    file = tmp_path / "django.db"
    with old(file) as tables:
        tables.execute(TABLE)
        tables.execute(
            """insert into django_celery_results_taskresult (task_id, status, content_type, content_encoding, date_done, task_name,
               task_args, task_kwargs) values ('old', 'FAILURE', 'application/json', 'utf-8', '2026-01-01 10:00:00', 'shop.add', ?, ?)""",
            ('"(1, 2)"', "\"{'user_id': 7}\""),
        )
    taken(log.connection, "django-celery-results", f"sqlite:///{file}")

    begun(log.connection, app, ["old"], guess_routing=True).run()

    assert only(mailbox).args == [1, 2]


def command(app: Celery, *arguments: str) -> Result:
    """Run `celery -A app journal replay`, where nobody is at a terminal."""
    return CliRunner().invoke(main.commands["replay"], list(arguments), obj=AppTarget(app))


def test_the_command_says_what_is_guessed(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """In the dry run, in JSON, and of what was sent."""
    for task_id in ("old", "older"):
        log.tell(TaskFailed, task_id, **CALL)

    refused = command(app, "old", "--dry-run")
    dry = command(app, "old", "older", "--guess-routing", "--dry-run")
    data = command(app, "old", "older", "--guess-routing", "--dry-run", "--json")
    sent = command(app, "old", "--guess-routing", "--yes", "--id", "r9")

    assert refused.stdout.splitlines() == ["would send 0 tasks", f"refused 1 task: {ADVICE}: old"]
    assert dry.stdout.splitlines()[:2] == ["would send 2 tasks", "of these 2 tasks by guessed routing to mail: old, older"]
    assert json.loads(data.stdout)["guessed"] == [{"task_id": "old", "to": "mail"}, {"task_id": "older", "to": "mail"}]
    assert sent.stdout.splitlines() == ["replay r9 of 1 task", "sent 1 task", "of these 1 task by guessed routing to mail: old"]


def test_the_question_says_what_is_guessed(app: Celery, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    asked: list[str] = []
    monkeypatch.setattr("celery_journal.consumers.cli.replay.confirm", lambda question, *_args, **_more: asked.append(question))
    log.tell(TaskFailed, "old", **CALL)

    command(app, "old", "--guess-routing")

    (question,) = asked
    assert question.startswith("would send 1 task\nof these 1 task by guessed routing to mail: old\n")
    assert question.endswith("\nreplay 1 task: old?")
