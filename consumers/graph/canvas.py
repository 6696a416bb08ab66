"""A canvas: its tasks, groups and chords, and what leads from one to the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: What leads from one to the next: the next step of a chain, a member of a group, the body of a chord, a callback or an error callback,
#: or a task that was simply sent by another.
Way = Literal["then", "member", "body", "callback", "error", "called"]

#: The state of a step that was not sent yet, and perhaps never will be.
UNSENT = "not sent"


@dataclass(frozen=True, slots=True)
class Node:
    """A task, a group or a chord."""

    id: str
    kind: Literal["task", "group", "chord"]
    name: str = ""
    #: Celery's state of a task, or `not sent`; `open`, `unlocked` or `failed` of a chord.
    state: str = ""
    worker: str | None = None
    #: Members of a group or a chord, and those of a chord that have returned; None where it is not known.
    size: int | None = None
    done: int | None = None
    lost_reason: str | None = None

    @property
    def title(self) -> str:
        """What it is: the name of a task."""
        if self.kind == "task":
            return self.name or "?"
        size = "" if self.size is None else f" of {self.size:,}"
        returned = "" if self.done is None else f", {self.done:,} returned"
        return f"{self.kind}{size}{returned}"

    @property
    def status(self) -> str:
        """How it stands."""
        return " ".join(part for part in (self.state, self.lost_reason and "lost", self.worker and f"on {self.worker}") if part)


@dataclass(slots=True)
class Canvas:
    """Everything that was sent, or is to be sent, because of one first task."""

    #: The id that was asked for.
    subject: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], Way] = field(default_factory=dict)
    #: Whether there is more than was read.
    is_cut: bool = False

    def join(self, source: str, target: str, way: Way) -> None:
        """Say that one leads to the other; the first to say so is right, and nothing leads to itself."""
        if source != target:
            self.edges.setdefault((source, target), way)

    def tree(self) -> Iterator[tuple[int, Way | None, Node, bool]]:
        """Yield the nodes depth first, with their depth, the way that leads there, and whether they were there before."""
        below: dict[str, list[tuple[str, Way]]] = defaultdict(list)
        for (source, target), way in self.edges.items():
            if source in self.nodes and target in self.nodes:
                below[source].append((target, way))
        for targets in below.values():
            targets.sort(key=lambda one: one[1] == "body")  # which comes when all members have returned
        led_to = {target for targets in below.values() for target, _ in targets}
        seen: set[str] = set()
        # What is left after the first ones stands in a circle, which no canvas of Celery's makes.
        for first in (*(node for node in self.nodes if node not in led_to), *self.nodes):
            ahead: list[tuple[int, Way | None, str]] = [] if first in seen else [(0, None, first)]
            while ahead:
                depth, by, node = ahead.pop()
                yield depth, by, self.nodes[node], node in seen
                if node not in seen:
                    seen.add(node)
                    ahead += [(depth + 1, onward, target) for target, onward in reversed(below[node])]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        edges = [{"from": source, "to": target, "way": way} for (source, target), way in self.edges.items()]
        return {"id": self.subject, "nodes": [asdict(node) for node in self.nodes.values()], "edges": edges, "is_cut": self.is_cut}
