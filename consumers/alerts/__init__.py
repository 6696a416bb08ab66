"""Alerts: what goes wrong, told to others by a command or a webhook."""

from .alert import KINDS, Alert, Kind
from .deliveries import Delivery, Execution, Undelivered, Webhook
from .facts import Facts
from .looks import Queues, Spooled, Workers
from .watcher import Watcher

__all__ = [
    "KINDS",
    "Alert",
    "Delivery",
    "Execution",
    "Facts",
    "Kind",
    "Queues",
    "Spooled",
    "Undelivered",
    "Watcher",
    "Webhook",
    "Workers",
]
