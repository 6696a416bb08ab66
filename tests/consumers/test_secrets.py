"""A password is shown nowhere, in whatever way it is written into a DSN."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from click.testing import CliRunner
from kombu import Connection

from celery_journal.consumers.backend.connection import JournalUnavailable
from celery_journal.consumers.cli.main import main
from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Connections, Emitter, JournalError, connect, redact
from celery_journal.journal.dsn import masked, redact_url
from celery_journal.journal.events import TaskSucceeded

#: Two halves, for it is at a character in the middle that a password is cut.
FRONT, BACK = "Qx7vKp2mZt", "Wj4bRn9cLd"

#: What none of what is shown may have in it.
FRAGMENTS = [half[start : start + 6] for half in (FRONT, BACK) for start in range(len(half) - 5)]

#: What a password may have in its middle.
MIDDLES = [
    "/",
    "@",
    "#",
    "?",
    "%",
    "%zz",
    ":",
    "[",
    "]",
    " ",
    "'",
    '"',
    "\\",
    "&",
    "=",
    ",",
    ";",
    "ü",
    "/@",
    "@/",
    "?a=",
    "#@",
    "\t",
    "//",
    "://",
]


def shapes() -> list[Any]:
    """Return DSNs with the password in them, most of them written wrongly."""
    raw = [pytest.param(f"postgresql://me:{FRONT}{middle}{BACK}@127.0.0.1:1/shop", id=f"raw {middle!a}") for middle in MIDDLES]
    digits = [pytest.param(f"postgresql://me:12{middle}{BACK}@127.0.0.1:1/shop", id=f"digits {middle!a}") for middle in "/?#@"]
    right = [
        pytest.param(f"postgresql://me:{quote(FRONT + middle + BACK, safe='')}@127.0.0.1:1/shop", id=f"escaped {middle!a}")
        for middle in "/@?"
    ]
    secret = FRONT + BACK
    others = {
        "query": f"postgresql://me@127.0.0.1:1/shop?password={secret}",
        "query with a slash": f"postgresql://me@127.0.0.1:1/shop?password={FRONT}/@{BACK}",
        "sslpassword": f"postgresql://me@127.0.0.1:1/shop?sslpassword={secret}",
        "unknown parameter": f"postgresql://me@127.0.0.1:1/shop?pasword={secret}",
        "two hosts": f"postgresql://me:{FRONT}/{BACK}@127.0.0.1:1,127.0.0.2:1/shop",
        "as the port": f"postgresql://me@127.0.0.1:{secret}/shop",
        "no user": f"postgresql://:{FRONT}/{BACK}@127.0.0.1:1/shop",
        "bracket": f"postgresql://me:[{secret}@127.0.0.1:1/shop",
        "words": f"host=127.0.0.1 port=1 user=me password={secret} dbname=shop",
        "words, quoted": f"host=127.0.0.1 port=1 user=me password='{FRONT} {BACK}' dbname=shop",
        "words, a space": f"host=127.0.0.1 port=1 user=me password={FRONT} {BACK} dbname=shop",
        "words, a quote": f"host=127.0.0.1 port=1 password='{FRONT}'{BACK}' dbname=shop",
        "words, unended": f"host=127.0.0.1 port=1 password='{secret} dbname=shop",
        "words, a URL for a host": f"host=me:{secret}@127.0.0.1 port=1",
        "another scheme": f"mysql://me:{FRONT}/{BACK}@127.0.0.1:1/shop",
    }
    return [*raw, *digits, *right, *(pytest.param(dsn, id=name) for name, dsn in others.items())]


def assert_clean(text: str) -> None:
    """Nothing of the password is in it."""
    assert not [fragment for fragment in FRAGMENTS if fragment in text], text


def told_by(exc: BaseException | None) -> str:
    """Return all that an error tracker would keep of an error, its causes and contexts included."""
    if exc is None:
        return ""
    own = "".join(traceback.format_exception(exc)) + repr(exc.args) + repr(vars(exc))
    return own + told_by(exc.__cause__) + told_by(exc.__context__)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("CELERY_JOURNAL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("dsn", shapes())
def test_no_password_is_shown_by_the_log(dsn: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Not by errors, nor by what is told besides."""
    caplog.set_level(logging.DEBUG)
    assert_clean(redact(dsn) + redact_url(dsn, "elsewhere"))

    connections = Connections(dsn, timeout=0.5)
    with pytest.raises(JournalError) as failed:
        connect(dsn, 0.5)
    assert_clean(told_by(failed.value))
    with pytest.raises(JournalError) as lent, connections.connection():
        pass
    assert_clean(told_by(lent.value))

    try:
        spool = spool_of(dsn, "celery_journal", tmp_path)
        spool.put(packed(Emitter().emit(TaskSucceeded, "a")))
    except JournalError as exc:
        assert_clean(told_by(exc))
    assert_clean(repr(connections) + caplog.text)
    for file in tmp_path.rglob("*.*"):
        assert_clean(f"{file}{file.read_bytes()!r}")


@pytest.mark.parametrize("dsn", shapes())
def test_no_password_is_shown_by_a_backend(dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its representations and pickles, nor by `celery report` once there is a backend."""
    caplog.set_level(logging.DEBUG)
    url = f"journal+{dsn}" if "://" in dsn else "journal://"
    if url == "journal://":
        monkeypatch.setenv("CELERY_JOURNAL_DSN", dsn)
    app: Any = Celery("secrets", broker="memory://", backend=url, set_as_current=False)
    app.conf.result_backend_transport_options = {"retry_budget": 0, "connect_timeout": 0.5, "spool": ""}
    try:
        backend = app.backend
    except ImproperlyConfigured as exc:
        assert_clean(told_by(exc))
        return
    shown = [
        backend.as_uri(),
        repr(backend),
        repr(app.AsyncResult("a")),
        repr(backend.database),
        repr(backend.options),
        repr(backend.spool),
    ]
    assert_clean("".join(shown) + app.bugreport())
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_clean(repr(backend.__reduce__()) + repr(pickle.dumps(backend, protocol)))
    with pytest.raises((JournalUnavailable, ImproperlyConfigured)) as failed:
        backend.get_task_meta("a")
    assert_clean(told_by(failed.value) + caplog.text)


@pytest.mark.parametrize("dsn", shapes())
def test_no_password_is_shown_by_a_command(dsn: str) -> None:
    """Whatever it is that the command is to do with the database."""
    for command in (["list"], ["doctor"], ["spool"], ["migrate", "--yes"]):
        ended = CliRunner().invoke(main, ["--dsn", dsn, *command])
        assert ended.exit_code or command == ["spool"]
        assert_clean(ended.output + (told_by(ended.exception) if not isinstance(ended.exception, SystemExit) else ""))


@pytest.mark.parametrize("name", ["read_dsn", "listen_dsn"])
@pytest.mark.parametrize("dsn", shapes())
def test_no_password_is_shown_by_an_option(dsn: str, name: str) -> None:
    """Which has no place for one, and says so without it."""
    app: Any = Celery("secrets", broker="memory://", backend="journal+postgresql://me@127.0.0.1:1/shop", set_as_current=False)
    app.conf.result_backend_transport_options = {name: dsn}

    with pytest.raises(ImproperlyConfigured) as failed:
        _ = app.backend

    assert_clean(told_by(failed.value))


@pytest.mark.parametrize("scheme", ["redis", "postgresql", "mysql", "amqp"])
@pytest.mark.parametrize("middle", MIDDLES)
def test_no_password_of_another_url_is_shown(scheme: str, middle: str) -> None:
    """The URLs of brokers and of other result backends."""
    assert_clean(redact_url(f"{scheme}://me:{FRONT}{middle}{BACK}@host:1/0", "elsewhere"))


def test_where_another_url_leads_is_shown() -> None:
    """Where there is nothing to hide in it."""
    assert redact_url("redis://:secret@host:6379/0?ssl=1", "elsewhere") == "redis://host:6379/0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        pytest.param(f"amqp://me:{FRONT}@host:5672/shop", "amqp://me:**@host:5672/shop", id="amqp"),
        pytest.param(f"redis://:{FRONT}@host:6379/3", "redis://:**@host:6379/3", id="redis"),
    ],
)
def test_where_a_broker_is_is_shown(url: str, shown: str) -> None:
    """With Celery's mask for its password."""
    assert masked(Connection(url).as_uri()) == shown


@pytest.mark.parametrize("middle", ["/", "/x", "//", "/?", "/#"])
def test_no_rest_of_a_password_is_shown_as_the_path_of_a_broker(middle: str) -> None:
    """As Celery itself would, where what stands before the / is a number."""
    assert_clean(masked(Connection(f"amqp://me:12{middle}{BACK}@host:5672/shop").as_uri()))
