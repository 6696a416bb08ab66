"""How alerts reach others: a command of theirs, or a request to their server."""

from __future__ import annotations

import base64
import http.client
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from celery_journal.consumers.words import duration, first_line, shown

from .alert import Alert


class Undelivered(Exception):
    """An alert has not arrived, for all that is known; the text is a sentence that says why."""


class Delivery(Protocol):
    """A way to deliver alerts."""

    @property
    def where(self) -> str:
        """Where they go, without anything that is secret."""

    def deliver(self, alert: Alert) -> None:
        """Deliver the alert; raise Undelivered if it has not arrived."""


@dataclass(frozen=True, slots=True)
class Execution:
    """Runs a command for each alert, which it reads from its standard input; it has arrived if the exit code is 0."""

    words: tuple[str, ...]
    #: Seconds after which it is killed.
    timeout: float

    @classmethod
    def of(cls, command: str, timeout: float) -> Execution:
        """Return that of the command as it is typed in a shell; raise ValueError if it cannot be read."""
        words = tuple(shlex.split(command))
        if not words:
            raise ValueError("no command is named")
        return cls(words, timeout)

    @property
    def where(self) -> str:
        """The program; its arguments may be secret."""
        return shown(self.words[0])

    def deliver(self, alert: Alert) -> None:
        """Run the command, in a session of its own: Ctrl-C is not meant for it."""
        environment = {**os.environ, **alert.as_variables()}
        try:
            process = subprocess.Popen(self.words, stdin=subprocess.PIPE, env=environment, start_new_session=True)
        except (OSError, ValueError) as exc:  # the latter of a NUL
            raise Undelivered(f"{self.where} cannot be run: {getattr(exc, 'strerror', None) or first_line(exc)}") from exc
        with process:
            try:
                process.communicate(alert.as_json() + b"\n", self.timeout)
            except subprocess.TimeoutExpired as exc:
                raise Undelivered(f"{self.where} has not ended within {duration(self.timeout)}, and was killed") from exc
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        if process.returncode < 0:
            raise Undelivered(f"{self.where} was killed by signal {-process.returncode}")
        if process.returncode:
            raise Undelivered(f"{self.where} ended with exit code {process.returncode}")


class _NoRedirect(HTTPRedirectHandler):
    """Takes an answer that leads elsewhere for a refusal: what follows it would be a GET, without the alert."""

    def redirect_request(self, *_args: object) -> None:
        """Return that nothing follows."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts each alert to a URL as JSON; it has arrived if the answer is 2xx."""

    #: Without user and password, which are in the headers.
    url: str = field(repr=False)
    where: str
    headers: dict[str, str] = field(repr=False)
    #: Seconds without a word from the server.
    timeout: float
    _opener: OpenerDirector = field(default_factory=lambda: build_opener(_NoRedirect), repr=False)

    @classmethod
    def of(cls, url: str, timeout: float) -> Webhook:
        """Return that of the URL; raise ValueError, without a word of it, if it cannot be used."""
        try:
            parts, port = urlsplit(url), urlsplit(url).port
            (parts.hostname or "").encode("idna")  # as it is when a connection is made
        except ValueError:
            raise ValueError("that is no URL") from None  # whose text has a part of it
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("that is no URL of a web server")
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # what looks like the host is perhaps the beginning of a password
            raise ValueError("behind the host @ is written as %40, and in a password / as %2F, ? as %3F and # as %23")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("a URL has no spaces, and no letters but those of ASCII; write others as %20 or %C3%BC")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = host if port is None else f"{host}:{port}"
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"celery-journal/{metadata.version('celery-journal')}",
            **_authorization(parts),
        }
        return cls(urlunsplit((parts.scheme, place, parts.path, parts.query, "")), f"{parts.scheme}://{place}/...", headers, timeout)

    def deliver(self, alert: Alert) -> None:
        """Post the alert."""
        headers = {**self.headers, "Idempotency-Key": alert.id}
        request = Request(self.url, alert.as_json(), headers, method="POST")  # noqa: S310  its scheme was looked at
        try:
            with self._opener.open(request, timeout=self.timeout):
                return  # HTTPError is raised for whatever is not 2xx
        except HTTPError as exc:
            exc.close()
            failure = f"{self.where} answers {exc.code} {http.client.responses.get(exc.code, '')}".rstrip()
        except TimeoutError:
            failure = f"{self.where} does not answer within {duration(self.timeout)}"
        except URLError as exc:
            reason = exc.reason
            failure = f"{self.where} cannot be reached: {_told(reason) if isinstance(reason, Exception) else shown(reason)}"
        except (OSError, http.client.HTTPException) as exc:
            failure = f"{self.where} does not answer as it should: {_told(exc)}"
        raise Undelivered(failure)  # without what urllib says, which may have the URL in it


def _authorization(parts: SplitResult) -> dict[str, str]:
    if parts.username is None and parts.password is None:
        return {}
    account = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}


def _told(exc: Exception) -> str:
    """Return what has gone wrong; what a server has sent is not repeated."""
    if isinstance(exc, TimeoutError):
        return "it does not answer in time"
    said = exc.strerror if isinstance(exc, OSError) else None
    return shown(said) if said else type(exc).__name__
