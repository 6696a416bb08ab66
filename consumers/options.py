"""The options of `result_backend_transport_options`, and the URL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from celery_journal.journal.codec import DEFAULT_MAX_PAYLOAD_BYTES, MAX_ID_BYTES
from celery_journal.sql import DEFAULT_SCHEMA, check_schema_name

#: The parameters of a DSN that nobody may see.
SECRETS = {"password", "sslpassword"}

ENVIRONMENT_PREFIX = "CELERY_JOURNAL_"


def _tracking(value: object) -> object:
    """Return the mode for what django-celery-fulldbresult knows as true and false."""
    return {True: "buffered", False: "off"}.get(value, value) if isinstance(value, bool) else value


class InvalidOption(ValueError):
    """An option is unknown or has no usable value; the text is one sentence that says which."""


class Options(BaseModel):
    """What can be set in `result_backend_transport_options`, or as CELERY_JOURNAL_<NAME> in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    #: The PostgreSQL schema of the journal.
    schema_name: Annotated[str, AfterValidator(check_schema_name)] = Field(default=DEFAULT_SCHEMA, alias="schema")
    #: Where results are read, such as a replica; unless given, where they are written.
    read_dsn: str | None = None
    #: Where to LISTEN, past a PgBouncer in transaction mode; unless given, where results are written. Empty: poll instead.
    listen_dsn: str | None = None
    #: Connections a process opens at most.
    pool_size: PositiveInt = 4
    #: Seconds to wait for a connection.
    connect_timeout: PositiveFloat = 10.0
    #: Seconds during which a write is tried again when the connection breaks.
    retry_budget: float = Field(default=10.0, ge=0)
    #: The directory that keeps what could not be written within the retry budget; unless given, celery-journal in
    #: $XDG_STATE_HOME or ~/.local/state. Empty: keep nothing, raise instead.
    spool: str | None = None
    #: The most that one spool may hold, in bytes.
    spool_max_bytes: PositiveInt = 1 << 30
    #: Seconds between two looks at the database by those who wait for results, should a notification be lost.
    reread_interval: PositiveFloat = 5.0
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
    heartbeat_interval: float = Field(default=10.0, ge=0)
    #: Where JSON has no form for what a task returns, store `{"value": str(result), "forced_json": true}` instead of failing the task.
    force_json: bool = False
    #: Keep the arguments of tasks.
    store_arguments: bool = True
    #: Seconds that a process has to send a chord's body before another may take over.
    chord_lease: PositiveFloat = 30.0
    #: Seconds between two looks for chords that a crash has left without a body.
    sweep_interval: PositiveFloat = 10.0
    #: Mark tasks as lost that will not go on by themselves, for all that is known. Their states stay as they are.
    mark_lost: bool = True
    #: Seconds without any news after which a task can be lost.
    lost_grace: PositiveFloat = 300.0

    @classmethod
    def read(cls, given: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None) -> Options:
        """Return the options given, completed from the environment and then from `defaults`; raise InvalidOption for what is not one."""
        names = {field.alias or name: field for name, field in cls.model_fields.items()}
        environment = {name: os.environ[variable] for name in names if (variable := ENVIRONMENT_PREFIX + name.upper()) in os.environ}
        values = {**(defaults or {}), **environment, **(given or {})}
        for name in ("read_dsn", "listen_dsn"):
            parts = _parts(name, values[name]) if values.get(name) else {}
            if "password" in parts and name in (given or {}):
                raise InvalidOption(
                    f"option {name!r} of result_backend_transport_options must not hold a password, because `celery report` would show it: "
                    f"leave it out to use that of result_backend, or set {ENVIRONMENT_PREFIX}{name.upper()}"
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
            raise InvalidOption(f"option {name!r} of result_backend_transport_options: {error['msg']}") from exc


def beside(name: str, dsn: str, location: str | Path) -> str:
    """Return the DSN of the option `name`, with the user, the password and the database of the journal where it names none."""
    if not isinstance(location, str):
        return dsn
    journal = {key: value for key, value in conninfo_to_dict(location).items() if key in {"user", "password", "dbname"}}
    return make_conninfo("", **{**journal, **_parts(name, dsn)})


def _parts(name: str, dsn: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn.removeprefix("journal+"))
    except ProgrammingError:  # libpq quotes what it cannot read, and that may be the password
        raise InvalidOption(f"option {name!r} cannot be read; write it as postgresql://user@host:port/database") from None


def locate(url: str | None) -> str | Path:
    """Return the DSN that the URL of a result backend names, or the directory of an embedded server.

    `url` is what Celery hands on: `journal+postgresql://...` without its `journal+`. None is the DSN of the
    environment, CELERY_JOURNAL_DSN. Raises InvalidOption for anything else.
    """
    for shown in SECRETS & parse_qs(urlsplit(url or "").query).keys():
        raise InvalidOption(
            f"`celery report` would show the {shown} in the URL; write journal+postgresql://user:password@host/database, or set PGPASSFILE"
        )
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
