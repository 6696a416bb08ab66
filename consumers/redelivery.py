"""What a broker gives to another worker when one is gone: after how long, and what of that it still holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from celery import Celery

logger = logging.getLogger(__name__)

#: Seconds after which a broker gives a message to a second worker, unless told otherwise, as kombu has it.
VISIBILITY_TIMEOUTS = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}

#: Seconds that a broker has to answer.
PATIENCE = 5.0

#: Returns those of the tasks whose messages the broker holds for a worker.
Held = Callable[[Collection[str]], set[str]]


def visibility_timeout(app: Celery) -> float | None:
    """Return after how many seconds the broker of the app takes a worker for gone; None where it notices by itself."""
    with app.connection_for_read() as broker:
        default = VISIBILITY_TIMEOUTS.get(broker.transport_cls)
    if default is None:
        return None
    given: float = (app.conf.broker_transport_options or {}).get("visibility_timeout", default)
    return given


def held(app: Celery, task_ids: Collection[str]) -> set[str]:
    """Return those of the tasks that Redis holds for a worker, which may be gone; all of them if it does not answer.

    Of another broker nobody can ask this, and it gives them back as soon as it notices.
    """
    if not task_ids:
        return set()
    options = {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}
    try:
        with app.connection_for_read(transport_options={**(app.conf.broker_transport_options or {}), **options}) as broker:
            if broker.transport.driver_type != "redis":
                return set()
            return {task_id for task_id in _unacknowledged(broker.default_channel) if task_id in task_ids}
    except Exception as exc:  # noqa: BLE001  whatever it is: nothing is known then, and nothing must run twice for that
        logger.warning("it is not known what the broker holds: %s", str(exc).strip().partition("\n")[0] or type(exc).__name__)
        return set(task_ids)


def prefix_of(channel: Any, command: str) -> str:
    """Return what must stand before the keys of a command of Redis: kombu puts its prefix there for those only which it uses itself."""
    return "" if command in getattr(channel.client, "PREFIXED_SIMPLE_COMMANDS", ()) else getattr(channel, "global_keyprefix", "")


def _unacknowledged(channel: Any) -> Iterator[str]:
    for _, delivery in channel.client.hscan_iter(prefix_of(channel, "HSCAN") + channel.unacked_key, count=100):
        try:
            yield str(json.loads(delivery)[0]["headers"]["id"])
        except (ValueError, TypeError, LookupError):  # not a task
            continue
