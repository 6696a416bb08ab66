"""The tasks that the demo sends: one of every kind that a journal has to get right."""

from __future__ import annotations

from dataclasses import dataclass

from celery import chain, chord, group, states
from celery.result import AsyncResult, GroupResult

from . import tasks
from .worker import DEADLINE, Worker


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, in words, and the tasks that it became."""

    what: str
    results: list[AsyncResult]


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that was sent, and those parts of it that are looked at closely."""

    orders: list[Order]
    retried: AsyncResult
    group: GroupResult
    chord: GroupResult
    broken_chord: GroupResult

    @property
    def results(self) -> list[AsyncResult]:
        """Every task."""
        return [result for order in self.orders for result in order.results]


def send(worker: Worker, first: AsyncResult) -> Work:
    """Send the tasks that follow the first, and revoke two of them: one that waits for its time, and one that runs."""
    running, waiting = tasks.pause.delay(DEADLINE), tasks.pause.apply_async((0,), countdown=1)
    tasks.app.control.revoke(waiting.id)
    retried = tasks.flaky.delay()
    added = chain(tasks.add.s(1, 2), tasks.add.s(3), tasks.add.s(4)).delay()
    squares = group(tasks.square.s(x) for x in range(10)).delay()
    squares.save()
    total = chord([tasks.square.s(x) for x in range(10)], tasks.total.s()).delay()
    broken = chord([tasks.square.s(1), tasks.divide.s(1, 0), tasks.square.s(3)], tasks.total.s()).delay()
    orders = [
        Order("add(2, 3)", [first]),
        Order("divide(1, 0)", [tasks.divide.delay(1, 0)]),
        Order("flaky(), retried twice", [retried]),
        Order("crawl(3), with progress", [tasks.crawl.delay(3)]),
        Order("pause, revoked waiting", [waiting]),
        Order("pause, revoked running", [running]),
        *(Order(f"unusual: {which}", [tasks.unusual.delay(which)]) for which in tasks.UNUSUAL),
        Order("chain of 3 x add", [added.parent.parent, added.parent, added]),
        Order("group of 10 x square", list(squares)),
        Order("chord of 10 x square", list(total.parent)),
        Order("  and its body, total", [total]),
        Order("chord with a failing part", list(broken.parent)),
        Order("  and its body, total", [broken]),
    ]
    worker.wait_until(lambda: running.state != states.PENDING, "starting the task that is revoked while it runs")
    tasks.app.control.revoke(running.id, terminate=True, signal="SIGKILL")  # at SIGTERM billiard may die with the lock of all results
    return Work(orders, retried, squares, total.parent, broken.parent)
