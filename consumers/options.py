"""The options of `result_backend_transport_options`, and the URL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from psycopg.conninfo import make_conninfo
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from celery_journal.journal.codec import DEFAULT_MAX_PAYLOAD_BYTES
from celery_journal.journal.constraints import MAX_ID_BYTES
from celery_journal.journal.dsn import SECRETS, parts_of
from celery_journal.journal.errors import DsnUnreadable, JournalError
from celery_journal.sql import DEFAULT_SCHEMA, check_schema_name

from .environment import PREFIX, warn_of_unknown_variables


def _tracking(value: object) -> object:
    """Return the mode for what django-celery-fulldbresult knows as true and false."""
    return {True: "buffered", False: "off"}.get(value, value) if isinstance(value, bool) else value


#: Seconds that a machine can count; infinite ones and NaN are no numbers of anything.
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
SecondsFromZero = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]

#: The shortest key that cannot be found by trying.
MIN_KEY_LENGTH = 16


def _keys(value: object) -> object:
    """Return the signing keys that are given as a list, or in one text between commas or white space."""
    keys = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it must be a text, or a list of texts")
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise ValueError(f"a key needs {MIN_KEY_LENGTH} characters; make one by: python -c 'import secrets; print(secrets.token_hex(32))'")
    return tuple(keys)


def _keys_in(path: object) -> object:
    """Return the signing keys in the file."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError("it must be the path of a file")
    try:
        keys = _keys(Path(path).read_text())
    except (OSError, UnicodeDecodeError):
        raise ValueError("the file cannot be read; give the path of one that this process may read") from None
    if not keys:
        raise ValueError("the file has no key in it")
    return keys


class InvalidOption(JournalError, ValueError):
    """An option is unknown or has no usable value; the text is one sentence that says which."""


class Options(BaseModel):
    """What can be set in `result_backend_transport_options`, or as CELERY_JOURNAL_<NAME> in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    #: The PostgreSQL schema of the journal.
    schema_name: Annotated[str, AfterValidator(check_schema_name)] = Field(default=DEFAULT_SCHEMA, alias="schema")
    #: Where results are read, such as a replica; unless given, where they are written.
    read_dsn: str | None = None
    #: Where to LISTEN, past a PgBouncer in transaction mode; unless given, where results are written. Empty: poll instead.
    listen_dsn: str | None = None
    #: Connections a process opens at most.
    pool_size: PositiveInt = 4
    #: Seconds to wait for a connection.
    connect_timeout: Seconds = 10.0
    #: Seconds during which a write is tried again when the connection breaks.
    retry_budget: SecondsFromZero = 10.0
    #: The directory that keeps what could not be written within the retry budget; unless given, celery-journal in
    #: $XDG_STATE_HOME or ~/.local/state. Empty: keep nothing, raise instead.
    spool: str | None = None
    #: The most that one spool may hold, in bytes.
    spool_max_bytes: PositiveInt = 1 << 30
    #: Seconds between two looks at the database by those who wait for results, should a notification be lost.
    reread_interval: Seconds = 5.0
    #: Seconds that the server has to answer a statement. Then it is cancelled, and what it was to record goes to the spool.
    answer_timeout: Seconds = 30.0
    #: Wait for the disk where a fact ends something (`meaning`), or with every event (`everything`).
    durability: Literal["meaning", "everything"] = "meaning"
    #: The largest payload of one event.
    max_payload_bytes: PositiveInt = DEFAULT_MAX_PAYLOAD_BYTES
    #: The longest id of a task or a group, in characters.
    task_id_max_length: int = Field(default=MAX_ID_BYTES, ge=1, le=MAX_ID_BYTES)
    #: How it is recorded that a task is sent: `buffered`, a few milliseconds later; `sync`, before its message leaves; or `off`.
    track_publish: Annotated[Literal["buffered", "sync", "off"], BeforeValidator(_tracking)] = "buffered"
    #: Record how tasks end whose results are ignored, without what they return.
    journal_ignored: bool = True
    #: Facts that may wait in a process for being recorded, a few milliseconds as a rule.
    buffer_size: PositiveInt = 10_000
    #: Seconds between two heartbeats of a worker. One that misses four of them counts as gone. 0: none.
    heartbeat_interval: SecondsFromZero = 10.0
    #: Where JSON has no form for what a task returns, store `{"value": str(result), "forced_json": true}` instead of failing the task.
    force_json: bool = False
    #: Keep the arguments of tasks.
    store_arguments: bool = True
    #: Seconds that a process has to send a chord's body before another may take over.
    chord_lease: Seconds = 30.0
    #: Seconds between two looks for chords that a crash has left without a body.
    sweep_interval: Seconds = 10.0
    #: Mark tasks as lost that will not go on by themselves, for all that is known. Their states stay as they are.
    mark_lost: bool = True
    #: Have a worker that starts know which tasks somebody has asked to revoke before.
    remember_revokes: bool = True
    #: Seconds without any news after which a task can be lost.
    lost_grace: Seconds = 300.0
    #: Secrets that sign the bodies of chords in the log, in a list or between commas: the first one signs, each is accepted. Without
    #: one, whoever may write the log can have workers run any task. Celery masks a name with `key` in it wherever it shows settings.
    signing_key: Annotated[tuple[SecretStr, ...], BeforeValidator(_keys)] = ()
    #: A file with more of them, such as a mounted secret.
    signing_key_file: Annotated[tuple[SecretStr, ...], BeforeValidator(_keys_in)] = ()

    @property
    def signing_keys(self) -> list[bytes]:
        """Return the secrets that sign, the first of which does."""
        return [key.get_secret_value().encode() for key in (*self.signing_key, *self.signing_key_file)]

    @classmethod
    def names(cls) -> dict[str, FieldInfo]:
        """Return the options by the names that people give them."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @classmethod
    def read(cls, given: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None) -> Options:
        """Return the options given, completed from the environment and then from `defaults`; raise InvalidOption for what is not one.

        A variable of the environment that sets nothing is only warned of: its prefix may be somebody else's name.
        """
        names = cls.names()
        warn_of_unknown_variables(names)
        environment = {name: os.environ[variable] for name in names if (variable := PREFIX + name.upper()) in os.environ}
        values = {**(defaults or {}), **environment, **(given or {})}
        for name in ("read_dsn", "listen_dsn"):
            parts = _parts(name, values[name]) if values.get(name) else {}
            if SECRETS & parts.keys() and name in (given or {}):
                raise InvalidOption(
                    f"option {name!r} of result_backend_transport_options must not hold a password, because `celery report` would show it: "
                    f"leave it out to use that of result_backend, or set {PREFIX}{name.upper()}"
                )
        for name in values:
            if name not in names:
                near = get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names))}"
                raise InvalidOption(f"result_backend_transport_options has no option {name!r}; {hint}")
        try:
            return cls.model_validate(values)
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            name = ".".join(map(str, error["loc"]))
            # From nothing: pydantic quotes what it was given.
            raise InvalidOption(f"option {name!r} of result_backend_transport_options: {error['msg']}") from None


def beside(name: str, dsn: str, location: str | Path) -> str:
    """Return the DSN of the option `name`, with the user, the password and the database of the journal where it names none."""
    if not isinstance(location, str):
        return dsn
    journal = {key: value for key, value in parts_of(location).items() if key in {"user", "password", "dbname"}}
    return make_conninfo("", **{**journal, **_parts(name, dsn)})


def _parts(name: str, dsn: str) -> dict[str, Any]:
    try:
        return parts_of(dsn.removeprefix("journal+"))
    except (DsnUnreadable, AttributeError, TypeError):  # the latter of what is no text
        raise InvalidOption(f"option {name!r} cannot be read; write it as postgresql://user@host:port/database") from None


def locate(url: str | None) -> str | Path:
    """Return the DSN that the URL of a result backend names, or the directory of an embedded server.

    `url` is what Celery hands on: `journal+postgresql://...` without its `journal+`. None is the DSN of the
    environment, CELERY_JOURNAL_DSN. Raises InvalidOption for anything else, and DsnUnreadable, without any of it, for a DSN of
    which it is not sure what is its password.
    """
    if "\0" in (url or ""):  # libpq would read on as if it ended there
        raise InvalidOption("the URL cannot be read; write it as postgresql://user@host:port/database")
    location = _located(url)
    if isinstance(location, str):
        parts_of(location)
    for shown in SECRETS & parse_qs((url or "").partition("?")[2]).keys():
        raise InvalidOption(
            f"`celery report` would show the {shown} in the URL; write journal+postgresql://user:password@host/database, or set PGPASSFILE"
        )
    return location


def _located(url: str | None) -> str | Path:
    url = (url or os.environ.get("CELERY_JOURNAL_DSN") or "").removeprefix("journal+")
    scheme, separator, rest = url.partition("://")
    match scheme:
        case "postgresql" | "postgres":
            return f"postgresql://{rest}"
        case "journal" if rest:
            return f"postgresql://{rest}"
        case "embedded":
            parts = urlsplit(f"embedded://{rest}")
            path = unquote(parts.path)
            if parts.netloc or not Path(path).is_absolute():  # of a relative path the first part would be taken for a host
                raise InvalidOption("an embedded journal needs an absolute path; write journal+embedded:///path/to/directory")
            return Path(path)
        case "":
            raise InvalidOption("the journal needs a URL; write result_backend = 'journal+postgresql://user@host/database'")
        case _ if not separator:  # a libpq connection string: host=... dbname=...
            return url
        case _:
            raise InvalidOption(f"the journal knows no {scheme}:// URL; write journal+postgresql://user@host/database")
