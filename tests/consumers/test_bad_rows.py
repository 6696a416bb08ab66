"""What stands in the journal and cannot be read: the reader gets Celery's own exception, and everybody else their result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SecurityError
from kombu.exceptions import ContentDisallowed, DecodeError

from celery_journal.consumers.backend import JournalBackend, ResultTooLarge
from celery_journal.journal import events as kinds_of

from .scene import kinds

NewApp = Callable[..., Celery]


class Picky(Exception):
    """An exception that cannot be built of its arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: it is what we read that is wrong."""
    return embedded_database


def stored(backend: JournalBackend, task_id: str, kind: type[kinds_of.TaskEvent], result: bytes, **fields: Any) -> None:
    """Record what a backend of ours would not."""
    encoding = {"content_type": "application/json", "content_encoding": "utf-8", **fields}
    backend.append(backend.emitter.emit(kind, task_id, result=result, **encoding))


def error(**parts: Any) -> bytes:
    return json.dumps({"exc_type": "E", "exc_message": ["text"], "exc_module": "builtins", **parts}).encode()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"exc_module": "os", "exc_type": "system", "exc_message": ["echo pwned"]}, id="a command"),
        pytest.param({"exc_module": "builtins", "exc_type": "eval", "exc_message": ["1 / 0"]}, id="an expression"),
        pytest.param({"exc_module": "builtins", "exc_type": "dict", "exc_message": []}, id="no exception"),
    ],
)
def test_what_is_no_exception_is_not_called(app: Celery, backend: JournalBackend, parts: dict[str, Any]) -> None:
    """R04: SecurityError, as Celery has it (CVE-2021-23727), whether it is waited for or looked up."""
    stored(backend, "bad", kinds_of.TaskFailed, error(**parts))

    with pytest.raises(SecurityError):
        app.AsyncResult("bad").get(timeout=10)
    with pytest.raises(SecurityError):
        _ = app.AsyncResult("bad").state


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        pytest.param({"exc_module": "nobody.knows", "exc_type": "Unheard"}, "Unheard", id="a module that is not there"),
        pytest.param({"exc_module": __name__, "exc_type": "Picky"}, "Picky", id="a class that wants other arguments"),
        pytest.param({"exc_module": None, "exc_type": "Nameless"}, "Nameless", id="no module"),
        pytest.param({"exc_message": None}, "E", id="no message"),
    ],
)
def test_an_error_that_cannot_be_built_is_raised_as_something_like_it(
    app: Celery, backend: JournalBackend, parts: dict[str, Any], shown: str
) -> None:
    """R04: never a KeyError."""
    stored(backend, "odd", kinds_of.TaskFailed, error(**parts))

    with pytest.raises(Exception) as raised:  # noqa: PT011  of which class is for Celery to say
        app.AsyncResult("odd").get(timeout=10)

    assert shown in repr(raised.value)


@pytest.mark.parametrize("result", [b"\xff\xfe no json", b"{"])
def test_a_corrupt_result_is_kombus_error(app: Celery, backend: JournalBackend, result: bytes) -> None:
    """For whoever asks for it; in a group, the others can still be had one by one."""
    stored(backend, "bad", kinds_of.TaskSucceeded, result)
    backend.store_result("good", 1, "SUCCESS")
    group = app.GroupResult("g", [app.AsyncResult("bad"), app.AsyncResult("good")])

    with pytest.raises(DecodeError):
        app.AsyncResult("bad").get(timeout=10)
    with pytest.raises(DecodeError):
        group.get(timeout=10)
    assert group.results[1].get(timeout=10) == 1


def test_a_content_type_that_is_not_accepted_is_kombus_error(make_app: NewApp) -> None:
    """result_accept_content."""
    make_app(result_serializer="pickle").backend.store_result("pickled", 1, "SUCCESS")

    with pytest.raises(ContentDisallowed):
        make_app(result_accept_content=["json"]).AsyncResult("pickled").get(timeout=10)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        pytest.param({"args": b"\xff"}, None, id="corrupt"),
        pytest.param(
            {"args": b"\x80\x04N.", "args_content_type": "application/x-python-serialize"},
            "(pickle, 4 bytes: accept_content does not allow it)",
            id="not accepted",
        ),
    ],
)
def test_arguments_that_cannot_be_read_keep_no_result_from_anybody(make_app: NewApp, arguments: dict[str, Any], shown: str | None) -> None:
    """They are shown as missing, or as what they are."""
    app = make_app(result_accept_content=["json"], accept_content=["json"])
    stored(app.backend, "a", kinds_of.TaskSucceeded, b"1", **arguments)

    assert (app.AsyncResult("a").get(timeout=10), app.AsyncResult("a").args) == (1, shown)


def test_a_failure_without_an_error_raises_one(app: Celery, backend: JournalBackend) -> None:
    """Where not even a short text could be stored."""
    backend.append(backend.emitter.emit(kinds_of.TaskFailed, "bare"))

    with pytest.raises(Exception, match="could not be stored"):
        app.AsyncResult("bare").get(timeout=10)


def test_sixty_four_megabytes_are_the_limit(make_app: NewApp, dsn: str) -> None:
    """Just below it a result comes back as it was; above it the task is a failure, and says why."""
    app = make_app()
    large = "x" * ((64 << 20) - 1024)

    app.backend.store_result("large", large, "SUCCESS")
    assert app.AsyncResult("large").get(timeout=60) == large

    with pytest.raises(ResultTooLarge) as refused:
        app.backend.mark_as_done("larger", large + "x" * 2048)
    app.backend.mark_as_failure("larger", refused.value)
    with pytest.raises(Exception, match="max_payload_bytes"):
        app.AsyncResult("larger").get(timeout=10)
    assert kinds(dsn, "larger") == ["task-failed"]
