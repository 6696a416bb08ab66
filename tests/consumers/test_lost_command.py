"""`celery-journal lost`: what it lists, marks and fails (F02)."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from billiard.exceptions import WorkerLostError
from celery import chord
from celery.exceptions import ChordError

from celery_journal.consumers.failing import fail_lost
from celery_journal.consumers.lost import find_lost, mark_lost
from celery_journal.journal import Connection
from celery_journal.journal.events import ChordPartReturned, ChordSizeSet, TaskStarted, TaskSucceeded
from celery_journal.journal.workers import WorkerOffline, WorkerOnline
from celery_journal.projections import verify

from .lostscene import GRACE, Log, pause
from .scene import Mailbox, ask, delivered, kinds
from .test_cli import as_url, command

NOW = ["--grace", "0.05"]


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def lose(log: Log) -> Any:
    """Have the task be with a worker that is gone."""

    def with_a_worker_that_goes(*task_ids: str, **fields: Any) -> None:
        log.online()
        for task_id in task_ids or ("t",):
            log.sent(task_id, **fields)
            log.started(task_id, **fields)
        log.offline()
        pause()

    return with_a_worker_that_goes


def test_nothing_lost_is_said_and_exit_code_0(log: Log, dsn: str) -> None:
    """Also in an empty journal, and with --mark and --fail, which ask nothing then."""
    for arguments in ([], ["--mark"], ["--fail"]):
        result = command("lost", *arguments, dsn=as_url(dsn))
        assert (result.returncode, result.stdout) == (0, "no task is lost\n")
    assert json.loads(command("lost", "--json", dsn=as_url(dsn)).stdout) == []


def test_what_is_lost_is_listed_with_its_reason(lose: Any, log: Log, dsn: str) -> None:
    """F02: exit code 1; names cannot write to the terminal; and nothing is changed."""
    lose("t", name="evil\x1b[2J")

    plain, as_json = command("lost", *NOW, dsn=as_url(dsn)), command("lost", *NOW, "--json", dsn=as_url(dsn))
    patient = command("lost", dsn=as_url(dsn))

    assert plain.returncode == as_json.returncode == 1
    assert plain.stdout.startswith("t: evil\\x1b[2J STARTED: started by w1, which went offline at ")
    (one,) = json.loads(as_json.stdout)
    assert (one["task_id"], one["cause"], one["worker"], one["marked"]) == ("t", "worker gone", "w1", False)
    assert patient.returncode == 0  # the default needs longer silence
    assert kinds(dsn, "t") == ["task-sent", "task-started"]


def test_mark_asks_and_marks(lose: Any, log: Log, dsn: str) -> None:
    """F02: unless --yes; --dry-run only says what it would do."""
    lose("t", "u")

    dry = command("lost", *NOW, "--mark", "--dry-run", dsn=as_url(dsn))
    unasked = command("lost", *NOW, "--mark", "--json", dsn=as_url(dsn))
    unanswered = command("lost", *NOW, "--mark", dsn=as_url(dsn))
    assert "task-lost" not in kinds(dsn, "t")
    marked = command("lost", *NOW, "--mark", "--yes", dsn=as_url(dsn))
    again = command("lost", *NOW, "--mark", "--yes", dsn=as_url(dsn))

    assert "\nwould mark 2 tasks\n" in dry.stdout
    assert (unasked.returncode, unasked.stdout) == (2, "")
    assert "say --yes or --dry-run" in unasked.stderr
    assert "\nmark 2 tasks: t, u?" in unanswered.stderr
    assert marked.stdout.endswith("marked 2 tasks\n")
    assert again.stdout.count("(marked)") == 2
    assert kinds(dsn, "t").count("task-lost") == 1
    assert marked.returncode == again.returncode == 1


def test_fail_ends_the_task_and_whoever_waits_hears_of_it(lose: Any, log: Log, dsn: str, app: Any) -> None:
    """F02: FAILURE with WorkerLostError and the reason, in the run that was lost; an ended task is left alone."""
    lose("t", "ended")
    log.tell(TaskSucceeded, "ended", worker="w1", run="r1")

    result = command("lost", *NOW, "--fail", "--yes", dsn=as_url(dsn))

    assert result.stdout.endswith("marked 1 task\nfailed 1 task\n"), result.stderr
    with pytest.raises(WorkerLostError, match="started by w1, which went offline at"):
        app.AsyncResult("t").get(timeout=10)
    assert kinds(dsn, "t") == ["task-sent", "task-started", "task-lost", "task-failed"]
    assert ask(dsn, b"select run, status, worker from celery_journal.task_attempt where task_id = 't'") == [("r1", "FAILURE", "w1")]
    assert kinds(dsn, "ended")[-1] == "task-succeeded"
    assert find_lost(log.connection, GRACE) == []
    assert verify(log.connection).differences == []


def test_what_was_marked_before_can_be_failed(lose: Any, log: Log, dsn: str, app: Any) -> None:
    """With the reason that it was marked with."""
    lose()
    command("lost", *NOW, "--mark", "--yes", dsn=as_url(dsn))

    result = command("lost", "--fail", "--yes", dsn=as_url(dsn))

    assert result.stdout.endswith("failed 1 task\n"), result.stderr
    assert str(app.AsyncResult("t").result).startswith("started by w1, which went offline at")
    assert ask(dsn, b"select run, status from celery_journal.task_attempt where task_id = 't'") == [("r1", "FAILURE")]


def test_a_task_that_was_heard_of_since_is_not_failed(lose: Any, log: Log, app: Any) -> None:
    """It was found, and then another worker had it."""
    lose()
    (found,) = find_lost(log.connection, GRACE)
    log.started(worker="w2", run="r2")

    assert fail_lost(app.backend, found) is False
    assert app.AsyncResult("t").state == "STARTED"


@pytest.mark.parametrize("tracked", [True, False])
def test_a_part_that_is_failed_ends_its_chord(log: Log, dsn: str, make_app: Any, mailbox: Mailbox, tracked: bool) -> None:
    """F02: with the chord as its message had it, or, where the sending was not recorded, as the chord itself was."""
    app = make_app(**mailbox.conf, result_backend_transport_options={"track_publish": "sync" if tracked else "off"})
    header = [app.signature("scene.add", args=(n, n)) for n in range(2)]
    body = app.signature("scene.sum")
    result = chord(header, app=app)(body)
    sent = {message.args[0]: message for message in mailbox.sent()}
    ids = [sent[n].id for n in range(2)]
    group_id = sent[0].headers["group"]
    app.backend.store_result(ids[0], 1, "SUCCESS", request=delivered(app, task_id=ids[0], group_id=group_id, group_index=0, chord=body))
    app.backend.on_chord_part_return(delivered(app, task_id=ids[0], group_id=group_id, group_index=0, chord=body), "SUCCESS", 1)
    log.tell(WorkerOnline, "w1", pid=1)
    log.tell(TaskStarted, ids[1], worker="w1", run="r1", group_id=group_id, group_index=1)
    log.tell(WorkerOffline, "w1", pid=1)
    pause()

    found = {one.task_id: one for one in find_lost(log.connection, GRACE)}
    assert set(found) == {ids[1], result.id}
    assert fail_lost(app.backend, found[ids[1]]) is True

    with pytest.raises(ChordError, match="WorkerLostError"):
        app.AsyncResult(result.id).get(timeout=10)
    assert kinds(dsn, group_id)[-1] == "chord-failed"
    assert find_lost(log.connection, GRACE) == []


def test_a_chord_whose_body_was_not_sent_is_failed(log: Log, dsn: str, make_app: Any, mailbox: Mailbox) -> None:
    """F02: by a claim, as its body would be sent; marked before or not."""
    app = make_app(**mailbox.conf)
    app.backend.apply_chord(("g", [app.AsyncResult("m0")]), app.signature("scene.sum", task_id="body"))
    log.tell(ChordSizeSet, "g", size=1)
    log.tell(ChordPartReturned, "g", task_id="m0", group_index=0, state="SUCCESS", result=b"1", content_type="application/json")
    pause()
    mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)

    result = command("lost", *NOW, "--fail", "--yes", dsn=as_url(dsn))

    assert result.stdout.endswith("failed 1 task\n"), result.stderr
    with pytest.raises(ChordError, match="nobody has sent it"):
        app.AsyncResult("body").get(timeout=10)
    assert kinds(dsn, "g")[-1] == "chord-failed"


def begun(app: Any, mailbox: Mailbox, log: Log) -> tuple[Any, str]:
    """A chord: one member has succeeded, and only the sweep tells of its part; the other is with a worker that goes. Body and member."""
    members = [app.signature("scene.add", args=(n, n)) for n in range(2)]
    body = app.signature("scene.sum").on_error(app.signature("scene.sorry"))
    result = chord(members, app=app)(body)
    sent = {message.args[0]: message for message in mailbox.sent()}
    request = delivered(app, task_id=sent[0].id, group_id=result.parent.id, group_index=0, chord=body)
    app.backend.store_result(sent[0].id, 1, "SUCCESS", request=request)
    log.online()
    log.started(sent[1].id, group_id=result.parent.id, group_index=1)
    log.offline()
    pause()
    app.backend.sweep_chords()
    return result, sent[1].id


QUICKLY = {"result_backend_transport_options": {"track_publish": "sync", "sweep_interval": 0.001}}


def test_a_member_that_is_failed_ends_its_chord_though_the_sweep_returned_another_part(
    log: Log, dsn: str, make_app: Any, mailbox: Mailbox
) -> None:
    """At once, by whoever fails it: what the sweep has returned is counted."""
    app = make_app(**mailbox.conf, **QUICKLY)
    result, member = begun(app, mailbox, log)
    (found,) = (one for one in find_lost(log.connection, GRACE) if one.task_id == member)

    assert fail_lost(app.backend, found)

    assert kinds(dsn, result.parent.id)[-1] == "chord-failed"


def test_a_chord_that_is_failed_names_the_member_that_has_failed(log: Log, dsn: str, make_app: Any, mailbox: Mailbox) -> None:
    """Also where its member was failed a moment before, and nobody has ended the chord yet; its error callback is called once."""
    app = make_app(**mailbox.conf, **QUICKLY)
    result, member = begun(app, mailbox, log)
    found = {one.task_id: one for one in find_lost(log.connection, GRACE)}
    with psycopg.connect(dsn, autocommit=True) as other:
        part = app.backend.emitter.emit(
            ChordPartReturned, result.parent.id, task_id=member, group_index=1, state="FAILURE", **error_of(app, "cut off")
        )
        log.journal.append(other, part)

    assert fail_lost(app.backend, found[result.id])
    assert not fail_lost(app.backend, found[result.id])

    with pytest.raises(ChordError, match=f"Dependency {member} raised WorkerLostError.*cut off"):
        app.AsyncResult(result.id).get(timeout=10)
    assert [kind for kind in kinds(dsn, result.id) if kind == "task-failed"] == ["task-failed"]
    assert kinds(dsn, result.parent.id).count("chord-failed") == 1
    assert [message.task for message in mailbox.sent()].count("scene.sorry") == 1


def error_of(app: Any, text: str) -> dict[str, Any]:
    """What a part says that has failed with that."""
    result = app.backend.encode(app.backend.encode_result(WorkerLostError(text), "FAILURE"))
    return {"result": result.encode(), "content_type": "application/json", "content_encoding": "utf-8"}


def test_the_mark_of_a_body_is_no_sign_that_it_was_sent(log: Log, make_app: Any, mailbox: Mailbox) -> None:
    """The sweep sends it all the same when its claim is taken over."""
    app = make_app(**mailbox.conf, result_backend_transport_options={"sweep_interval": 0.001, "chord_lease": 0.001})
    app.backend.apply_chord(("g", [app.AsyncResult("m0")]), app.signature("scene.sum", task_id="body"))
    log.tell(ChordSizeSet, "g", size=1)
    log.tell(
        ChordPartReturned,
        "g",
        task_id="m0",
        group_index=0,
        state="SUCCESS",
        result=b"1",
        content_type="application/json",
        content_encoding="utf-8",
    )
    log.connection.execute("select celery_journal.claim_chord('g', 0, 'who died', '0.001 s')")
    pause()
    assert [one.task_id for one in mark_lost(log.connection, find_lost(log.connection, GRACE), log.journal, log.emitter)] == ["body"]

    assert app.backend.sweep_chords() == ["g"]

    assert [message.id for message in mailbox.sent()] == ["body"]


def test_error_callbacks_are_called_where_the_app_is_known(log: Log, make_app: Any, mailbox: Mailbox) -> None:
    """F02: with what the message had; `celery-journal lost --fail` knows no broker, `celery -A proj journal lost --fail` does."""
    app = make_app(**mailbox.conf, result_backend_transport_options={"track_publish": "sync"})
    result = app.signature("scene.add", args=(1, 2)).apply_async(link_error=app.signature("scene.sorry"))
    log.online()
    log.started(result.id)
    log.offline()
    pause()
    (found,) = find_lost(log.connection, GRACE)

    assert fail_lost(app.backend, found)

    assert [message.task for message in mailbox.sent()].count("scene.sorry") == 1


def test_help_has_an_example_and_the_exit_code() -> None:
    """Of each of these commands."""
    for name in ("stale", "lost", "explain"):
        result = command(name, "--help")
        assert result.returncode == 0
        assert f"\n  celery-journal {name}" in result.stdout
        assert "Exit code 1 if" in result.stdout


@pytest.mark.parametrize("grace", ["0", "-1", "soon"])
def test_bad_input_is_one_sentence(dsn: str, grace: str) -> None:
    """And exit code 2."""
    result = command("lost", "--grace", grace, dsn=as_url(dsn))

    assert (result.returncode, result.stdout) == (2, "")
    assert "Invalid value for '--grace'" in result.stderr
    assert "Traceback" not in result.stderr
