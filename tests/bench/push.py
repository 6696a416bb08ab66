"""What the hints to those who wait cost a writer, as a ratio to appending without any."""

from __future__ import annotations

import statistics
import threading

from celery_journal.journal import Journal, Listener
from tests.bench.append import REPEATS, appends


def run(dsn: str) -> None:
    """Single durable appends with hints, while nobody listens and while somebody does, as ratios to those without."""
    for writers in (1, 16):
        ratios: dict[str, list[float]] = {"nobody listens": [], "one listens": []}
        for _ in range(REPEATS):
            silent = appends(dsn, Journal(everything_durable=True), writers)
            ratios["nobody listens"].append(_hinting(dsn, writers) / silent)
            listener, heard = Listener(dsn), list[int]()
            thread = threading.Thread(target=_listen, args=(listener, stop := threading.Event(), heard))
            thread.start()
            ratios["one listens"].append(_hinting(dsn, writers) / silent)
            stop.set()
            listener.wake()
            thread.join()
            listener.close()
            assert heard
        for who, values in ratios.items():
            spread = f"{min(values):.2f}-{max(values):.2f}"
            print(f"  {writers:2} writers, {who:14}: median ratio {statistics.median(values):.2f} ({spread})", flush=True)


def _hinting(dsn: str, writers: int) -> float:
    return appends(dsn, Journal(everything_durable=True, announcing=True), writers)


def _listen(listener: Listener, stop: threading.Event, heard: list[int]) -> None:
    while not stop.is_set():
        heard.append(len(listener.wait(1.0)))
