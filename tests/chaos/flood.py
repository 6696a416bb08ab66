"""Celery's broadcast in full flow, with the database away in the middle: `python -m tests.chaos.flood [--seconds 60] [--rate 5000]`.

Nothing may be lost, nothing be there twice, memory stays under its limit, and the capture catches up.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import psycopg
from kombu import Producer

from celery_journal.journal import migrate
from celery_journal.projections import verify
from tests.consumers.broadcasting import Foreigner, Station, counted, twice
from tests.consumers.scene import in_background, until
from tests.consumers.servers import folder_of_servers, postgresql
from tests.consumers.workers import available

LIMIT = 200 << 20

#: Events that are sent between two looks at the clock: those of so many tasks.
STEP = 100


def flood(station: Station, rate: float, seconds: float, group: int) -> int:
    """Broadcast at that rate, so many events in a message; return how many events that were."""
    worker, sent, began = Foreigner(), 0, time.monotonic()
    with station.app.connection_for_write() as connection:
        producer = Producer(connection)
        while time.monotonic() - began < seconds:
            events = worker.lives(STEP)
            for start in range(0, len(events), group):
                body: object = events[start : start + group] if group > 1 else events[start]
                producer.publish(body, exchange=f"{station.token}-events", routing_key="task.multi", serializer="json", delivery_mode=1)
            sent += len(events)
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
    print(f"  sent {sent:,} events in {time.monotonic() - began:.1f} s, {group} in a message", flush=True)
    return sent


class Watch(threading.Thread):
    """Looks at the memory of a process until it ends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.peak = 0

    def run(self) -> None:
        """Look, ten times a second."""
        while self._process.poll() is None:
            try:
                self.peak = max(self.peak, psutil.Process(self._process.pid).memory_info().rss)
            except psutil.Error:
                return
            time.sleep(0.1)


def run(rate: float, seconds: float, away: float, group: int) -> list[str]:
    """Make the run; return what is wrong afterwards."""
    with tempfile.TemporaryDirectory() as temporary, folder_of_servers() as folder, postgresql(folder, fsync="on") as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        station = Station("rabbitmq", server.dsn, Path(temporary))
        station.declare()
        capture = station.start()
        watch = Watch(capture)
        watch.start()
        said = list[str]()
        listener = threading.Thread(target=lambda: said.extend(iter(capture.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
        listener.start()
        try:
            source = in_background(flood, station, rate, seconds, group)
            time.sleep((seconds - away) / 2)
            server.stop()  # by this thread, with which the server would end
            time.sleep(away)
            server.start()
            sent = source.result()
            ended = time.monotonic()
            until(lambda: counted(server.dsn) >= sent or capture.poll() is not None, 20 * seconds)
            print(f"  caught up {time.monotonic() - ended:.1f} s after the last event; at most {watch.peak / (1 << 20):.0f} MB", flush=True)
        finally:
            capture.terminate()
            capture.wait(30)
            listener.join(5)
            print("".join(f"    {line}" for line in said), end="")
            station.close()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            differences = len(verify(connection).differences)
        wrong = {
            f"{sent:,} events were sent and {counted(server.dsn):,} recorded": counted(server.dsn) != sent,
            f"{len(twice(server.dsn)):,} transitions are there twice": bool(twice(server.dsn)),
            f"the capture took {watch.peak / (1 << 20):.0f} MB": watch.peak > LIMIT,
            f"the capture ended with {capture.returncode}": capture.returncode != 0,
            f"{differences:,} rows of the views differ from the log": differences > 0,
        }
        return [text for text, is_so in wrong.items() if is_so]


def main(arguments: list[str]) -> int:
    """Make the run that the arguments ask for; return 0 if nothing is wrong, 2 if it cannot be made here."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.flood", description=__doc__)
    parser.add_argument("--rate", type=float, default=5000, help="events a second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: %(default)s)")
    parser.add_argument("--away", type=float, default=10, help="seconds that the database is away in the middle (default: %(default)s)")
    parser.add_argument(
        "--group", type=int, default=1, help="events in a message, of which a busy worker sends up to 24 (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if not available("rabbitmq"):
        print("not run: there is no RabbitMQ on this machine")
        return 2
    wrong = run(given.rate, given.seconds, given.away, given.group)
    print("\n".join(f"WRONG: {text}" for text in wrong) or "nothing lost, nothing twice")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
