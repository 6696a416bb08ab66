"""Workers that start after somebody has revoked a task: they know it from the journal."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery, chord
from celery.exceptions import ChordError, TaskRevokedError
from celery.utils.collections import LimitedSet
from celery.worker import state

from celery_journal.consumers.backend.revokes import Revokes, remember, revokes_of
from celery_journal.consumers.capture.control import BY_STAMPS, REVOKES
from celery_journal.journal import Emitter, Journal
from celery_journal.journal.events import Event, OperatorActed, TaskReceived, TaskRevoked, TaskSent, TaskStarted, TaskSucceeded
from tests.conftest import require

from .scene import kinds, new_app, recorded, row, until, url_of
from .servers import unused_port
from .workers import Worker, available, remove_queues, settings, working

#: Seconds to wait for what must come: only a test that fails waits so long.
PATIENCE = 60

#: Seconds that Celery's workers remember a revoke.
EXPIRES = 10_800.0

NOW = datetime.now(UTC)

#: A kind, its stream, how many hours ago it was, and what it says.
Fact = tuple[type[Event], str, float, dict[str, Any]]


@dataclass(slots=True)
class Scene:
    """An app that sends, and workers on its queue that come and go."""

    broker: str
    dsn: str
    folder: Path
    token: str
    app: Celery

    def working(self, *arguments: str, **conf: Any) -> Any:
        """A worker with a name of its own, which leaves the queue as it is."""
        return working(self.broker, url_of(self.dsn), self.dsn, self.folder, *arguments, token=self.token, keeps_queues=True, **conf)

    def signature(self, name: str, *args: Any, **stamps: Any) -> Any:
        """The signature of a task, stamped so."""
        signature = self.app.signature(f"scene.{name}", args=args)
        if stamps:
            signature.stamp(**stamps)
        return signature


@pytest.fixture(params=["rabbitmq", "redis", "filesystem"])
def scene(request: pytest.FixtureRequest, embedded_database: str, tmp_path: Path) -> Iterator[Scene]:
    """No worker runs."""
    require(request.param, available(request.param))
    yield from made(request.param, embedded_database, tmp_path)


@pytest.fixture
def one_scene(embedded_database: str, tmp_path: Path) -> Iterator[Scene]:
    """The same with any broker."""
    yield from made(next(name for name in ("rabbitmq", "redis", "filesystem") if available(name)), embedded_database, tmp_path)


def made(broker: str, dsn: str, folder: Path) -> Iterator[Scene]:
    """A scene on the broker, of which nothing is left."""
    token = f"scene-{uuid4().hex[:8]}"
    app = new_app(url_of(dsn), **settings(broker, folder / token, token))
    yield Scene(broker, dsn, folder, token, app)
    remove_queues(app, broker, token)
    app.backend.database.close()
    app.close()


def revoked_by(dsn: str, task_id: str) -> list[str | None]:
    """Which workers say that they have revoked it."""
    return [place.event.worker for place in recorded(dsn, task_id) if isinstance(place.event, TaskRevoked) and place.event.worker]


def test_a_task_that_was_revoked_while_no_worker_ran_is_not_run(scene: Scene) -> None:
    """Scaled to zero: by its id, and as a member of a chord, whose body ends; what was not revoked runs."""
    revoked, other = scene.signature("add", 1, 1).apply_async(), scene.signature("add", 1, 2).apply_async()
    body = chord([scene.signature("add", 1, number) for number in range(2)], app=scene.app)(scene.signature("collect"))
    revoked.revoke()
    body.parent.results[1].revoke()

    with scene.working() as worker:
        assert other.get(timeout=PATIENCE) == 3
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=PATIENCE)
        until(lambda: body.state == "FAILURE", PATIENCE)
        until(lambda: revoked_by(scene.dsn, revoked.id), PATIENCE)

    assert isinstance(body.result, ChordError)
    assert " tasks and 0 stamps that were revoked before" in worker.said()
    assert "task-started" not in kinds(scene.dsn, revoked.id)


def test_a_task_that_was_revoked_by_its_stamp_while_no_worker_ran_is_not_run(one_scene: Scene) -> None:
    """Nor one that was sent afterwards, as a worker that heard it would have it."""
    scene = one_scene
    revoked, other = scene.signature("add", 1, 1, customer="c7").apply_async(), scene.signature("add", 1, 2, customer="c8").apply_async()
    scene.app.control.revoke_by_stamped_headers({"customer": ["c7"]})
    later = scene.signature("add", 1, 3, customer="c7").apply_async()

    with scene.working():
        assert other.get(timeout=PATIENCE) == 3
        assert [type(one.get(timeout=PATIENCE, propagate=False)) for one in (revoked, later)] == [TaskRevokedError] * 2

    assert "task-started" not in kinds(scene.dsn, revoked.id)


@pytest.mark.parametrize("how", ["id", "stamp", "terminate"])
def test_a_worker_of_another_name_discards_what_the_one_before_it_heard(how: str, one_scene: Scene) -> None:
    """#4886: a restart, on a new host. It waits for its eta in the first worker, which gives it back."""
    scene = one_scene
    with scene.working() as first:
        waits = scene.signature("add", 1, 1, customer="c7").apply_async(countdown=3600 if how != "stamp" else 15)
        until(lambda: "task-received" in kinds(scene.dsn, waits.id), PATIENCE)
        if how == "stamp":
            scene.app.control.revoke_by_stamped_headers({"customer": "c7"}, reply=True)
        else:
            scene.app.control.revoke(waits.id, terminate=how == "terminate", reply=True)
    assert not revoked_by(scene.dsn, waits.id)

    with scene.working() as second:
        until(lambda: revoked_by(scene.dsn, waits.id), PATIENCE)

    assert revoked_by(scene.dsn, waits.id) == [name_of(second)] != [name_of(first)]
    assert row(scene.dsn, waits.id).status == "REVOKED"
    assert "task-started" not in kinds(scene.dsn, waits.id)


def name_of(worker: Worker) -> str:
    """The name under which it is known."""
    return f"{worker.log.stem}@{socket.gethostname()}"


def test_nothing_is_killed_for_what_was_to_be_terminated_before(one_scene: Scene) -> None:
    """It was queued; what runs on the new worker goes on."""
    scene = one_scene
    revoked = scene.signature("sleep", 600).apply_async()
    revoked.revoke(terminate=True, signal=signal.SIGKILL.name)
    others = [scene.signature("sleep", 1).apply_async() for _ in range(2)]

    with scene.working() as worker:
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=PATIENCE)
        assert [other.get(timeout=PATIENCE) for other in others] == [1, 1]

    assert "WorkerLostError" not in worker.said()
    assert "exited" not in worker.said()


def test_a_worker_that_is_not_to_remember_runs_it(one_scene: Scene) -> None:
    """`remember_revokes`, for those who restart their workers to be rid of a revoke."""
    scene = one_scene
    revoked = scene.signature("add", 1, 1).apply_async()
    revoked.revoke()

    with scene.working(result_backend_transport_options={"remember_revokes": False}):
        assert revoked.get(timeout=PATIENCE) == 2


def test_a_worker_starts_where_the_database_is_away(one_scene: Scene) -> None:
    """It says that it does not know what was revoked."""
    scene = one_scene
    url = f"journal+postgresql://nobody@127.0.0.1:{unused_port()}/none"

    with working(scene.broker, url, scene.dsn, scene.folder, result_backend_transport_options={"spool": str(scene.folder)}) as worker:
        assert "what was revoked before this worker started is not known to it" in worker.said()


# What still matters


def at(hours: float) -> datetime:
    """The moment that many hours ago."""
    return NOW - timedelta(hours=hours)


def asked(task_id: str, hours: float = 0, **more: Any) -> Fact:
    """A request to revoke it."""
    return OperatorActed, REVOKES, hours, {"action": "revoke", "members": (task_id,), **more}


def found_in(dsn: str, *facts: Fact, seconds: float = 0, at_most: int = 100) -> Revokes:
    """What a worker w@h is to revoke where the log has these facts; with no `seconds`, only what waits."""
    emitter, log = Emitter(), Journal()
    with psycopg.connect(dsn, autocommit=True) as connection:
        log.append(connection, *(emitter.emit(kind, stream, occurred_at=at(hours), **more) for kind, stream, hours, more in facts))
        return revokes_of(connection, log, "w@h", seconds=seconds, at_most=at_most)


SENT: Fact = (TaskSent, "t", 5.0, {"name": "add"})
TOLD: Fact = (TaskRevoked, "t", 4.0, {})


@pytest.mark.parametrize(
    ("facts", "matters"),
    [
        pytest.param([SENT, asked("t", 4)], True, id="waits"),
        pytest.param([SENT, asked("t", 4), TOLD], True, id="waits, and a worker has heard it"),
        pytest.param([SENT, TOLD], True, id="asked for by an app without the journal"),
        pytest.param([SENT, (TaskReceived, "t", 4.5, {"worker": "a"}), asked("t", 4)], True, id="received"),
        pytest.param([SENT, (TaskStarted, "t", 4.5, {"worker": "a"}), asked("t", 4)], True, id="runs"),
        pytest.param([SENT, asked("t", 4), TOLD, (TaskRevoked, "t", 3.0, {"worker": "a"})], False, id="effected"),
        pytest.param([SENT, asked("t", 4), (TaskSucceeded, "t", 3.0, {"worker": "a"})], False, id="succeeded"),
        pytest.param([SENT, asked("t", 4), (TaskSent, "t", 2.0, {"name": "add"})], False, id="sent again after that"),
        pytest.param([asked("t", 4)], False, id="unknown"),
        pytest.param([SENT, asked("t", 4, destination=("w@h",))], True, id="of this worker"),
        pytest.param([SENT, asked("t", 4, destination=("other@h",))], False, id="of another worker"),
    ],
)
def test_what_waits_is_revoked_for_as_long_as_it_waits(facts: list[Any], matters: bool, dsn: str) -> None:
    """Also when a worker that heard it would have forgotten it."""
    assert list(found_in(dsn, *facts).task_ids) == (["t"] if matters else [])


def test_what_a_worker_would_remember_is_revoked_whatever_became_of_it(dsn: str) -> None:
    """As by one that heard it: the same id may be delivered again."""
    found = found_in(dsn, SENT, asked("t"), (TaskSucceeded, "t", 0.0, {}), asked("unknown"), seconds=EXPIRES)

    assert list(found.task_ids) == ["t", "unknown"]


def test_a_task_that_waits_for_its_eta_is_revoked_though_its_result_has_expired(dsn: str) -> None:
    """The log has its message still."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found_in(dsn, (TaskSent, "t", 5.0, {"name": "add", "eta": NOW + timedelta(days=3)}), asked("t", 4))
        connection.execute(b"delete from celery_journal.task_result_row")

        assert list(revokes_of(connection, Journal(), "w@h", seconds=0, at_most=9).task_ids) == ["t"]


def test_of_stamps_that_workers_have_forgotten_the_tasks_are_known_that_wait(dsn: str) -> None:
    """Not those that were sent later: a restart has always been the end of a revoke by stamps."""
    meta = b'{"stamps": {"customer": ["c7"]}, "stamped_headers": ["customer"]}'
    facts: list[Fact] = [
        (TaskSent, "waits", 5.0, {"meta": meta}),
        (TaskReceived, "waits", 4.5, {"worker": "a"}),
        (TaskSent, "ended", 5.0, {"meta": meta}),
        (TaskSucceeded, "ended", 4.5, {}),
        (TaskSent, "other", 5.0, {"meta": meta.replace(b"c7", b"c8")}),
        (OperatorActed, REVOKES, 4.0, {"action": "revoke", "stamps": {"customer": ["c7"]}}),
        (TaskSent, "later", 3.0, {"meta": meta}),
    ]

    assert found_in(dsn, *facts) == Revokes({"waits": None}, {})
    assert found_in(dsn, seconds=EXPIRES) == Revokes({}, {"customer": ["c7"]})


def test_the_newest_are_looked_at(dsn: str) -> None:
    """As many as Celery's set may hold, the last one last."""
    found = found_in(dsn, *(asked(f"t{number}", 1 - number / 10) for number in range(5)), seconds=EXPIRES, at_most=3)

    assert list(found.task_ids) == ["t2", "t3", "t4"]


def test_they_are_added_to_what_the_worker_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bounds of Celery's set."""
    monkeypatch.setattr(state, "revoked", LimitedSet(maxlen=3, expires=EXPIRES))
    monkeypatch.setattr(state, "revoked_stamps", {"customer": "c1"})
    state.revoked.add("before")

    remember(Revokes(dict.fromkeys("abc"), {"customer": ["c1", "c7"], "shop": ["s"]}))

    assert sorted(state.revoked) == ["a", "b", "c"]
    assert state.revoked_stamps == {"customer": ["c1", "c7"], "shop": ["s"]}


@pytest.mark.parametrize(
    ("command", "arguments", "streams"),
    [
        ("revoke", {"task_id": ["a", "b"]}, ["a", "b", REVOKES]),
        ("terminate", {"task_id": "a", "signal": "KILL"}, ["a", REVOKES]),
        (BY_STAMPS, {"headers": ["customer=c7"]}, [REVOKES]),
    ],
)
def test_what_the_command_line_of_celery_asks_for_is_recorded(
    command: str, arguments: dict[str, Any], streams: list[str], app: Celery, dsn: str
) -> None:
    """`celery control revoke` broadcasts by itself."""
    _ = app.backend

    app.control.broadcast(command, arguments=arguments)

    assert [kinds(dsn, stream) for stream in streams] == [["operator-acted"]] * len(streams)
