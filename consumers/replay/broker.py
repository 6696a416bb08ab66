"""Which broker there is."""

from __future__ import annotations

from typing import Any

from .onebyone import OneByOne
from .rabbitmq import Transactional
from .sender import Sender


def sender_for(app: Any, replay_id: str) -> Sender:
    """Return the way to the broker of the app."""
    transport = app.connection_for_write().transport
    has_transactions = transport.driver_type == "amqp" and transport.driver_name == "py-amqp"
    return Transactional(app, replay_id) if has_transactions else OneByOne(app, replay_id)
