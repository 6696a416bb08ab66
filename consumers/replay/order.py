"""What somebody asks for who has recorded tasks sent again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a replay is to be done."""

    #: `kwargs.amount=3`, as they were typed.
    set: tuple[str, ...] = ()
    same_id: bool = False
    also_succeeded: bool = False
    also_unfinished: bool = False
    #: Also what another replay may have sent.
    also_doubtful: bool = False
    #: Also what nobody has recorded the sending of, as the app would send it today.
    guess_routing: bool = False
    #: Celery's rate limit, such as `50/s`.
    rate: str | None = None
    #: Words that the tasks were found by.
    filter: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A replay that somebody asked for."""

    replay_id: str
    wishes: Wishes = Wishes()
    author: str | None = None
    reason: str | None = None
