"""Those who are told by `watch`: a web server, and a command that writes down what it is given."""

from __future__ import annotations

import json
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Told = dict[str, Any]


@dataclass(slots=True)
class Receiver:
    """What has arrived at a web server, and what it answers."""

    told: list[Told] = field(default_factory=list)
    #: The headers and the path of each request, whatever was answered.
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    #: The status of the next answers; 204 when there are no more.
    answers: list[int] = field(default_factory=list)
    #: Whether it is kept to itself what it answers, until this is set.
    may_answer: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def of(self, kind: str) -> list[Told]:
        """Return what has arrived of the kind."""
        return [one for one in self.told if one["kind"] == kind]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A web server, until the end of the block."""
    receiver = Receiver()
    receiver.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append((self.path, dict(self.headers)))
            answer = receiver.answers.pop(0) if receiver.answers else 204
            if answer < 300:
                receiver.told.append(json.loads(body))
            receiver.may_answer.wait(60)
            self.send_response(answer)
            if answer in {301, 302, 303, 307, 308}:
                self.send_header("Location", receiver.url)
            self.end_headers()

        def do_GET(self) -> None:
            receiver.requests.append((self.path, {}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Notebook:
    """A command that appends the alert and its variables to a file; it fails as long as there is a file `refuse`."""

    folder: Path

    def __post_init__(self) -> None:
        script = self.folder / "note it"
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, os, pathlib, sys\n"
            "folder = pathlib.Path(__file__).parent\n"
            "if (folder / 'refuse').exists():\n"
            "    sys.exit(3)\n"
            "variables = {name: value for name, value in os.environ.items() if name.startswith('CELERY_JOURNAL_ALERT_')}\n"
            "line = json.dumps([json.load(sys.stdin), variables, sys.argv[1:]])\n"
            "with (folder / 'notes').open('a') as file:\n"
            "    file.write(line + '\\n')\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    @property
    def command(self) -> str:
        """How it is run."""
        return f"'{self.folder}/note it' --channel 'on call'"

    @property
    def notes(self) -> list[tuple[Told, dict[str, str], list[str]]]:
        """What it was told so far."""
        file = self.folder / "notes"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def told(self) -> list[Told]:
        """The alerts alone."""
        return [alert for alert, _, _ in self.notes]

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """It fails during the block."""
        (self.folder / "refuse").touch()
        yield
        (self.folder / "refuse").unlink()
