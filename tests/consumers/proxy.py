"""A proxy before PostgreSQL that counts round trips, and can cut every connection."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Forwards to the server of a DSN. A round trip is a change of direction: the client speaks after the server did."""

    def __init__(self, dsn: str, port: int = 0) -> None:
        parts = conninfo_to_dict(dsn)
        self._host, self._port = str(parts.get("host") or "127.0.0.1"), int(parts.get("port") or 5432)
        self._listener = socket.create_server(("127.0.0.1", port))
        #: The DSN that leads through the proxy.
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable", gssencmode="disable")
        self.round_trips = 0
        self._flows = threading.Event()
        self._flows.set()
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @contextmanager
    def counting(self) -> Iterator[list[int]]:
        """Put the number of round trips during the block into the list, at its end."""
        before, counted = self.round_trips, list[int]()
        yield counted
        counted.append(self.round_trips - before)

    def cut(self) -> None:
        """Break every connection there is; new ones are welcome."""
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Accept connections during the block, and pass nothing on."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    def close(self) -> None:
        """Stop listening, and break every connection."""
        self._flows.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.add(client)
            thread = threading.Thread(target=self._forward, args=[client])
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket) -> None:
        server = self._connect()
        with client, server, selectors.DefaultSelector() as selector, suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            speaker = server
            while True:
                for key, _ in selector.select():
                    listening, speaking = key.data, client if key.data is server else server
                    if not (data := speaking.recv(65536)):
                        return
                    self.round_trips += speaking is client and speaker is server
                    speaker = speaking
                    self._flows.wait()
                    listening.sendall(data)

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        return server
