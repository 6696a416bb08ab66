"""An error on one line: its type, and the first line of its message, from what Celery has stored of it."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures.process import _RemoteTraceback
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, states
from pydantic import BaseModel

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.raised import LONGEST, MOST, error_of


class Order(BaseModel):
    """Refuses what is no number."""

    amount: int


class Written(Exception):
    """Says something else than its arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)

    def __str__(self) -> str:
        return f"code {self.args[0]}\nand more"


def pydantic_error() -> Exception:
    try:
        Order.model_validate({"amount": "x"})
    except ValueError as exc:
        return exc
    raise AssertionError


def noted() -> Exception:
    exc = ValueError("with a note")
    exc.add_note("look: here")
    return exc


def caused(exc: BaseException, cause: BaseException) -> BaseException:
    exc.__cause__ = cause
    return exc


def syntax_error() -> Exception:
    try:
        compile("x = = 1", "orders.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


def from_another_process(text: str) -> Exception:
    return _RemoteTraceback(text)  # type: ignore[arg-type]  # it keeps what it is given


def nested() -> type[Exception]:
    class Inner(Exception):
        """Stands in a function."""

    return Inner


CHILD = "the child said:\nTraceback (most recent call last):\n  File\nKeyError: 1\n\nDuring handling of the above exception, another"

ERRORS = [
    pytest.param(lambda: ValueError("no"), "ValueError: no", id="text"),
    pytest.param(pydantic_error, "ValidationError: 1 validation error for Order", id="pydantic"),
    pytest.param(
        lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ExceptionGroup: several (2 sub-exceptions)", id="group"
    ),
    pytest.param(
        lambda: ExceptionGroup("several\nlines", [ExceptionGroup("inner", [ValueError("a")])]),
        "ExceptionGroup: several",
        id="group in a group",
    ),
    pytest.param(noted, "ValueError: with a note", id="note"),
    pytest.param(lambda: caused(ValueError("effect"), ValueError("cause")), "ValueError: effect", id="chained"),
    pytest.param(
        lambda: caused(OSError(2, "gone", "a.txt"), OSError(13, "denied")), "FileNotFoundError: [Errno 2] gone: 'a.txt'", id="chained errno"
    ),
    pytest.param(
        lambda: caused(ExceptionGroup("g", [ValueError()]), OSError(2, "x")), "ExceptionGroup: g (1 sub-exception)", id="chained group"
    ),
    pytest.param(lambda: caused(Written(7, "x"), ExceptionGroup("g", [ValueError()])), "Written: code 7", id="caused by a group"),
    pytest.param(syntax_error, "SyntaxError: invalid syntax", id="syntax"),
    pytest.param(lambda: RuntimeError("first\nsecond: x"), "RuntimeError: first", id="lines"),
    pytest.param(lambda: RuntimeError("\n\n  first\nsecond"), "RuntimeError: first", id="lines after an empty one"),
    pytest.param(lambda: Written(7, "\n"), "Written: code 7", id="its own words"),
    pytest.param(ValueError, "ValueError", id="nothing"),
    pytest.param(lambda: ValueError(" \n "), "ValueError", id="blanks"),
    pytest.param(lambda: KeyError("x"), "KeyError: 'x'", id="key"),
    pytest.param(lambda: ValueError(42), "ValueError: 42", id="number"),
    pytest.param(lambda: ValueError(b"\xff", {1}), "ValueError: (b'\\xff', {1})", id="no texts"),
    pytest.param(lambda: nested()("here"), "Inner: here", id="in a function"),
    pytest.param(lambda: RuntimeError(CHILD), "RuntimeError: the child said:", id="a traceback in the message"),
    pytest.param(
        lambda: caused(Written(1, ""), from_another_process(f'\n"""\n{CHILD}\n"""')), "Written: code 1", id="from another process"
    ),
    pytest.param(lambda: ValueError("x" * (MOST + 9)), f"ValueError: {'x' * (MOST - 1)}…", id="long"),
    pytest.param(lambda: ValueError("x" * LONGEST), f"ValueError: {'x' * (MOST - 1)}…", id="too long to be opened"),
]


@pytest.fixture
def backend() -> JournalBackend:
    """A backend that only encodes."""
    return JournalBackend(Celery(set_as_current=False), url="journal+postgresql:///nowhere")


def raised(make: Callable[[], BaseException]) -> tuple[BaseException, str]:
    """Return what was raised, and its traceback as Celery has it."""
    try:
        raise make()
    except BaseException as exc:  # noqa: BLE001  that is the point
        return exc, "".join(traceback.format_exception(exc))


@pytest.mark.parametrize(("make", "told"), ERRORS)
def test_an_error_is_told_by_its_type_and_the_first_line_of_its_message(
    backend: JournalBackend, make: Callable[[], BaseException], told: str
) -> None:
    """Whatever stands in the last line of its traceback: a help page, a frame of dashes, a note."""
    exc, text = raised(make)

    result = backend.encode(backend.encode_result(exc, states.FAILURE)).encode()

    assert error_of(stored(result, text)) == told


@pytest.mark.parametrize(("make", "told"), ERRORS)
def test_an_error_that_is_not_opened_is_told_alike(make: Callable[[], BaseException], told: str) -> None:
    """A pickle may run anything: there is its traceback."""
    _, text = raised(make)

    assert error_of(stored(b"\x80", text, "application/x-python-serialize")) == told
    assert error_of(stored(None, text)) == told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        pytest.param(["a", "b"], "Oops: ('a', 'b')", id="several"),
        pytest.param([["a"]], "Oops: ['a']", id="a list"),
        pytest.param([], "Oops", id="none"),
        pytest.param(None, "Oops", id="null"),
        pytest.param("text", "Oops: text", id="no list"),
    ],
)
def test_an_error_without_a_traceback(args: object, told: str) -> None:
    """What a worker tells in the place of a task, such as its time limit, has none."""
    result = json.dumps({"exc_type": "Outer.Oops", "exc_message": args, "exc_module": "shop"}).encode()

    assert error_of(stored(result, None)) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("[...] cut\nlines\nValueError: the reason\nhelp: https://example.com", "ValueError: the reason", id="cut"),
        pytest.param("Traceback\nKeyError: 1\n", "KeyError: 1", id="by hand"),
        pytest.param("just words", "just words", id="words"),
        pytest.param('Traceback (most recent call last):\n  File "a.py", line 1', None, id="cut before the error"),
        pytest.param("", None, id="empty"),
    ],
)
def test_a_traceback_that_is_not_pythons(text: str, told: str | None) -> None:
    """Imported ones, and those of which only the end was kept."""
    assert error_of(stored(None, text)) == told


@pytest.mark.parametrize("result", [b"null", b"[1]", b'{"exc_type": 1}', b"{", b"\xff", pickle.dumps(ValueError("no"))])
def test_what_is_no_exception_is_none(result: bytes) -> None:
    """Anybody may store anything."""
    assert error_of(stored(result, None)) is None


def stored(result: bytes | None, text: str | None, content_type: str | None = "application/json") -> Any:
    """Return what holds an error."""
    return SimpleNamespace(result=result, content_type=content_type, content_encoding="utf-8", traceback=text)
