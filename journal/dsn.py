"""What may be shown of a DSN or a URL: only parts that were read by a strict grammar, and so are surely no part of a password."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .errors import DsnUnreadable

#: The parameters of a DSN that nobody may see.
SECRETS = {"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}

UNSAFE = "(a DSN that cannot be shown safely; in its password write / as %2F, @ as %40, ? as %3F, # as %23 and % as %25)"

_UNREADABLE = (
    "the DSN cannot be read; write it as postgresql://user:password@host:port/database, "
    "and in its password / as %2F, @ as %40, ? as %3F, # as %23 and % as %25"
)

_NAME = re.compile(r"\w[\w.+-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|/[\w./~+-]*")
_MASKED = re.compile(r"[a-z0-9+]+://([\w.+-]*(:\*\*)?@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])?(:[0-9]{1,5})?(/[\w./~+-]*)?")
_PORT = re.compile(r"[0-9]{1,5}")


def parts_of(dsn: str) -> dict[str, Any]:
    """Return the parameters of the DSN; raise DsnUnreadable, without any of it, where a password may have been cut in two.

    libpq takes what follows the first / or @ of a password for the host, the port or the database.
    """
    parts = None
    # The error is raised outside, so that it has no context either: libpq quotes what it cannot read, and that may be the password.
    with suppress(ProgrammingError, UnicodeError):
        parts = conninfo_to_dict(dsn)
    if parts is None or _is_cut(dsn) or not all(map(_is_host, _hosts(parts))) or not all(map(_is_port, _listed(parts, "port"))):
        raise DsnUnreadable(_UNREADABLE)
    return parts


def redact(dsn: str) -> str:
    """Return where the DSN leads, without its password, and nothing of it where that is not sure."""
    try:
        parts = parts_of(dsn)
    except DsnUnreadable:
        return UNSAFE
    if not all(_NAME.fullmatch(str(parts[name])) for name in ("user", "dbname") if parts.get(name)):
        return UNSAFE
    hosts, ports = _hosts(parts), _listed(parts, "port")
    if len(ports) == 1:
        ports *= len(hosts)  # one port is that of every host
    where = ",".join(f"{host}:{port}" if port and not host.startswith("/") else host for host, port in zip(hosts, ports, strict=False))
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"{user}{where or 'the local socket'}/{parts.get('dbname') or ''}"


def without_secrets(dsn: str) -> str:
    """Return the DSN without what nobody may see; raise DsnUnreadable where that is not sure."""
    return make_conninfo("", **{name: value for name, value in parts_of(dsn).items() if name not in SECRETS})


def shareable(dsn: str) -> str | None:
    """Return the DSN as it is where it surely has nothing that nobody may see, and None else."""
    if re.fullmatch(r"embedded:///[\w./~+-]*", dsn):
        return dsn
    with suppress(DsnUnreadable):
        return dsn if redact(dsn) != UNSAFE and not SECRETS & parts_of(dsn).keys() else None
    return None


def redact_url(url: str, otherwise: str) -> str:
    """Return where a URL of another kind leads: its scheme, host, port and path. Where that is not sure, `otherwise`."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return otherwise
    host, path = parts.hostname or "", parts.path
    is_plain = not host or _is_host(host)
    if _is_cut(url) or not parts.scheme or not is_plain or not re.fullmatch(r"[\w./~+-]*", path):
        return otherwise
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{path}"


def masked(shown: str) -> str:
    """Return what Celery shows of a broker, its password masked; where it may have taken the rest of one for a path, nothing of it."""
    return shown if _MASKED.fullmatch(shown) else "(a URL that cannot be shown safely; in its password write / as %2F and @ as %40)"


def _is_cut(url: str) -> bool:
    """Return whether a password in it was not escaped, so that some would take the rest of it for something else."""
    _, separator, rest = url.partition("://")
    authority, _, tail = rest.partition("/")
    account, _, _ = authority.rpartition("@")
    # libpq takes a ? or a # there for a part of the password, and Celery, which shows URLs of its own accord, for the end of the host.
    return bool(separator) and ("@" in tail or re.search(r"[@?#\[\]\s]", account) is not None)


def _hosts(parts: dict[str, Any]) -> list[str]:
    return _listed(parts, "host" if parts.get("host") else "hostaddr")


def _listed(parts: dict[str, Any], name: str) -> list[str]:
    return str(parts.get(name) or "").split(",")


def _is_host(host: str) -> bool:
    if not host or _HOST.fullmatch(host):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_port(port: str) -> bool:
    return not port or bool(_PORT.fullmatch(port))
