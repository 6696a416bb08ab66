"""The options of the result backend and its URL: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import VERSION, Celery
from celery.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers.backend import JournalBackend, JournalUnavailable
from celery_journal.consumers.options import InvalidOption, Options, beside, locate

from .scene import new_app, url_of

SECRET = "s3cret"

DOCS = Path(__file__).parents[2] / "docs" / "options.md"


def backend_of(url: str, **options: Any) -> JournalBackend:
    backend: JournalBackend = new_app(url, result_backend_transport_options=options).backend
    return backend


def test_the_defaults_need_no_option() -> None:
    """An app that sets nothing gets the documented defaults."""
    options = Options.read(None)

    assert (options.schema_name, options.pool_size, options.durability, options.chord_lease) == ("celery_journal", 4, "meaning", 30.0)


def test_an_unknown_option_is_refused_with_the_nearest_valid_one() -> None:
    """A slip of the pen names what was meant."""
    with pytest.raises(ImproperlyConfigured, match="no option 'pool_sise'; did you mean 'pool_size'"):
        backend_of("journal+postgresql://host/db", pool_sise=3)


def test_an_option_like_no_other_is_refused_with_all_there_are() -> None:
    """Where nothing is near, every valid option is named."""
    with pytest.raises(ImproperlyConfigured, match=r"'zzz'; there are answer_timeout, buffer_size, chord_lease, .*store_arguments"):
        backend_of("journal+postgresql://host/db", zzz=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("pool_size", 0, id="no connections"),
        pytest.param("pool_size", "many", id="no number"),
        pytest.param("retry_budget", -1, id="negative"),
        pytest.param("durability", "never", id="no choice"),
        pytest.param("schema", "Robert'); drop table", id="schema that needs quotes"),
        pytest.param("chord_lease", 0, id="no lease"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(name: str, value: object) -> None:
    """The error says which option it is."""
    with pytest.raises(ImproperlyConfigured, match=f"^option '{name}' of result_backend_transport_options: "):
        backend_of("journal+postgresql://host/db", **{name: value})


def test_the_environment_sets_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """CELERY_JOURNAL_<NAME> is an option, and what the app says goes before it."""
    monkeypatch.setenv("CELERY_JOURNAL_POOL_SIZE", "7")
    monkeypatch.setenv("CELERY_JOURNAL_CHORD_LEASE", "5")

    options = backend_of("journal+postgresql://host/db", chord_lease=6).options

    assert (options.pool_size, options.chord_lease) == (7, 6)


def test_a_wrong_value_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is checked as the settings are."""
    monkeypatch.setenv("CELERY_JOURNAL_POOL_SIZE", "a few")

    with pytest.raises(ImproperlyConfigured, match="'pool_size'"):
        backend_of("journal+postgresql://host/db")


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        pytest.param("journal+mysql://user:s3cret@host/db", "mysql", id="mysql"),
        pytest.param("journal+redis://:s3cret@host", "redis", id="redis"),
    ],
)
def test_another_scheme_is_refused(url: str, scheme: str) -> None:
    """The journal lives in PostgreSQL, and says how to name one, without repeating a password."""
    with pytest.raises(ImproperlyConfigured, match=f"no {scheme}:// URL; write journal\\+postgresql://") as refused:
        backend_of(url)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", [pytest.param("journal", id="name only"), pytest.param("journal://", id="scheme only")])
def test_a_backend_without_a_url_says_how_to_write_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`result_backend = "journal"` names no database."""
    monkeypatch.delenv("CELERY_JOURNAL_DSN", raising=False)

    with pytest.raises(ImproperlyConfigured, match=r"write .*journal\+postgresql://user@host/database"):
        backend_of(url)


@pytest.mark.parametrize("dsn", [pytest.param("postgresql://u@h/d", id="url"), pytest.param("host=h dbname=d user=u", id="keywords")])
def test_a_backend_without_a_url_takes_the_dsn_of_the_environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`result_backend = "journal"` with CELERY_JOURNAL_DSN keeps the address out of the code."""
    monkeypatch.setenv("CELERY_JOURNAL_DSN", dsn)

    assert backend_of("journal").location == dsn


@pytest.mark.parametrize(
    "url", [pytest.param("journal+embedded://", id="none"), pytest.param("journal+embedded://var/journal", id="relative")]
)
def test_an_embedded_journal_needs_an_absolute_path(url: str) -> None:
    """A relative directory would be another one for each working directory."""
    with pytest.raises(ImproperlyConfigured, match="needs an absolute path; write journal\\+embedded:///path"):
        backend_of(url)


def test_an_embedded_journal_is_its_directory() -> None:
    """The path may hold what URLs escape."""
    backend = backend_of("journal+embedded:///var/my%20journal")

    assert backend.location == Path("/var/my journal")
    assert backend.as_uri() == "journal+embedded:///var/my journal"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://user@one:5433,two:5434/db?target_session_attrs=read-write&application_name=x", id="several hosts"),
        pytest.param("postgresql:///db?host=/run/postgresql&sslmode=disable", id="socket"),
        pytest.param("postgresql://us%40er:p%2Fw@host/d%20b?options=-c%20statement_timeout%3D5s", id="escapes"),
    ],
)
def test_what_libpq_knows_comes_through(url: str) -> None:
    """Every form of a PostgreSQL URL is handed on as it is."""
    assert locate(url) == url
    assert backend_of(f"journal+{url}").location == url
    psycopg.conninfo.conninfo_to_dict(url)


def test_the_journal_scheme_alone_is_postgresql() -> None:
    """`journal://host/db` is short for `journal+postgresql://host/db`."""
    assert locate("journal://u@host/db") == "postgresql://u@host/db"


def test_the_parameters_of_the_url_reach_the_server(dsn: str, make_app: Callable[..., Celery]) -> None:
    """The name given in the URL is what pg_stat_activity shows, in place of ours."""
    app = make_app(url_of(dsn, application_name="mine", sslmode="disable", options="-c statement_timeout=54321"))

    app.backend.get_task_meta("nobody")

    seen = app.backend.database.run(
        lambda connection: connection.execute("select current_setting('application_name'), current_setting('statement_timeout')").fetchone()
    )
    assert seen == ("mine", "54321ms")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"journal+postgresql://me:{SECRET}@host:5433/db", id="before the host"),
        pytest.param(f"journal://me:{SECRET}@host:5433/db", id="short scheme"),
    ],
)
def test_no_password_is_shown(url: str) -> None:
    """`celery report`, the worker's banner and every repr leave the password out."""
    app = new_app(url)

    shown = [app.backend.as_uri(), repr(app.backend), repr(app.AsyncResult("a")), str(app.backend.database), repr(app.backend.journal)]

    assert not [text for text in shown if SECRET in text]
    assert app.backend.as_uri() == "journal+postgresql://me@host:5433/db"


def test_the_password_is_shown_on_request() -> None:
    """as_uri(include_password=True) is what a worker is configured with."""
    url = f"journal+postgresql://me:{SECRET}@host:5433/db"

    assert new_app(url).backend.as_uri(include_password=True) == url


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"postgresql://me:{SECRET}@127.0.0.1:1/db", id="unreachable"),
        pytest.param(f"postgresql://me:{SECRET}@127.0.0.1:port/db", id="no port"),
        pytest.param(f"postgresql://me:{SECRET}@127.0.0.1/db?unheard_of={SECRET}", id="no such parameter"),
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    """What goes to logs and to error trackers has no secret in it, the cause included."""
    with pytest.raises((JournalUnavailable, ImproperlyConfigured)) as failed:
        backend_of(f"journal+{url}", retry_budget=0, connect_timeout=1).get_task_meta("a")

    assert SECRET not in "".join(texts(failed.value))


def texts(error: BaseException | None) -> list[str]:
    return [] if error is None else [f"{error!s}{error!r}", *texts(error.__cause__)]


def test_an_option_that_is_no_secret_is_named_in_its_error() -> None:
    """Options.read() says what is wrong in one sentence."""
    with pytest.raises(InvalidOption) as refused:
        Options.read({"pool_size": 0})

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["read_dsn", "listen_dsn"])
@pytest.mark.parametrize("dsn", ["postgresql://u:s3cret@h/d", "host=h password=s3cret", "postgresql://u@h/d?password=s3cret"])
def test_a_password_among_the_options_is_refused(name: str, dsn: str) -> None:
    """`celery report` prints them as they are."""
    with pytest.raises(ImproperlyConfigured, match=f"set CELERY_JOURNAL_{name.upper()}") as refused:
        backend_of("journal+postgresql://host/db", **{name: dsn})

    assert SECRET not in str(refused.value)


def test_a_password_in_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing prints it."""
    monkeypatch.setenv("CELERY_JOURNAL_READ_DSN", "postgresql://u:s3cret@h/d")

    assert backend_of("journal+postgresql://host/db").options.read_dsn == "postgresql://u:s3cret@h/d"


def test_another_server_has_the_same_user_and_database() -> None:
    """Of a replica it is enough to say where it is."""
    parts = conninfo_to_dict(beside("read_dsn", "postgresql://replica:5433", "postgresql://me:s3cret@primary/shop?sslmode=require"))

    assert parts == {"host": "replica", "port": "5433", "user": "me", "password": SECRET, "dbname": "shop"}


@pytest.mark.parametrize("name", ["read_dsn", "listen_dsn"])
def test_a_dsn_that_cannot_be_read_is_refused(name: str) -> None:
    """And not repeated, because it may hold a password."""
    with pytest.raises(ImproperlyConfigured, match=f"option '{name}' cannot be read") as refused:
        backend_of("journal+postgresql://host/db", **{name: "host=h s3cret"})

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("journal+postgresql://u:s3cret@h/db", id="one host"),
        pytest.param("journal+postgresql://u:s3cret@/db?host=h1,h2&port=5432,5433&target_session_attrs=read-write", id="two hosts"),
        pytest.param(
            "journal+postgresql://u:s3cret@h1:5432,h2:5433/db",
            id="two hosts with their ports",
            marks=pytest.mark.skipif(VERSION < (5, 7), reason="before Celery 5.7, `celery report` can read one port only"),
        ),
        pytest.param("journal+postgresql://u:s3cret@/db?host=/run/postgresql", id="a socket"),
    ],
)
def test_celery_report_shows_no_password(url: str) -> None:
    """Nor do the banner and `inspect`, which ask for as_uri()."""
    app = new_app(url, result_backend_transport_options={"read_dsn": "postgresql://u@replica/db"})

    assert SECRET not in app.bugreport() + app.backend.as_uri() + repr(app.backend)
    assert "u" in app.backend.as_uri()


@pytest.mark.parametrize("name", ["password", "sslpassword"])
def test_a_password_that_celery_report_would_show_is_refused(name: str) -> None:
    """A URL has it before the host, where Celery knows to hide it."""
    with pytest.raises(ImproperlyConfigured, match=f"would show the {name} in the URL") as refused:
        backend_of(f"journal+postgresql://u@h/db?{name}=s3cret")

    assert SECRET not in str(refused.value)


def test_the_documentation_lists_every_option_with_its_default() -> None:
    """Whoever reads it finds them all, and none that is not there."""
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", DOCS.read_text("utf-8"), re.MULTILINE))
    fields = {field.alias or name: field for name, field in Options.model_fields.items()}

    assert listed.keys() == fields.keys()
    for name, field in fields.items():
        if field.default not in {None, ()}:  # those without one say in words what they do
            assert listed[name].strip("`") == str(field.default).lower().removesuffix(".0"), name
