"""Payloads that explode when they are opened: who looks at them sees how large they are, and keeps its memory."""

from __future__ import annotations

import bz2
import json
import lzma
import pickle
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import DecodeError

from celery_journal.consumers import contents
from celery_journal.consumers.backend import ResultTooLarge
from celery_journal.consumers.contents import Unreadable, read
from celery_journal.consumers.payloads import MARK, TooLarge, decompressed
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import TaskFailed, TaskSucceeded

from .commanding import Commands

NewApp = Callable[..., Celery]

MEGABYTE = 1 << 20
LAUGHS = "- &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"- &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))

CASES = {
    "yaml": (LAUGHS.encode(), "application/x-yaml", "utf-8"),
    "bz2 codec": (bz2.compress(b"0" * 100 * MEGABYTE), "application/data", "bz2"),
    "zlib codec": (zlib.compress(b"A" * 100 * MEGABYTE), "application/text", "zlib"),
    "no codec": (b"1", "application/data", "no-such"),
    "idna": (b"xn--" + b"a" * 200_000, "application/data", "idna"),
    "punycode": (b"a" * 100_000 + b"-" + b"9" * 100_000, "application/data", "punycode"),
    "msgpack deep": (b"\x91" * 100_000 + b"\xc0", "application/x-msgpack", "binary"),
    "msgpack nested": (b"\x91" * 400 + b"\xc0", "application/x-msgpack", "binary"),
    "msgpack claims": (b"\xdd\xff\xff\xff\xff", "application/x-msgpack", "binary"),
    "msgpack of nothing": (b"\xdd\x00\x60\x00\x00" + b"\x90" * (6 * MEGABYTE), "application/x-msgpack", "binary"),
    "json deep": (b"[" * 200_000 + b"]" * 200_000, "application/json", "utf-8"),
    "json nested": (b"[" * 500 + b"]" * 500, "application/json", "utf-8"),
    "json type": (json.dumps({"__type__": "os.system", "__value__": "true"}).encode(), "application/json", "utf-8"),
    "json decimal": (json.dumps({"__type__": "decimal", "__value__": "1e999999999"}).encode(), "application/json", "utf-8"),
    "json bytes": (json.dumps({"__type__": "base64", "__value__": "!!!!"}).encode(), "application/json", "utf-8"),
    "json huge integer": (b"9" * 2_000_000, "application/json", "utf-8"),
    "json infinite": (b"1e400", "application/json", "utf-8"),
    "json exponents": (b"[" + b"1e131000," * 200 + b"1]", "application/json", "utf-8"),
    "pickle": (pickle.dumps(print), "application/x-python-serialize", "binary"),
    "compressed": (MARK + b"application/x-gzip\0" + zlib.compress(b'"' + b"0" * 100 * MEGABYTE + b'"'), "application/json", "utf-8"),
    "unknown compression": (MARK + b"no-such\0x", "application/json", "utf-8"),
}


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: it is what we read that explodes."""
    return embedded_database


@pytest.fixture
def peak() -> Any:
    """Returns the most memory, in bytes, that was taken since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("case", CASES)
def test_a_payload_is_opened_within_bounds(case: str, peak: Callable[[], int]) -> None:
    """Whatever it is, it takes no more than a few times what is opened at most."""
    payload, content_type, content_encoding = CASES[case]

    value = read(payload, content_type, content_encoding)

    assert len(repr(value)) < 8 * MEGABYTE
    assert peak() < 60 * MEGABYTE


def test_what_is_not_opened_says_what_it_is() -> None:
    """YAML, by which ten lines are a billion values, and what is too large or nested too deeply."""
    assert read(b"a: 1", "application/x-yaml") == "(yaml, 4 bytes)"
    assert read(b"[" * 500 + b"]" * 500) == "(json, 1,000 bytes)"
    assert read(b'"' + b"x" * contents.MOST + b'"') == f"(json, {contents.MOST + 2:,} bytes)"
    assert isinstance(read(b"a: 1", "application/x-yaml"), Unreadable)


@pytest.mark.parametrize(
    ("method", "compress"),
    [
        pytest.param("application/x-gzip", zlib.compress, id="gzip"),
        pytest.param("application/x-bz2", bz2.compress, id="bz2"),
        pytest.param("application/x-lzma", lzma.compress, id="lzma"),
    ],
)
def test_what_was_compressed_is_opened_up_to_the_limit(method: str, compress: Callable[[bytes], bytes], peak: Callable[[], int]) -> None:
    """To the byte, and no further."""
    payload = MARK + method.encode() + b"\0" + compress(b"x" * MEGABYTE)
    bomb = MARK + method.encode() + b"\0" + compress(b"x" * 50 * MEGABYTE)
    before = peak()

    assert decompressed(payload, MEGABYTE) == b"x" * MEGABYTE
    with pytest.raises(TooLarge, match="raise max_payload_bytes"):
        decompressed(bomb, MEGABYTE)
    with pytest.raises(DecodeError, match="cannot be decompressed"):
        decompressed(payload[:-20], 2 * MEGABYTE)
    assert peak() < before + 20 * MEGABYTE


def test_a_result_that_explodes_is_kombus_error(make_app: NewApp, connection: Connection, emitter: Emitter) -> None:
    """For whoever asks for it, in one sentence; and an archive is no text."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": MEGABYTE})
    json_fields: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}
    bomb = MARK + b"application/x-gzip\0" + zlib.compress(b"0" * 50 * MEGABYTE)
    Journal().append(connection, emitter.emit(TaskSucceeded, "bomb", result=bomb, **json_fields))
    archive: dict[str, Any] = {"result": bz2.compress(b"0" * MEGABYTE), "content_type": "application/data", "content_encoding": "bz2"}
    Journal().append(connection, emitter.emit(TaskSucceeded, "archive", **archive))

    with pytest.raises(DecodeError, match=r"takes more than 1,048,576 when it is decompressed; raise max_payload_bytes"):
        app.AsyncResult("bomb").get(timeout=10)
    with pytest.raises(DecodeError, match="the encoding 'bz2' is not one of texts"):
        app.AsyncResult("archive").get(timeout=10)


def test_what_could_not_be_read_is_not_stored(make_app: NewApp) -> None:
    """A result that is within the limit only as long as it is compressed, where Celery does that."""
    app = make_app(result_compression="gzip", result_backend_transport_options={"max_payload_bytes": 10_000})

    app.backend.store_result("small", "x" * 5_000, "SUCCESS")
    assert app.AsyncResult("small").get(timeout=10) == "x" * 5_000
    with pytest.raises(ResultTooLarge):
        app.backend.store_result("large", "x" * 20_000, "SUCCESS")


ABOUT_ONE = {"show", "history", "explain"}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("list",), id="list"),
        pytest.param(("list", "--json"), id="list as JSON"),
        pytest.param(("show",), id="show"),
        pytest.param(("history",), id="history"),
        pytest.param(("explain",), id="explain"),
        pytest.param(("export", "--format", "csv"), id="sheet"),
        pytest.param(("doctor", "--payloads"), id="doctor"),
    ],
)
def test_every_command_shows_tasks_whose_payloads_explode(
    arguments: tuple[str, ...], dsn: str, connection: Connection, emitter: Emitter, commands: Commands
) -> None:
    """As a result, as arguments and as an error."""
    for name, (payload, content_type, content_encoding) in CASES.items():
        encoded: dict[str, Any] = {"result": payload, "content_type": content_type, "content_encoding": content_encoding}
        given: dict[str, Any] = {"args": payload, "kwargs": payload, "args_content_type": content_type}
        Journal().append(connection, emitter.emit(TaskSucceeded, f"{name} result", **encoded))
        Journal().append(connection, emitter.emit(TaskFailed, f"{name} args", **encoded, **given))
    subjects = ["bz2 codec result", "yaml args", "json deep args", "json exponents args", "compressed result"]

    for subject in subjects if arguments[0] in ABOUT_ONE else [None]:
        ended = commands.run(*arguments, *filter(None, [subject]), dsn=dsn)

        assert ended.code in {0, 1}, ended.said
        assert "Traceback (most recent" not in ended.err
