"""A producer in a process of its own: it sends what the schedule says, when it says so, and writes down what was sent."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from celery import chain, chord, group

from tests.chaos import tasks
from tests.chaos.schedule import FOREIGN, Order, Plan


def place(order: Order) -> Any:
    """Send what is ordered."""
    (first, *_), dice = order.ids, order.dice
    match order.kind:
        case "quick":
            tasks.quick.apply_async([order.number], task_id=first)
        case "quiet":
            tasks.quiet.apply_async([order.number], task_id=first)
        case "persist":
            tasks.persist.apply_async([1 + int(dice * 3), dice], task_id=first)
        case "exhaust":
            tasks.exhaust.apply_async([dice], task_id=first)
        case "later":
            tasks.quick.apply_async(["later"], task_id=first, countdown=1 + 6 * dice)
        case "late" | "sleep":
            tasks.app.tasks[f"chaos.{order.kind}"].apply_async([0.05 + 0.75 * dice**2], task_id=first)
        case "revoke":
            tasks.quick.apply_async(["revoked"], task_id=first, countdown=2 + 4 * dice)
            tasks.diary.write("revoked", id=first)
            tasks.app.control.revoke(first)
        case "expire":
            tasks.quick.apply_async(["expired"], task_id=first, countdown=2 + 2 * dice, expires=1)
        case "group":
            group(*parts(order.ids, dice, failing=0.1)).apply_async()
        case "chord":
            *header, body = order.ids
            chord(group(*parts(header, dice, failing=0.2)), tasks.collect.s().set(task_id=body)).apply_async()
        case "chain":
            sequence = [tasks.link.s().set(task_id=task_id) for task_id in order.ids]
            if dice < 0.2:
                sequence[-2] = tasks.fail.s().set(task_id=order.ids[-2])
            chain(*sequence).apply_async()
        case "foreign":
            chosen = tasks.fail.si() if dice < 0.2 else tasks.sleep.si(0.2 * dice)
            chosen.apply_async(task_id=first, queue=FOREIGN)
        case kind:
            tasks.app.tasks[f"chaos.{kind}"].apply_async(task_id=first)


def parts(ids: Any, dice: float, failing: float) -> list[Any]:
    """Return the members of a group, one of which fails in so many of all cases."""
    return [
        tasks.part.s(13 if dice < failing and not number else number, 0.1 * dice).set(task_id=task_id) for number, task_id in enumerate(ids)
    ]


def main(plan: Plan, share: int, began: float) -> None:
    """Send every order of this producer's share."""
    for order in plan.orders():
        if order.number % plan.producers != share:
            continue
        time.sleep(max(0, began + order.at - time.time()))
        tasks.diary.write("ordered", number=order.number, kind=order.kind, ids=order.ids)
        try:
            place(order)
        except Exception as exc:  # noqa: BLE001  whatever it is, the producer goes on, as a web server does
            tasks.diary.write("refused", number=order.number, kind=order.kind, why=f"{type(exc).__name__}: {exc}")
    if hasattr(tasks.app.backend, "database"):
        tasks.app.backend.database.close()


if __name__ == "__main__":
    main(Plan(**json.loads(os.environ["CHAOS_PLAN"])), int(sys.argv[1]), float(sys.argv[2]))
