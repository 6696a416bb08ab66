"""The events of a replay: recorded tasks that are sent again. Its stream is its id."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeInt

from .event import Event, Text


class ReplayStarted(Event):
    """Somebody begins to send recorded tasks again; all that it takes to resume it."""

    kind: Literal["replay-started"] = "replay-started"
    author: Text | None = None
    reason: Text | None = None
    #: Tasks that are planned.
    size: NonNegativeInt | None = None
    #: What was asked for: the words of the filter, edited arguments, whether the ids stay, ...
    options: dict[Any, Any] | None = None


class ReplayPlanned(Event):
    """These tasks are to be sent again; told before any is, so that a replay that is resumed has the same ones."""

    kind: Literal["replay-planned"] = "replay-planned"
    members: tuple[Text, ...] | None = None


class ReplaySending(Event):
    """These tasks are about to be sent again, together; told before the messages leave."""

    kind: Literal["replay-sending"] = "replay-sending"
    members: tuple[Text, ...] | None = None


class ReplayDoubted(Event):
    """Nobody can know whether the messages of these tasks have reached the broker."""

    kind: Literal["replay-doubted"] = "replay-doubted"
    members: tuple[Text, ...] | None = None
    reason: Text | None = None


class ReplayFinished(Event):
    """There is nothing left to send of the replay; `counts` is what became of its tasks."""

    kind: Literal["replay-finished"] = "replay-finished"
    counts: dict[Any, Any] | None = None
