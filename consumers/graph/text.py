"""A canvas as a tree in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from rich.tree import Tree

from celery_journal.consumers.words import shown

from .canvas import UNSENT, Canvas, Node

_WAYS = {"then": "then ", "body": "then ", "callback": "on success ", "error": "on error ", "called": "sent ", "member": "", None: ""}


def as_tree(canvas: Canvas, style_of: Callable[[str | None], str]) -> list[Tree]:
    """Return the trees of the canvas: of one first task there is one. The node that was asked for is marked."""
    trees: list[Tree] = []
    branch: list[Tree] = []
    for depth, way, node, was_there in canvas.tree():
        label = _label(canvas, node, _WAYS[way], was_there, style_of)
        del branch[depth:]
        if depth:
            branch.append(branch[-1].add(label))
        else:
            branch.append(Tree(label))
            trees.append(branch[0])
    return trees


def _label(canvas: Canvas, node: Node, way: str, was_there: bool, style_of: Callable[[str | None], str]) -> Text:
    label = Text.assemble((way, "dim"), (shown(node.title), "bold" if node.kind == "task" else ""))
    label.append(f" {shown(node.status)}" if node.status else "", style="dim" if node.state == UNSENT else style_of(node.state))
    label.append(f"  {shown(node.id)}{'  (see above)' if was_there else ''}", style="dim")
    if node.id == canvas.subject:
        label.append("  <--", style="bold")
    return label
