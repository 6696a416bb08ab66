"""The backend's own members, by the rows of the acceptance list: those of Celery's contract and of django-celery-results."""

from __future__ import annotations

import pickle
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app import backends
from celery.app.task import Context
from celery.backends.base import Backend, BaseBackend
from kombu.exceptions import EncodeError

from celery_journal.consumers.backend import JournalBackend
from celery_journal.projections import ChordCounter, GroupResult, TaskResult

from .scene import SERIALIZERS, WORKER, Mailbox, current, delivered, kinds, new_app, recorded, row, url_of

NewApp = Callable[..., Celery]


def test_it_is_a_backend_of_celery(backend: JournalBackend) -> None:
    """B01: by its bases, as Celery asks for."""
    assert isinstance(backend, Backend)
    assert isinstance(backend, BaseBackend)


def test_its_models_can_be_replaced(make_app: NewApp, dsn: str) -> None:
    """B02, B03: TaskModel and GroupModel are what rows are read into; a subclass may have its own."""
    assert (JournalBackend.TaskModel, JournalBackend.GroupModel) == (TaskResult, GroupResult)
    read: list[str] = []

    class Mine(TaskResult):
        @property
        def task_id_read(self) -> str:
            return self.task_id

        def model_post_init(self, context: Any, /) -> None:
            read.append(self.task_id)

    class Own(JournalBackend):
        TaskModel = Mine

    app = make_app()
    own = Own(app, url=url_of(dsn).removeprefix("journal+"))
    own.mark_as_done("a", 3)

    assert own.get_task_meta("a", cache=False)["result"] == 3
    assert read == ["a"]
    own.database.close()


def test_its_interval_can_be_asked_for(backend: JournalBackend) -> None:
    """B04: half a second, for code that polls; our own waiters are told."""
    assert backend.subpolling_interval == 0.5


def test_it_is_made_of_an_app_and_a_url(dsn: str) -> None:
    """B05: and of what else Celery may hand on; making and pickling it open no connection."""
    app = new_app("journal+postgresql://nobody@127.0.0.1:1/nothing")
    backend = JournalBackend(app, url="postgresql://nobody@127.0.0.1:1/nothing", expires=77, serializer="pickle")

    with current(app):
        copy = pickle.loads(pickle.dumps(backend))

    assert (copy.url, copy.expires, copy.serializer) == (backend.url, 77, "pickle")
    assert (type(copy), copy.app) == (JournalBackend, app)


def test_a_pickled_backend_holds_no_password(make_app: NewApp, dsn: str) -> None:
    """B05: nor does a result, which takes its backend along; where it is unpickled, the app there knows the password."""
    app = make_app(url_of(dsn, password="hunter2"))
    app.backend.mark_as_done("a", 3)

    with current(app):
        pickled = pickle.dumps(app.AsyncResult("a"))
        copy = pickle.loads(pickled)

    assert b"hunter2" not in pickled
    assert copy.get(timeout=60) == 3
    assert copy.backend is app.backend


# What a request says


PROTOCOL_1 = Context(id="a", task="scene.add", args=(1, "x"), kwargs={"y": 2}, hostname=WORKER)


def test_the_extended_properties_of_a_request(app: Celery, backend: JournalBackend) -> None:
    """B07: the keys of django-celery-results, from a message of either protocol."""
    second = delivered(app, "scene.add", (1, "x"), {"y": 2}, properties={"periodic_task_name": "nightly"})

    for request, periodic in ((second, "nightly"), (PROTOCOL_1, None)):
        assert backend._get_extended_properties(request, "Traceback: here") == {
            "periodic_task_name": periodic,
            "task_args": '[1, "x"]',
            "task_kwargs": '{"y": 2}',
            "task_name": "scene.add",
            "traceback": "Traceback: here",
            "worker": WORKER,
        }


def test_the_extended_properties_respect_the_callers_repr(app: Celery, backend: JournalBackend) -> None:
    """B07: what the caller hides stays hidden."""
    request = delivered(app, args=("hunter2",), kwargs={"password": "hunter2"}, argsrepr="('***',)", kwargsrepr="{...}")

    found = backend._get_extended_properties(request, None)

    assert (found["task_args"], found["task_kwargs"]) == ("\"('***',)\"", '"{...}"')


def test_the_extended_properties_of_no_request(backend: JournalBackend) -> None:
    """B07: the same keys, and nothing in them."""
    found = backend._get_extended_properties(None, None)

    assert set(found) == {"periodic_task_name", "task_args", "task_kwargs", "task_name", "traceback", "worker"}
    assert set(found.values()) == {None}


def test_the_meta_of_a_request(app: Celery, backend: JournalBackend) -> None:
    """B08: what the task has put there, and the stamps; nothing of no request."""
    request = delivered(app, stamped_headers=["customer"], customer=["c7"])
    request.meta = {"mine": 1}

    found = backend._get_meta_from_request(request)

    assert (found["mine"], found["stamps"], found["stamped_headers"]) == (1, {"customer": ["c7"]}, ["customer"])
    assert backend._get_meta_from_request() == {}


def test_the_meta_of_the_task_that_runs(app: Celery, backend: JournalBackend) -> None:
    """B08: is found without being given."""

    @app.task(name="scene.metal", bind=True, shared=False)
    def metal(self: Any) -> Any:
        """Return the meta."""
        self.request.meta = {"mine": 2}
        return backend._get_meta_from_request()

    assert metal.apply().get() == {"mine": 2}


def test_the_meta_of_a_request_is_stored(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """B08: beside children and stamps."""
    request = delivered(app)
    request.meta = {"mine": 1}

    backend.mark_as_done(request.id, 3, request=request)

    assert '"mine": 1' in (row(dsn, request.id).meta or "")


# Storing and reading


def test_storing_appends_one_event_and_returns_the_result(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """B09: by position, as Celery calls it, and with what others hand on."""
    request = delivered(app, task_id="a")

    assert backend._store_result("a", {"x": 1}, "SUCCESS", None, request, using="default") == {"x": 1}

    assert kinds(dsn, "a") == ["task-succeeded"]
    assert row(dsn, "a").result == b'{"x": 1}'


def test_a_store_is_read_at_once(backend: JournalBackend) -> None:
    """B10: the meta, by the name of the argument that Celery uses; an unknown id is PENDING."""
    for number in range(20):
        backend._store_result(f"t{number}", number, "SUCCESS")
        assert backend._get_task_meta_for(task_id=f"t{number}")["result"] == number

    unknown = backend._get_task_meta_for(task_id="nobody")
    assert (unknown["status"], unknown["result"]) == ("PENDING", None)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_content_is_encoded_and_decoded(make_app: NewApp, serializer: str) -> None:
    """B11, B12: type, encoding and bytes, with every serializer; nothing of nothing."""
    backend = make_app(result_serializer=serializer, accept_content=[serializer]).backend
    value = {"a": [1, None, "ünï"]}

    content_type, content_encoding, content = backend.encode_content(value)

    assert isinstance(content, bytes)
    stored = SimpleNamespace(content_type=content_type, content_encoding=content_encoding)
    assert backend.decode_content(stored, content) == value
    assert backend.decode_content(stored, None) is None


def test_content_that_cannot_be_encoded_is_refused(backend: JournalBackend) -> None:
    """B11: by kombu's own error."""
    with pytest.raises(EncodeError):
        backend.encode_content(object())


def test_binary_content_is_stored_as_it_is(make_app: NewApp, dsn: str) -> None:
    """B11, B12: base64 is only in the dictionary of the row, where text is needed."""
    make_app(result_serializer="pickle").backend.mark_as_done("a", {1: 2})

    stored = row(dsn, "a")

    assert stored.result is not None
    assert pickle.loads(stored.result) == {1: 2}
    assert stored.as_dict()["result"] == b64encode(stored.result).decode()


def test_forgetting_takes_the_row_and_leaves_the_log(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """B13: the history stays."""
    backend.mark_as_done("a", 3)

    backend._forget("a")

    assert (app.AsyncResult("a").state, kinds(dsn, "a")) == ("PENDING", ["task-succeeded", "task-forgotten"])


def test_cleaning_up_expires_what_is_old(make_app: NewApp, dsn: str) -> None:
    """B14: the task and the group leave the views, and the log says so."""
    app = make_app(result_expires=timedelta(seconds=1))
    backend = app.backend
    emitter = backend.emitter
    backend.mark_as_done("new", 1)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    event = recorded(dsn, "new")[0].event
    old = emitter.emit(type(event), "old", occurred_at=long_ago, result=b"1", content_type="application/json", content_encoding="utf-8")
    backend.append(old)

    backend.cleanup()

    assert (app.AsyncResult("old").state, app.AsyncResult("new").state) == ("PENDING", "SUCCESS")
    assert kinds(dsn, "old") == ["task-succeeded", "task-expired"]


def test_a_group_is_saved_restored_and_deleted(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """B15, B16, B17: _save_group returns the group, _restore_group a dictionary with it as `result`, or None."""
    group = app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")])

    assert backend._restore_group("g") is None
    assert backend._save_group("g", group) is group
    restored = backend._restore_group("g")
    assert restored is not None
    assert (restored["result"], restored["task_id"]) == (group, "g")
    backend._delete_group("g")

    assert backend._restore_group("g") is None
    assert kinds(dsn, "g") == ["group-saved", "group-deleted"]


# Chords


@pytest.mark.parametrize("given", ["tuple", "group"])
def test_a_chord_starts_by_either_form_of_its_header(make_app: NewApp, mailbox: Mailbox, dsn: str, given: str) -> None:
    """B18: id and results, or a GroupResult; the size is that of the header."""
    app = make_app(**mailbox.conf)
    results = [app.AsyncResult("a"), app.AsyncResult("b")]

    app.backend.apply_chord(("g", results) if given == "tuple" else app.GroupResult("g", results), app.signature("scene.sum"))
    app.backend.set_chord_size("g", 2)

    assert kinds(dsn, "g")[0] == "chord-started"
    shown = app.backend.database.run(lambda connection: ChordCounter.get(connection, "g"))
    assert (shown.count, shown.size) == (2, 2)


def test_a_chord_of_nothing_sends_its_body(make_app: NewApp, mailbox: Mailbox) -> None:
    """B18: at once."""
    app = make_app(**mailbox.conf)

    app.backend.apply_chord(("g", []), app.signature("scene.sum", task_id="body"))

    assert [(message.id, message.args) for message in mailbox.sent()] == [("body", [[]])]


def test_the_part_that_completes_a_chord_sends_the_body(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """B19: once, though it is returned twice."""
    app = make_app(**mailbox.conf)
    body = app.signature("scene.sum", task_id="body")
    app.backend.apply_chord(("g", [app.AsyncResult("a"), app.AsyncResult("b")]), body)
    app.backend.set_chord_size("g", 2)

    for index, task_id in enumerate(["a", "b", "b"]):
        request = delivered(app, task_id=task_id, group_id="g", group_index=min(index, 1), chord=body)
        app.backend.on_chord_part_return(request, "SUCCESS", task_id.upper())

    assert [(message.id, message.args) for message in mailbox.sent()] == [("body", [["A", "B"]])]


def test_a_part_of_an_unknown_chord_is_a_warning(app: Celery, backend: JournalBackend, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """B19: the worker goes on."""
    request = delivered(app, task_id="a", group_id="gone", group_index=0, chord=app.signature("scene.sum"))

    backend.on_chord_part_return(request, "SUCCESS", 1)

    assert kinds(dsn, "gone") == ["chord-part-returned"]
    assert any(record.levelname == "WARNING" for record in caplog.records)


# Being chosen


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("journal+postgresql://{}", id="entry point"),
        pytest.param("journal://{}", id="entry point alone"),
        pytest.param("celery_journal.consumers.backend:JournalBackend+postgresql://{}", id="class and address"),
        pytest.param("celery_journal.consumers.backend.JournalBackend+postgresql://{}", id="class with a dot"),
    ],
)
def test_a_url_chooses_it(make_app: NewApp, dsn: str, form: str) -> None:
    """B21, B22, F05: by the name of the entry point, or by the path of the class."""
    app = make_app(form.format(url_of(dsn).removeprefix("journal+postgresql://")))

    app.backend.store_result("a", 3, "SUCCESS")

    assert isinstance(app.backend, JournalBackend)
    assert app.AsyncResult("a").result == 3


@pytest.mark.parametrize("name", ["journal", "celery_journal.consumers.backend:JournalBackend"])
def test_a_name_without_an_address_takes_the_environments(dsn: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """B21, B22: CELERY_JOURNAL_DSN."""
    monkeypatch.setenv("CELERY_JOURNAL_DSN", dsn)
    app = new_app(name)

    app.backend.store_result("a", 3, "SUCCESS")

    assert backends.by_url(name) == (JournalBackend, None)
    assert app.AsyncResult("a").result == 3
    app.backend.database.close()


@pytest.mark.parametrize("extended", [True, False])
def test_everything_is_stored_and_shown_by_the_setting(make_app: NewApp, dsn: str, extended: bool) -> None:
    """B23: result_extended decides what AsyncResult shows, store_arguments what is kept."""
    app = make_app(result_extended=extended)
    request = delivered(app, "scene.add", (1, 2))

    app.backend.mark_as_done(request.id, 3, request=request)

    result = app.AsyncResult(request.id)
    assert (result.name, result.args) == (("scene.add", [1, 2]) if extended else (None, None))
    assert (row(dsn, request.id).task_name, row(dsn, request.id).task_args) == ("scene.add", "[1, 2]")


def test_arguments_are_not_stored_against_the_option(make_app: NewApp, dsn: str) -> None:
    """B23: nor shown by any member."""
    app = make_app(result_backend_transport_options={"store_arguments": False})
    request = delivered(app, "scene.add", ("hunter2",))

    app.backend.mark_as_done(request.id, 3, request=request)

    assert app.AsyncResult(request.id).args is None
    assert app.backend._get_extended_properties(request, None)["task_args"] is None
    assert "hunter2" not in repr(recorded(dsn, request.id))
