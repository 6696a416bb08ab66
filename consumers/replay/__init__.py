"""Replay: recorded tasks are sent again, as they were published."""

from .again import send_again
from .errors import BrokerAway, CannotReplay, NothingToReplay, NotSent, ReplayError, ReplayRefused, Uncertain
from .lineage import Lineage, lineage
from .order import Order, Wishes
from .record import Record, begin
from .replay import INTERRUPTED, Replay, Summary

__all__ = [
    "INTERRUPTED",
    "BrokerAway",
    "CannotReplay",
    "Lineage",
    "NotSent",
    "NothingToReplay",
    "Order",
    "Record",
    "Replay",
    "ReplayError",
    "ReplayRefused",
    "Summary",
    "Uncertain",
    "Wishes",
    "begin",
    "lineage",
    "send_again",
]
