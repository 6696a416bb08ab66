"""`watch` tells others what goes wrong: each kind of alert, to a command and to a web server, and what refuses is tried again."""

from __future__ import annotations

import base64
import json
import re
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers.alerts import Facts, Watcher, Webhook, Workers
from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Emitter, Subscription
from celery_journal.journal.events import TaskFailed, TaskForgotten, TaskLost, TaskRetried, TaskSucceeded
from tests.roles import with_roles

from .commanding import Commands, Ended
from .lostscene import Log, ago
from .proxy import Proxy
from .receiving import Notebook, Receiver, Told, receiving
from .scene import until
from .test_cli import as_url
from .test_lasting import line_of, running

TRACEBACK = 'Traceback (most recent call last):\n  File "shop.py", line 3, in charge\n    raise ValueError\nValueError: above the limit'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path)


@pytest.fixture
def once(log: Log, commands: Commands, embedded_database: str, spool_folder: Path) -> Callable[..., Ended]:
    """Makes one pass of `watch`, as cron would, when all that was recorded can be read."""

    def run(*arguments: str) -> Ended:
        (recorded,) = log.connection.execute("select count(*) from celery_journal.event").fetchone() or (0,)
        until(lambda: len(log.journal.read_all(log.connection)) == recorded)
        return commands.run("watch", "--once", *arguments, dsn=as_url(embedded_database), CELERY_JOURNAL_SPOOL=str(spool_folder))

    return run


def fail(log: Log, task_id: str, name: str = "shop.charge", **fields: Any) -> None:
    """Have a task fail for good, as its worker tells it."""
    log.sent(task_id, queue="mail", name=name)
    log.tell(TaskFailed, task_id, **{"worker": "w1@shop", "run": f"run of {task_id}", "traceback": TRACEBACK, **fields})


def summary(told: list[Told]) -> list[tuple[str, str]]:
    return [(one["kind"], one["event"]) for one in told]


# What is told


def test_each_final_failure_is_told_once_with_what_is_known_of_it(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """Not what was retried, nor what came before the first start; and what is told has the id of its fact."""
    fail(log, "before")
    first = once("--webhook", receiver.url)
    log.tell(TaskRetried, "retried", traceback=TRACEBACK)
    log.tell(TaskSucceeded, "well", name="app.send")
    fail(log, "t1")

    passes = [once("--webhook", receiver.url), once("--webhook", receiver.url)]

    (told,) = receiver.told
    (fact,) = [one.event for one in log.journal.read_stream(log.connection, "t1") if one.event.kind == "task-failed"]
    group = told["task"].pop("group")
    assert told == {
        "id": str(fact.event_id),
        "kind": "failure",
        "event": "happened",
        "episode": str(fact.event_id),
        "at": fact.occurred_at.isoformat().replace("+00:00", "Z"),
        "text": "shop.charge t1 has failed: ValueError: above the limit",
        "watch": "watch",
        "task": {
            "task_id": "t1",
            "name": "shop.charge",
            "queue": "mail",
            "worker": "w1@shop",
            "root_id": None,
            "parent_id": None,
            "group_id": None,
            "attempt": 0,
            "error": "ValueError: above the limit",
            "traceback": TRACEBACK,
        },
    }
    assert len(group) == 12
    assert [(ended.code, ended.out, ended.err) for ended in (first, *passes)] == [
        (0, "", "celery-journal watch: 0 alerts delivered\n"),
        (0, "", "celery-journal watch: 1 alert delivered\n"),
        (0, "", "celery-journal watch: 0 alerts delivered\n"),
    ]


def test_a_hard_time_limit_is_one_failure(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """Celery stores it twice. Another run of the task, or another attempt, may fail as well."""
    once("--webhook", receiver.url)
    fail(log, "t1")
    log.tell(TaskFailed, "t1", worker="w1@shop", run="run of t1", traceback="TimeLimitExceeded: 10")
    once("--webhook", receiver.url)
    log.tell(TaskFailed, "t1", worker="w1@shop", run="run of t1", traceback="TimeLimitExceeded: 10")
    log.tell(TaskFailed, "t1", worker="w1@shop", run="another", traceback="ValueError: again")
    log.tell(TaskFailed, "t1", worker="w1@shop", run="another", attempt=1, traceback="ValueError: and again")

    once("--webhook", receiver.url)

    assert [one["task"]["error"] for one in receiver.told] == ["ValueError: above the limit", "ValueError: again", "ValueError: and again"]


def test_what_is_lost_is_told_with_its_reason(log: Log, notebook: Notebook, once: Callable[..., Ended]) -> None:
    """To a command: as JSON on its standard input, and in variables of the environment."""
    once("--exec", notebook.command)
    log.sent("t1", queue="mail", name="shop.mail")
    log.tell(TaskLost, "t1", reason="started by w1, which is gone")

    ended = once("--exec", notebook.command)

    ((alert, variables, words),) = notebook.notes
    assert (ended.code, words) == (0, ["--channel", "on call"])
    assert (alert["kind"], alert["task"]["reason"]) == ("lost", "started by w1, which is gone")
    assert variables == {
        "CELERY_JOURNAL_ALERT_ID": alert["id"],
        "CELERY_JOURNAL_ALERT_KIND": "lost",
        "CELERY_JOURNAL_ALERT_EVENT": "happened",
        "CELERY_JOURNAL_ALERT_EPISODE": alert["id"],
        "CELERY_JOURNAL_ALERT_AT": alert["at"].replace("Z", "+00:00"),
        "CELERY_JOURNAL_ALERT_TEXT": "shop.mail t1 is lost: started by w1, which is gone",
        "CELERY_JOURNAL_ALERT_WATCH": "watch",
        "CELERY_JOURNAL_ALERT_TASK_ID": "t1",
        "CELERY_JOURNAL_ALERT_NAME": "shop.mail",
        "CELERY_JOURNAL_ALERT_REASON": "started by w1, which is gone",
        "CELERY_JOURNAL_ALERT_QUEUE": "mail",
    }


def test_a_queue_that_is_too_old_is_told_until_it_is_no_more(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """When it begins and when it is resolved, at half of the age; each with the id of the episode. Then another may begin."""

    def look() -> list[tuple[str, str]]:
        once("--webhook", receiver.url, "--on", "queue-age", "--queue-age", "10min")
        return summary(receiver.told)

    log.sent("old", occurred_at=ago(700))
    began = look()
    log.sent("older", occurred_at=ago(900))
    lasting = look()
    for task_id in ("old", "older"):
        log.tell(TaskSucceeded, task_id)
    log.sent("young", occurred_at=ago(400))
    not_yet = look()
    log.tell(TaskSucceeded, "young")
    resolved = look()
    log.sent("again", occurred_at=ago(700))

    assert began == lasting == not_yet == [("queue-age", "began")]
    assert resolved == [*began, ("queue-age", "resolved")]
    assert look() == [*resolved, ("queue-age", "began")]
    first, over, second = receiver.told
    assert first["episode"] == over["episode"] != second["episode"]
    assert len({one["id"] for one in receiver.told}) == 3
    assert re.fullmatch(r"the oldest task of queue mail waits for 1\d min( \d+ s)?; 1 waiting, 0 running, 0 workers", first["text"])
    assert over["began_at"] == first["at"]
    assert over["text"].startswith("resolved after ")
    assert (second["queue"]["queue"], second["queue"]["waiting"], second["queue"]["oldest"] > 700) == ("mail", 1, True)


def test_a_worker_that_misses_heartbeats_is_told_until_it_is_back_or_goes(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """Late and then gone is one episode; one that has said that it goes has missed nothing."""
    silent = "update celery_journal.worker_row set last_seen = clock_timestamp() - %s where worker = %s"
    for worker in ("w1", "w2", "w3"):
        log.online(worker, freq=100)

    def look(**seconds: int) -> list[tuple[str, str]]:
        for worker, number in seconds.items():
            log.connection.execute(silent, (timedelta(seconds=number), worker))
        before = len(receiver.told)
        once("--webhook", receiver.url, "--on", "heartbeat")
        return [(one["worker"]["worker"], one["event"]) for one in receiver.told[before:]]

    looks = [look(), look(w1=240, w2=3600), look(w1=3600)]
    log.beat("w1", freq=100)
    log.offline("w2")
    looks += [look(), look()]

    assert looks == [[], [("w1", "began"), ("w2", "began")], [], [("w1", "resolved"), ("w2", "resolved")], []]
    assert re.fullmatch(r"worker w1 has missed a heartbeat: last heard of 4 min( \d+ s)? ago", receiver.told[0]["text"])
    assert [one["worker"].get("state") for one in receiver.told[:2]] == ["late", "gone"]


def test_what_waits_in_the_spool_of_the_machine_is_told(
    log: Log, receiver: Receiver, once: Callable[..., Ended], embedded_database: str, spool_folder: Path
) -> None:
    """Until it is drained."""
    dsn = as_url(embedded_database)
    spool = spool_of(dsn, "celery_journal", spool_folder)
    once("--webhook", receiver.url)
    spool.put(packed(Emitter().emit(TaskSucceeded, "t")))
    once("--webhook", receiver.url)
    once("--webhook", receiver.url)
    waiting = receiver.told[-1]["spool"]["waiting"]
    spool.settle(spool.first(), {})

    once("--webhook", receiver.url)
    once("--webhook", receiver.url)

    assert summary(receiver.told) == [("spool", "began"), ("spool", "resolved")]
    assert (waiting, receiver.told[0]["episode"]) == (1, receiver.told[1]["episode"])
    assert not list(spool_folder.glob("*.watch"))


def test_only_what_was_chosen_is_told(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """By kind, and failures by query words, and each watch by itself; a task that has left the views may be any, and is told."""
    narrow = ("--webhook", receiver.url, "--on", "failure,lost", "--filter", "name:shop.* -name:shop.mail", "--name", "shop")
    once(*narrow)
    once("--webhook", receiver.url, "--on", "lost", "--name", "losses")
    fail(log, "mine")
    fail(log, "mail", name="shop.mail")
    fail(log, "theirs", name="app.send")
    fail(log, "gone")
    log.tell(TaskForgotten, "gone")
    log.tell(TaskLost, "theirs", reason="gone")
    log.tell(TaskLost, "mine", reason="gone")

    once(*narrow)
    of_shop = [(one["kind"], one["task"]["task_id"]) for one in receiver.told]
    once("--webhook", receiver.url, "--on", "lost", "--name", "losses")

    assert of_shop == [("failure", "mine"), ("failure", "gone"), ("lost", "mine")]
    assert [(one["watch"], one["task"]["task_id"]) for one in receiver.told[3:]] == [("losses", "theirs"), ("losses", "mine")]


def test_the_past_is_told_if_asked_for_at_the_first_start(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """And not at a later one: the same words may stand in a unit of systemd."""
    fail(log, "t1")
    fail(log, "t2")

    for _ in range(2):
        once("--webhook", receiver.url, "--from-start")

    assert [one["task"]["task_id"] for one in receiver.told] == ["t1", "t2"]


def test_whatever_users_write_arrives_as_json(log: Log, receiver: Receiver, notebook: Notebook, once: Callable[..., Ended]) -> None:
    """NUL, half of a surrogate, escape sequences: in names, errors and ids; and a traceback of megabytes is cut at its beginning."""
    evil = "a\0b\ud800\x1b[2Jü"
    once("--webhook", receiver.url, "--exec", notebook.command)
    fail(log, evil, name=evil, worker=evil, traceback=f"{'x' * 3_000_000}\nValueError: {evil}")

    ended = once("--webhook", receiver.url, "--exec", notebook.command)

    assert (ended.code, receiver.told) == (0, notebook.told)
    (alert, variables, _) = notebook.notes[0]
    assert len(alert["task"]["traceback"]) < 21_000
    assert all(char.isprintable() for value in (alert["text"], *variables.values()) for char in value)
    assert "ü" in variables["CELERY_JOURNAL_ALERT_ERROR"]


# Who does not take it


@pytest.mark.parametrize("answer", [500, 404, 302, 307])
def test_what_is_refused_is_told_again_until_it_is_taken(answer: int, log: Log, receiver: Receiver, embedded_database: str) -> None:
    """In its order, with a sentence each time, and growing pauses; what leads elsewhere is a refusal, too."""
    with running("watch", "--webhook", receiver.url, "--on", "failure", dsn=as_url(embedded_database)) as process:
        line_of(process.stderr)
        receiver.answers[:] = [answer, answer]
        for task_id in ("t1", "t2"):
            fail(log, task_id)
        until(lambda: len(receiver.told) == 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)

    assert [one["task"]["task_id"] for one in receiver.told] == ["t1", "t2"]
    assert [path for path, _ in receiver.requests] == ["/"] * 4
    lines = err.splitlines()
    assert [line.partition("; ")[0] for line in lines[:2]] == [
        f"celery-journal watch: {receiver.url}... answers {answer} {receiver_phrase(answer)}" for _ in range(2)
    ]
    assert [line.rpartition(" in ")[2] for line in lines[:2]] == ["1 s", "2 s"]
    assert (process.returncode, out, lines[2:]) == (0, "", ["celery-journal watch: 2 alerts delivered"])


def receiver_phrase(answer: int) -> str:
    import http.client

    return http.client.responses[answer]


def test_who_has_taken_it_is_not_told_again_because_another_has_not(
    log: Log, receiver: Receiver, notebook: Notebook, embedded_database: str
) -> None:
    """Of a command and a web server."""
    told = ("--webhook", receiver.url, "--exec", notebook.command, "--on", "failure")
    with running("watch", *told, dsn=as_url(embedded_database)) as process:
        line_of(process.stderr)
        with notebook.refusing():
            fail(log, "t1")
            assert "note it ended with exit code 3; failure " in line_of(process.stderr)
        until(lambda: notebook.told)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert (process.returncode, receiver.told) == (0, notebook.told)
    assert len(receiver.told) == 1


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        pytest.param(["--exec", "/nowhere/at-all"], "/nowhere/at-all cannot be run: No such file or directory", id="no command"),
        pytest.param(["--exec", "false"], "false ended with exit code 1", id="exit code"),
        pytest.param(["--exec", "sleep 100", "--timeout", "0.2"], "sleep has not ended within 200 ms, and was killed", id="hangs"),
        pytest.param(["--exec", "sh -c 'kill -9 $$'"], "sh was killed by signal 9", id="killed"),
        pytest.param(["--webhook", "http://127.0.0.1:1/"], "http://127.0.0.1:1/... cannot be reached: Connection refused", id="nobody"),
        pytest.param(["--webhook", "http://nowhere.invalid/"], "http://nowhere.invalid/... cannot be reached: ", id="no such host"),
    ],
)
def test_a_pass_that_cannot_deliver_ends_and_the_next_goes_on(
    way: list[str], sentence: str, log: Log, notebook: Notebook, once: Callable[..., Ended]
) -> None:
    """With exit code 1 and a sentence; nothing is skipped."""
    once(*way)
    fail(log, "t1")

    ended = once(*way)
    once("--exec", notebook.command)

    assert ended.code == 1
    assert f"Error: {sentence}" in ended.err
    assert "; the next run goes on with that alert\n" in ended.err
    assert [one["task"]["task_id"] for one in notebook.told] == ["t1"]


def test_a_server_that_does_not_answer_in_time_has_not_taken_it(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """It gets the alert again, with the same id."""
    once("--webhook", receiver.url)
    fail(log, "t1")
    receiver.may_answer.clear()

    ended = once("--webhook", receiver.url, "--timeout", "0.3")
    receiver.may_answer.set()
    once("--webhook", receiver.url)

    assert (ended.code, "does not answer within 300 ms" in ended.err) == (1, True)
    assert [one["id"] for one in receiver.told] == [receiver.told[0]["id"]] * 2
    assert {headers["Idempotency-Key"] for _, headers in receiver.requests} == {receiver.told[0]["id"]}


# What is secret


def test_nothing_of_the_url_but_its_host_is_ever_shown(
    log: Log, receiver: Receiver, once: Callable[..., Ended], commands: Commands, embedded_database: str
) -> None:
    """User and password are in a header, as they are meant. The URL may be in the environment, where `ps` does not show it."""
    host = receiver.url.removeprefix("http://").rstrip("/")
    url = f"http://me%40shop:pass%2Fword@{host}/services/SECRET?token=SECRET#SECRET"
    said = [once("--webhook", url)]
    for task_id, answers in (("t1", [500]), ("t2", [404])):
        fail(log, task_id)
        receiver.answers[:] = answers
        said += [once("--webhook", url), commands.run("watch", "--once", dsn=as_url(embedded_database), CELERY_JOURNAL_WATCH_WEBHOOK=url)]

    (path, headers) = receiver.requests[0]
    assert path == "/services/SECRET?token=SECRET"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'me@shop:pass/word').decode()}"
    assert [ended.code for ended in said] == [0, 1, 0, 1, 0]
    assert not [secret for secret in ("SECRET", "pass", "me%40", "me@") if secret in "".join(ended.said for ended in said)]
    assert f"http://{host}/... answers 500 Internal Server Error" in said[1].err
    assert said[-1].err == "celery-journal watch: 1 alert delivered\n"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:SECRET@host/SECRET",
        "file:///etc/SECRET",
        "SECRET",
        "https://",
        "https://me:SECRET@/SECRET",
        "https://host:SECRET/",
        "https://[::SECRET/",
        "https://host/SE CRET",
        "https://host/SECRET\n",
        "https://me:12/SECRET@host/",
        "https://SECRET#SECRET@host/",
        "https://höst/SECRET",
        "https://a..b/SECRET",
        f"https://{'x' * 70}.org/SECRET",
        "https://host:99999/SECRET",
        "",
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence_without_a_word_of_it(url: str, once: Callable[..., Ended]) -> None:
    """Before anything is looked at."""
    ended = once("--webhook", url)

    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("Error: --webhook cannot be used: ")
    assert not [secret for secret in ("SECRET", "me:") if secret in ended.said]


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param([], "nobody is named to be told; give --exec COMMAND, --webhook URL, or both", id="nobody"),
        pytest.param(["--exec", ""], "--exec cannot be read: no command is named", id="empty"),
        pytest.param(["--exec", "mail 'x"], "--exec cannot be read: No closing quotation", id="quote"),
        pytest.param(["--exec", "true", "--on", "failure,fire"], "there is no 'fire'; choose of failure, lost, queue-age", id="kind"),
        pytest.param(["--exec", "true", "--on", ""], "there is no ''; choose of failure, lost, queue-age", id="no kind"),
        pytest.param(["--exec", "true", "--name", "../x"], "a name is up to 64 letters, digits, hyphens", id="name"),
        pytest.param(["--exec", "true", "--filter", "colour:red"], "there is no colour:", id="word"),
        pytest.param(["--exec", "true", "--filter", "name:'x"], "a quotation mark is missing", id="words"),
        pytest.param(["--exec", "true", "--queue-age", "soon"], "'soon' is no span of time; write 10s, 30min", id="span"),
        pytest.param(["--exec", "true", "--every", "0"], "0.0 is not in the range 0.1<=x<=3600", id="too often"),
        pytest.param(["--exec", "true", "--timeout", "nan"], "'nan' is no span of time", id="not a number"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments: list[str], sentence: str, once: Callable[..., Ended]) -> None:
    """Exit code 2."""
    ended = once(*arguments)

    assert ended.code == 2
    assert sentence in ended.err
    assert "Traceback" not in ended.err


def test_who_may_only_read_is_told_what_is_missing(log: Log, commands: Commands, embedded_database: str) -> None:
    """A watch keeps its place in the database; an auditor may."""
    with with_roles(embedded_database, watch_reader="reader", watch_auditor="auditor"):
        dsns = {login: as_url(make_conninfo(embedded_database, user=login)) for login in ("watch_reader", "watch_auditor")}
        reader, auditor = (commands.run("watch", "--once", "--exec", "true", dsn=dsn) for dsn in dsns.values())
        taken = commands.run("watch", "--once", "--exec", "true", dsn=as_url(embedded_database))
        log.connection.execute("update celery_journal.subscription set owner = 'postgres'")
        refused = commands.run("watch", "--once", "--exec", "true", dsn=dsns["watch_auditor"])
        name = conninfo_to_dict(embedded_database)["dbname"]

    assert reader.code == 4
    assert "permission denied for table subscription, and that is where a watch keeps its place" in reader.err
    assert f"grant celery_journal_auditor_{name} to watch_reader" in reader.err
    assert (auditor.code, taken.code) == (0, 0)
    assert (refused.code, "was begun by another login" in refused.err) == (1, True)


def test_what_another_subscriber_remembers_is_left_alone(log: Log, once: Callable[..., Ended]) -> None:
    """One sentence, and nothing is told."""
    log.connection.execute("insert into celery_journal.subscription (name, transaction, position, state) values ('watch', '0', 0, '\\x00')")

    ended = once("--exec", "true")

    assert ended.code == 1
    assert "take another --name" in ended.err
    assert log.connection.execute("select state from celery_journal.subscription").fetchall() == [(b"\0",)]


# Outages


def test_it_outlasts_an_outage_of_the_database_and_skips_nothing(
    log: Log, receiver: Receiver, embedded_database: str, spool_folder: Path
) -> None:
    """It begins while that is away, too; and what this machine spools meanwhile is told at once, and that it is over."""
    proxy = Proxy(embedded_database)
    dsn, port = proxy.dsn, int(conninfo_to_dict(proxy.dsn)["port"] or 0)
    proxy.close()
    told = ("--webhook", receiver.url, "--on", "failure,spool", "--every", "0.2")
    with running("watch", *told, dsn=dsn) as process:
        away = line_of(process.stderr)
        spool = spool_of(dsn, "celery_journal", spool_folder)
        spool.put(packed(Emitter().emit(TaskSucceeded, "t")))
        until(lambda: receiver.of("spool"))
        proxy = Proxy(embedded_database, port)
        until(lambda: log.connection.execute("select from celery_journal.subscription").rowcount == 1)
        fail(log, "before")
        until(lambda: receiver.of("failure"))

        proxy.close()
        fail(log, "meanwhile")
        spool.settle(spool.first(), {})
        until(lambda: len(receiver.of("spool")) == 2)
        proxy = Proxy(embedded_database, port)
        until(lambda: len(receiver.of("failure")) == 2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    proxy.close()

    assert re.fullmatch("celery-journal watch: no PostgreSQL answers at .*; waiting for it\n", away)
    back, begun, away_again, back_again, delivered = (line.removeprefix("celery-journal watch: ") for line in err.splitlines())
    assert begun == f"watch tells failure, spool to {receiver.url}..."
    assert away_again.startswith("the database went away: ")
    assert {back, back_again} == {"the database is back"}
    assert [one["task"]["task_id"] for one in receiver.of("failure")] == ["before", "meanwhile"]
    assert summary(receiver.of("spool")) == [("spool", "began"), ("spool", "resolved")]
    assert (process.returncode, delivered) == (0, "4 alerts delivered")


def test_a_pass_tells_of_the_spool_though_the_database_is_away(receiver: Receiver, commands: Commands, spool_folder: Path) -> None:
    """Before it says that, as every command does; and the next does not tell it again."""
    dsn = "postgresql://me@127.0.0.1:1/app"
    spool_of(dsn, "celery_journal", spool_folder).put(packed(Emitter().emit(TaskSucceeded, "t")))

    passes = [commands.run("watch", "--once", "--webhook", receiver.url, dsn=dsn, CELERY_JOURNAL_SPOOL=str(spool_folder)) for _ in range(2)]

    assert [(ended.code, "no PostgreSQL answers at " in ended.err) for ended in passes] == [(3, True), (3, True)]
    assert summary(receiver.told) == [("spool", "began")]


@pytest.mark.parametrize("settling", [pytest.param(30.0, id="not settled"), pytest.param(0.0, id="settled")])
def test_workers_are_not_judged_as_long_as_an_outage_may_be_why(
    settling: float, log: Log, receiver: Receiver, embedded_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have said of themselves meanwhile is on its way."""
    monkeypatch.setattr("celery_journal.consumers.alerts.watcher.SETTLING", settling)
    log.online("w1")
    log.connection.execute("update celery_journal.worker_row set last_seen = clock_timestamp() - interval '1 hour'")
    pauses = iter(range(6))

    def pause(seconds: float) -> None:
        if seconds and next(pauses) == 5:
            raise KeyboardInterrupt

    with psycopg.connect(embedded_database, autocommit=True) as before, psycopg.connect(embedded_database, autocommit=True) as after:
        watcher = Watcher(
            Subscription(log.journal, "watch"),
            [Webhook.of(receiver.url, 10)],
            Facts((), "watch"),
            None,
            Workers(),
            None,
            every=0,
            say=lambda _: None,
            pause=pause,
        )
        watcher._mine = before  # an earlier connection, which is gone
        before.close()
        with pytest.raises(KeyboardInterrupt):
            watcher.run(lambda question: question(after))

    assert summary(receiver.told) == ([] if settling else [("heartbeat", "began")])


def test_it_ends_when_told_to_though_the_database_is_away(log: Log) -> None:
    """Ctrl-C and SIGTERM, as with everything that goes on by itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with running("watch", "--exec", "true", dsn="postgresql://me@127.0.0.1:1/app") as process:
            line_of(process.stderr)
            process.send_signal(number)
            out, _ = process.communicate(timeout=60)

        assert (process.returncode, out) == (0, "")


def test_it_is_stored_in_a_form_that_people_can_read(log: Log, receiver: Receiver, once: Callable[..., Ended]) -> None:
    """What is open stands beside the place in the log, as JSON."""
    log.sent("old", occurred_at=ago(700))
    once("--webhook", receiver.url)

    ((state,),) = log.connection.execute("select convert_from(state, 'UTF8') from celery_journal.subscription").fetchall()

    (episode,) = json.loads(state)["open"]
    assert (episode["kind"], episode["subject"], episode["id"]) == ("queue-age", "mail", receiver.told[0]["episode"])
