"""A PostgreSQL server's doorstep, where answers can get lost."""

from __future__ import annotations

import select
import shutil
import socket
import tempfile
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

#: What a server sends last, once nothing is left to commit: ready for a query, and idle.
READY_AND_IDLE = b"Z\x00\x00\x00\x05I"

#: What it says of a COMMIT that is not the last it was asked.
COMMITTED = b"COMMIT\x00"


class Proxy:
    """Forwards connections to a server, over TCP or a Unix socket as the server does; once told to, it keeps an answer back.

    The server has then answered that it committed, and the client's connection is cut.
    """

    def __init__(self, server: str) -> None:
        parameters = conninfo_to_dict(server)
        host, port = str(parameters.get("host") or "127.0.0.1"), int(parameters.get("port") or 5432)
        self._directory = tempfile.mkdtemp(prefix="proxy-") if host.startswith("/") else None
        if self._directory:
            self._family, self._server = socket.AF_UNIX, f"{host}/.s.PGSQL.{port}"
            here: dict[str, Any] = {"host": self._directory, "hostaddr": None, "port": 5432}
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(f"{self._directory}/.s.PGSQL.5432")
        else:
            self._family, self._server = socket.AF_INET, (host, port)  # type: ignore[assignment]
            self._listener = socket.create_server(("127.0.0.1", 0))
            here = {"host": "127.0.0.1", "hostaddr": None, "port": self._listener.getsockname()[1]}
        self._listener.listen()
        self.dsn = make_conninfo(server, sslmode="disable", gssencmode="disable", **here)
        #: How often the server was asked something and answered.
        self.round_trips = 0
        self._losing = Event()
        #: Set once an answer got lost.
        self.lost = Event()
        self._threads = [Thread(target=self._accept, daemon=True)]

    def lose_the_next_answer(self) -> None:
        """Keep back the server's next answer, and cut that connection."""
        self._losing.set()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        if self._directory:
            shutil.rmtree(self._directory)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = Thread(target=self._forward, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        answer, asking = b"", False
        with client, socket.socket(self._family) as server:
            server.connect(self._server)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if client in ready:
                    if not (asked := client.recv(65536)):
                        return
                    server.sendall(asked)
                    self.round_trips += not asking
                    asking = True
                if server in ready:
                    if not (answered := server.recv(65536)):
                        return
                    asking = False
                    if not self._losing.is_set():
                        client.sendall(answered)
                        continue
                    answer += answered
                    if answer.endswith(READY_AND_IDLE) or COMMITTED in answer:
                        self._losing.clear()
                        self.lost.set()
                        return
