"""A RabbitMQ node of its own, which can be stopped and started again; the machine's own is left alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kombu import Connection

from tests.consumers.scene import until
from tests.consumers.servers import unused_port

from .children import end_with_us

#: Debian keeps the programs that ask nothing about accounts where no PATH leads.
PROGRAMS = f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
SERVER = shutil.which("rabbitmq-server", path=PROGRAMS)
CONTROL = shutil.which("rabbitmqctl", path=PROGRAMS)
EPMD = shutil.which("epmd")


def can_run() -> bool:
    """Return whether this machine has all that a node takes."""
    return None not in {SERVER, CONTROL, EPMD}


@dataclass
class Broker:
    """A node with a folder of its own, on ports of 127.0.0.1."""

    folder: Path
    port: int = field(default_factory=unused_port)
    #: Where nodes find each other: without one of ours, the node would leave one behind.
    names_port: int = field(default_factory=unused_port)
    links_port: int = field(default_factory=unused_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"pyamqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it, and do not wait until it is there."""
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [str(SERVER)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=end_with_us(signal.SIGTERM),  # noqa: PLW1509 - nothing else starts here
            )

    def wait(self) -> None:
        """Wait until it lets clients in."""
        until(lambda: self.answers() or self._ended())
        assert not self._ended(), (self.folder / "output").read_text(errors="replace")

    def answers(self) -> bool:
        """Return whether it lets clients in."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except (OSError, *Connection(self.url).connection_errors):
            return False
        return True

    def stop(self) -> None:
        """Stop it as an operator does."""
        if self.process is None:
            return
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()
        self.process.wait()

    def queues(self) -> dict[str, tuple[int, int]]:
        """Return of each queue how many messages are ready, and how many are with its consumers."""
        command = [
            str(CONTROL),
            "--quiet",
            "--node",
            "chaos@localhost",
            "list_queues",
            "--no-table-headers",
            "name",
            "messages_ready",
            "messages_unacknowledged",
        ]
        said = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=60, check=True).stdout
        lines = [line.split("\t") for line in said.splitlines() if line.count("\t") == 2]
        return {name: (int(ready), int(unacknowledged)) for name, ready, unacknowledged in lines}

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def _environment(self) -> dict[str, str]:
        names = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **names,
            "PATH": PROGRAMS,
            "HOME": str(self.folder),  # of the cookie by which its own programs know it
            "ERL_EPMD_PORT": str(self.names_port),
            "RABBITMQ_NODENAME": "chaos@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.links_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
        }


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Broker]:
    """A new node in the folder, which must exist, until the end of the block."""
    broker = Broker(folder)
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "rabbitmq-env.conf").touch()
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{broker.port}\ncollect_statistics_interval = 60000\n")
    names = subprocess.Popen(
        [str(EPMD), "-address", "127.0.0.1", "-port", str(broker.names_port)],
        preexec_fn=end_with_us(signal.SIGKILL),  # noqa: PLW1509 - nothing else starts here
    )
    try:
        broker.start()
        broker.wait()
        yield broker
    finally:
        broker.stop()
        names.kill()
        names.wait()
