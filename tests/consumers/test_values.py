"""Results, exceptions and arguments of every kind: they come back as Celery's serializer makes them, or are refused whole."""

from __future__ import annotations

import base64
import math
import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from celery import Celery
from celery.app.task import Context
from celery.backends import base
from celery.exceptions import Reject, WorkerLostError
from kombu.exceptions import DecodeError, EncodeError
from kombu.serialization import dumps, loads

from celery_journal.consumers.backend import JournalBackend, ResultTooLarge
from celery_journal.projections import TaskResult

from .scene import SERIALIZERS, Mailbox, delivered, kinds, recorded, row

NewApp = Callable[..., Celery]

SECRET = "hunter2"

VALUES = [
    pytest.param("a\0b", id="nul"),
    pytest.param("\ud800 and \udfff", id="surrogates"),
    pytest.param("ünï©ødé 🦣", id="unicode"),
    pytest.param(2**200, id="big integer"),
    pytest.param(-(2**63), id="64 bits"),
    pytest.param([0.1, 1e300, -0.0, math.inf], id="floats"),
    pytest.param(b"\x00\xff\xfe", id="bytes"),
    pytest.param(datetime(2026, 1, 1, 12, tzinfo=UTC), id="datetime"),
    pytest.param([date(2026, 1, 1), datetime(2026, 1, 1, 12)], id="naive datetime"),  # noqa: DTZ001  users have them
    pytest.param({"id": UUID(int=7), "price": Decimal("1.50")}, id="uuid and decimal"),
    pytest.param({"a": [{"b": [{"c": (1, 2)}]}], "": None}, id="nested"),
    pytest.param([[[[[[[[[["deep"]]]]]]]]]], id="deep"),
    pytest.param({1: "one", None: "none"}, id="keys that are no text"),
    pytest.param({"x", "y"}, id="set"),
    pytest.param(timedelta(days=1), id="timedelta"),
    pytest.param("x" * 1_000_000, id="a megabyte"),
    pytest.param(None, id="none"),
    pytest.param("", id="empty"),
]


class Custom(Exception):
    """An exception of the user's own module."""


def unimportable(*args: object) -> Exception:
    """An exception of a module that the reader has not."""
    gone = type("Gone", (Exception,), {"__module__": "no.such.module"})
    error: Exception = gone(*args)
    return error


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_as_the_serializer_makes_it(make_app: NewApp, dsn: str, serializer: str, value: object) -> None:
    """Nothing is lost between the worker and the reader that Celery's serializer keeps; what it refuses is not stored."""
    app = make_app(result_serializer=serializer, accept_content=[serializer])
    try:
        content_type, encoding, payload = dumps(value, serializer=serializer)
    except EncodeError:
        with pytest.raises(EncodeError):
            app.backend.store_result("a", value, "SUCCESS", request=delivered(app, task_id="a"))
        assert kinds(dsn, "a") == []
        return

    app.backend.store_result("a", value, "SUCCESS", request=delivered(app, task_id="a"))

    try:
        expected = loads(payload, content_type, encoding, accept=[content_type])
    except DecodeError:  # msgpack writes maps that it does not read
        with pytest.raises(DecodeError):
            _ = app.AsyncResult("a").result
    else:
        assert app.AsyncResult("a").result == expected
    assert (row(dsn, "a").content_type, row(dsn, "a").content_encoding) == (content_type, encoding)


def test_an_unserialisable_result_is_refused_before_anything_is_stored(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """kombu's EncodeError is what makes the worker store a FAILURE instead."""
    with pytest.raises(EncodeError):
        backend.store_result("a", object(), "SUCCESS", request=delivered(app, task_id="a"))

    assert kinds(dsn, "a") == []


def test_a_result_above_the_limit_is_refused(make_app: NewApp, dsn: str) -> None:
    """The error says how large, what the limit is, and what to do; Celery makes the task a FAILURE with it."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 1000})

    with pytest.raises(ResultTooLarge, match=r"payload of [\d,]+ bytes, above the limit of 1,000; store large results elsewhere"):
        app.backend.store_result("a", "x" * 5000, "SUCCESS", request=delivered(app, task_id="a"))

    assert kinds(dsn, "a") == []
    app.backend.store_result("a", "x" * 500, "SUCCESS")
    assert app.AsyncResult("a").result == "x" * 500


def test_a_result_of_another_serializer_is_read(make_app: NewApp) -> None:
    """A row says how it is encoded, so a change of the setting keeps old results readable."""
    make_app(result_serializer="pickle").backend.store_result("a", {1: (2,)}, "SUCCESS")

    reader = make_app(result_serializer="json", accept_content=["json", "pickle"])

    assert reader.AsyncResult("a").result == {1: (2,)}


def test_a_serializer_that_is_not_accepted_is_refused(make_app: NewApp) -> None:
    """Who accepts JSON only never unpickles what somebody has put there."""
    make_app(result_serializer="pickle").backend.store_result("a", 1, "SUCCESS")

    reader = make_app(accept_content=["json"])

    with pytest.raises(Exception, match="untrusted content of type pickle"):
        reader.AsyncResult("a").get(timeout=10)


def test_a_compressed_result_is_read(make_app: NewApp, dsn: str) -> None:
    """result_compression is honoured where Celery knows it, from 5.7 on; whoever reads needs no setting."""
    make_app(result_compression="gzip").backend.store_result("a", "x" * 10_000, "SUCCESS")

    assert make_app().AsyncResult("a").result == "x" * 10_000
    assert (len(row(dsn, "a").result or b"") < 1000) is hasattr(base, "compress_payload")


def test_a_result_that_is_a_result_comes_back_as_its_tuple(app: Celery, backend: JournalBackend) -> None:
    """A task may return what it has sent."""
    backend.mark_as_done("a", app.AsyncResult("b"))

    assert app.AsyncResult("a").result == [["b", None], None]


# Exceptions


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("no", 7), id="builtin"),
        pytest.param(KeyError("key"), id="key error"),
        pytest.param(WorkerLostError("gone"), id="celery's"),
        pytest.param(Reject("reason", requeue=True), id="several arguments"),
        pytest.param(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), id="bytes"),
        pytest.param(Custom("mine"), id="of a user"),
        pytest.param(ValueError("a\0b"), id="nul"),
    ],
)
def test_an_exception_is_restored_with_its_class(make_app: NewApp, serializer: str, error: Exception) -> None:
    """What was raised in the worker is caught by its class where the result is read."""
    sys.modules.setdefault(Custom.__module__, sys.modules[__name__])
    app = make_app(result_serializer=serializer, accept_content=[serializer])

    app.backend.mark_as_failure("a", error, request=delivered(app, task_id="a"))

    restored = app.AsyncResult("a").result
    assert type(restored) is type(error)
    assert [str(argument) for argument in restored.args] == [str(argument) for argument in error.args]


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_an_exception_of_an_unknown_class_keeps_its_name(make_app: NewApp, serializer: str) -> None:
    """A reader without the worker's code still sees what it was called and said."""
    app = make_app(result_serializer=serializer)

    app.backend.mark_as_failure("a", unimportable("why", 3), request=delivered(app, task_id="a"))

    restored = app.AsyncResult("a").result
    assert isinstance(restored, Exception)
    assert "Gone" in repr(restored)
    assert "why" in str(restored)


def test_an_exception_with_arguments_that_cannot_be_encoded_is_stored(app: Celery, backend: JournalBackend) -> None:
    """A failure is recorded, whatever it holds."""
    backend.mark_as_failure("a", ValueError(object(), {"file": Path("/x")}), request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == "FAILURE"
    assert isinstance(app.AsyncResult("a").result, ValueError)


def test_a_traceback_with_nul_is_stored(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """PostgreSQL has no NUL in text: the view shows it escaped, the log has it exactly."""
    backend.mark_as_failure("a", ValueError("\0"), traceback="line 1\0\udc80", request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").traceback == "line 1\\x00\\udc80"
    (event,) = [place.event for place in recorded(dsn, "a")]
    assert getattr(event, "traceback", None) == "line 1\0\udc80"


# Arguments


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_arguments_are_shown_as_they_were_sent(make_app: NewApp, serializer: str) -> None:
    """AsyncResult.args and .kwargs are values, not their repr."""
    app = make_app(task_serializer=serializer, accept_content=list({serializer, "json"}))
    request = delivered(app, args=("a", [1, 2]), kwargs={"k": {"n": None}})

    app.backend.mark_as_done(request.id, 1, request=request)

    assert (app.AsyncResult(request.id).args, app.AsyncResult(request.id).kwargs) == (["a", [1, 2]], {"k": {"n": None}})


@pytest.mark.parametrize(
    "args",
    [
        pytest.param((), id="none"),
        pytest.param([1, 2], id="list"),
        pytest.param((1,), id="tuple of one"),
        pytest.param(((1,), (2, (3,))), id="tuples in tuples"),
        pytest.param(({1: "one", 2.5: "x"},), id="keys that JSON makes text"),
        pytest.param(("x" * 3000,), id="long text"),
        pytest.param(("word " * 1000, 1), id="long text with spaces"),
        pytest.param((list(range(2000)),), id="long list"),
        pytest.param((tuple((number,) for number in range(600)),), id="long, and cut elsewhere once tuples are lists"),
        pytest.param(({f"k{number}": (number,) for number in range(300)},), id="long dict of tuples"),
        pytest.param(([[[[[["deep"]]]]]], "x" * 2000), id="deep and long"),
        pytest.param(("it's", 'a "quote"', "back\\slash", "a\0\ud800"), id="quotes"),
        pytest.param((b"\x00abc", date(2026, 1, 1), Decimal("1.5"), UUID(int=1)), id="types of kombu's JSON"),
    ],
)
def test_a_repr_that_celery_made_does_not_stand_for_the_arguments(app: Celery, backend: JournalBackend, args: Any) -> None:
    """Every message has argsrepr and kwargsrepr; only the caller's own are a wish."""
    plain, keywords = delivered(app, args=args), delivered(app, kwargs={"k": args})

    backend.mark_as_done(plain.id, 1, request=plain)
    backend.mark_as_done(keywords.id, 1, request=keywords)

    assert app.AsyncResult(plain.id).args == list(plain.args)
    assert app.AsyncResult(keywords.id).kwargs == keywords.kwargs


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize(
    "argsrepr",
    [
        pytest.param("('***',)", id="short"),
        pytest.param("", id="empty"),
        pytest.param("('al', ...)", id="with an ellipsis"),
        pytest.param("<" + "-" * 2000 + ">", id="long"),
        pytest.param("('al', '" + "*" * 2000 + "')", id="long, and begins as the arguments do"),
    ],
)
def test_the_repr_of_the_caller_is_stored_instead_of_the_arguments(make_app: NewApp, dsn: str, serializer: str, argsrepr: str) -> None:
    """Whoever hides an argument from the logs hides it from the journal."""
    app = make_app(task_serializer=serializer)
    request = delivered(app, args=("al", SECRET), kwargs={"password": SECRET}, argsrepr=argsrepr, kwargsrepr="{'password': '***'}")

    for state in ("STARTED", "PROGRESS", "SUCCESS"):
        app.backend.store_result(request.id, None, state, request=request)

    assert app.AsyncResult(request.id).args == argsrepr
    assert app.AsyncResult(request.id).kwargs == "{'password': '***'}"
    assert SECRET not in repr(recorded(dsn, request.id))


def test_one_hidden_half_leaves_the_other(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """kwargsrepr alone hides the keyword arguments alone."""
    request = delivered(app, args=(1, 2), kwargs={"password": SECRET}, kwargsrepr="{...}")

    backend.mark_as_done(request.id, 1, request=request)

    assert (app.AsyncResult(request.id).args, app.AsyncResult(request.id).kwargs) == ([1, 2], "{...}")
    assert SECRET not in repr(recorded(dsn, request.id))


def test_hidden_arguments_stay_hidden_beside_odd_ones(make_app: NewApp, dsn: str) -> None:
    """That the other arguments have no JSON is no reason to show these."""
    app = make_app(task_serializer="pickle")
    request = delivered(app, args=(SECRET,), kwargs={"path": Path("/x"), "set": {1}}, argsrepr="(***)")

    app.backend.mark_as_done(request.id, 1, request=request)

    assert app.AsyncResult(request.id).args == "(***)"
    assert SECRET not in repr(recorded(dsn, request.id))


def test_arguments_need_not_be_stored_at_all(make_app: NewApp, dsn: str) -> None:
    """store_arguments=False leaves everything else as it is."""
    app = make_app(result_backend_transport_options={"store_arguments": False})
    request = delivered(app, args=(SECRET,), kwargs={"password": SECRET})

    app.backend.mark_as_done(request.id, 1, request=request)

    assert (app.AsyncResult(request.id).args, app.AsyncResult(request.id).name) == (None, "scene.add")
    assert (row(dsn, request.id).args, row(dsn, request.id).kwargs) == (None, None)
    assert SECRET not in repr(recorded(dsn, request.id))


def test_arguments_without_json_are_shown_by_their_repr(make_app: NewApp) -> None:
    """An eager task may have any object among them: its state is stored all the same."""
    app = make_app(accept_content=["json"])
    request = Context(id="a", task="scene.add", args=(object,), kwargs={"path": Path("/x")}, is_eager=True)

    app.backend.mark_as_done(request.id, 1, request=request)

    assert app.AsyncResult(request.id).args == "(<class 'object'>,)"


@pytest.mark.parametrize("task_serializer", ["json", "msgpack", "yaml"])
def test_arguments_of_another_serializer_are_what_they_were(make_app: NewApp, mailbox: Mailbox, dsn: str, task_serializer: str) -> None:
    """`apply_async(serializer="pickle")`, as `result_extended` shows them; who does not accept pickles is told that they are one."""
    app = make_app(**mailbox.conf, task_serializer=task_serializer)
    args, kwargs = [{Path("/x"), Path("/y")}], {"path": Path("/x")}

    task_id = app.send_task("scene.add", args, kwargs, serializer="pickle").id
    app.backend.buffer.flush()

    assert (app.AsyncResult(task_id).args, app.AsyncResult(task_id).kwargs) == (args, kwargs)
    wary = make_app(accept_content=["json"]).AsyncResult(task_id)
    assert re.fullmatch(r"\(pickle, [\d,]+ bytes: accept_content does not allow it\)", str(wary.args))


def test_a_repr_that_somebody_has_stored_is_the_arguments(app: Celery, dsn: str) -> None:
    """As django-celery-results' manager takes it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        tasks = TaskResult.objects.using(connection)
        tasks.store_result("application/json", "utf-8", "a", "1", "SUCCESS", task_args="(1, 'x')", task_kwargs="{'y': 2}")

    assert (app.AsyncResult("a").args, app.AsyncResult("a").kwargs) == ("(1, 'x')", "{'y': 2}")


@pytest.mark.parametrize("serializer", ["pickle", "msgpack", "json"])
def test_what_is_stored_as_django_celery_results_stores_it_is_read(make_app: NewApp, dsn: str, serializer: str) -> None:
    """Base64 where it is binary: result, meta and arguments; and given back the same way."""
    app = make_app(result_serializer=serializer, accept_content=[serializer])

    def encoded(value: object) -> str:
        _, encoding, content = dumps(value, serializer=serializer)
        return base64.b64encode(content).decode() if encoding == "binary" else content

    content_type, encoding, _ = dumps(1, serializer=serializer)
    meta = encoded({"children": [], "tenant": "t1"})
    with psycopg.connect(dsn, autocommit=True) as connection:
        TaskResult.objects.using(connection).store_result(
            content_type, encoding, "a", encoded({"total": 5}), "SUCCESS", None, meta, None, "shop.add", encoded([1]), encoded({"b": 2})
        )
        stored = TaskResult.objects.using(connection).get_task("a")

    told = app.backend.get_task_meta("a")
    assert (told["result"], told["task_args"], told["task_kwargs"], told["tenant"]) == ({"total": 5}, [1], {"b": 2}, "t1")
    assert app.backend.decode_content(stored, stored.as_dict()["result"]) == {"total": 5}


def test_the_meta_of_a_task_has_the_names_of_django_celery_results(app: Celery, backend: JournalBackend) -> None:
    """Beside Celery's own; and what the request's `meta` says, which never stands for what the journal knows."""
    request = delivered(app, "scene.add", (1, 2), {"z": 3}, headers={"meta": {"tenant": "t1", "status": "forged", "task_args": "forged"}})

    backend.mark_as_done(request.id, 3, request=request)

    told = backend.get_task_meta(request.id)
    assert (told["name"], told["args"], told["kwargs"]) == ("scene.add", [1, 2], {"z": 3})
    assert (told["task_name"], told["task_args"], told["task_kwargs"]) == ("scene.add", [1, 2], {"z": 3})
    assert (told["tenant"], told["status"], told["children"]) == ("t1", "SUCCESS", [])


@pytest.mark.parametrize("meta", ["[1]", "no json", '{"__type__": "gone", "__value__": 1}'])
def test_a_meta_that_is_none_keeps_the_result_from_nobody(app: Celery, dsn: str, meta: str) -> None:
    """Whatever somebody has stored there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        TaskResult.objects.using(connection).store_result("application/json", "utf-8", "a", "1", "SUCCESS", meta=meta)

    assert app.AsyncResult("a").get(timeout=10) == 1
