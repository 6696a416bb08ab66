"""What commands tell before they do something with tasks: which by name and queue, where, and the whole command to go on with."""

from __future__ import annotations

import json
import shlex

import pytest

from celery_journal.journal.events import TaskSent, TaskStarted
from celery_journal.journal.workers import WorkerOffline

from .commanding import Commands
from .lostscene import Log
from .replayscene import failed
from .test_cli import as_url

#: As it is typed, and as it is told.
BROKER, TOLD = "amqp://night@rabbit.example:5673/shop", "amqp://night:**@rabbit.example:5673/shop"

#: Commands that do something with the tasks that they find, what each is asked, and the line above the question.
COMMANDS = [
    pytest.param(["replay", "--filter", "state:FAILURE", "--broker", BROKER], "replay 3 tasks: ", TOLD, id="replay"),
    pytest.param(["revoke", "--filter", "name:shop.pack", "--broker", BROKER], "revoke 1 task: ", TOLD, id="revoke"),
    pytest.param(["annotate", "--filter", "name:shop.*", "--note", "it's the bank"], "annotate 4 tasks: ", None, id="annotate"),
    pytest.param(["lost", "--grace", "0.001", "--fail"], "fail 1 task: ", None, id="lost"),
]


@pytest.fixture
def night(log: Log) -> Log:
    """Two charges and a mail that have failed, and a parcel that is lost."""
    for task_id, name, queue in (("c1", "shop.charge", "bank"), ("c2", "shop.charge", "bank"), ("m1", "shop.mail", "mail")):
        log.journal.append(log.connection, *failed(log.emitter, task_id, queue, name=name))
    log.tell(TaskSent, "p1", name="shop.pack", queue="bank")
    log.tell(TaskStarted, "p1", name="shop.pack", queue="bank", worker="w1", run="r1")
    log.tell(WorkerOffline, "w1")
    return log


@pytest.mark.parametrize(("arguments", "question", "broker"), COMMANDS)
def test_the_question_says_what_and_where(
    arguments: list[str], question: str, broker: str | None, night: Log, commands: Commands, embedded_database: str
) -> None:
    """Each name with its queue, the most frequent first; the database, the schema and the broker."""
    asked = commands.run(*arguments, dsn=as_url(embedded_database), terminal=True, interrupt_at="[y/N]")

    *above, last = asked.text[: asked.text.index(" [y/N]")].splitlines()
    assert last.startswith(question)
    assert above[-1].startswith("in journal_")
    assert above[-1].endswith(f", schema celery_journal{f', by {broker}' if broker else ''}")
    if arguments[0] == "replay":
        assert above[-4].endswith("would send 3 tasks")
        assert above[-3:-1] == ["  2 shop.charge in bank", "  1 shop.mail in mail"]
    assert asked.code == 130


@pytest.mark.parametrize(("arguments", "question", "broker"), COMMANDS)
def test_a_dry_run_ends_with_the_command_that_does_it(
    arguments: list[str], question: str, broker: str | None, night: Log, commands: Commands, embedded_database: str
) -> None:
    """As it was typed, quotation marks too, so that it can be typed again; and the same as data."""
    dry = commands.run("--dsn", as_url(embedded_database), *arguments, "--dry-run")
    data = json.loads(commands.run(*arguments, "--dry-run", "--json", dsn=as_url(embedded_database)).out)

    *_, last = dry.out.splitlines()
    assert shlex.split(last.removeprefix("to do so: ")) == ["celery-journal", "--dsn", as_url(embedded_database), *arguments]
    if isinstance(data, dict):  # `lost` lists what is lost
        assert data["plan"]["broker"] == broker
        assert {one["name"] for one in data["plan"]["tasks"]} <= {"shop.charge", "shop.mail", "shop.pack"}


def test_no_password_is_in_it(night: Log, commands: Commands, embedded_database: str) -> None:
    """Neither the broker's, nor the database's: what has an account is cut, and what was read from the environment is not typed."""
    url = as_url(embedded_database).replace("@", ":s3cret@", 1)
    dry = commands.run("--dsn", url, "replay", "c1", "--broker", "amqp://night:s3cret@rabbit.example//", "--dry-run")

    assert "would send 1 task" in dry.out
    assert dry.out.endswith("to do so: celery-journal replay c1 --broker amqp://...\n")
    assert "by amqp://night:**@rabbit.example" in dry.out
    assert "s3cret" not in dry.said


def test_a_dry_run_that_finds_nothing_advises_nothing(night: Log, commands: Commands, embedded_database: str) -> None:
    """There is nothing to do."""
    dry = commands.run("annotate", "--filter", "name:nobody.*", "--note", "x", "--dry-run", dsn=as_url(embedded_database))

    assert dry.out == "would annotate 0 tasks\n"
