"""A canvas as other programs draw it: Mermaid and Graphviz."""

from __future__ import annotations

from celery import states

from celery_journal.consumers.words import shown

from .canvas import UNSENT, Canvas, Node

#: Fill colours by state, the same in all drawings.
COLOURS = {
    states.SUCCESS: "#d3f0d3",
    states.FAILURE: "#f6c9c9",
    states.RETRY: "#fbe8b6",
    states.REVOKED: "#ead3f0",
    states.REJECTED: "#ead3f0",
    states.PENDING: "#eeeeee",
    UNSENT: "#ffffff",
    "failed": "#f6c9c9",
    "unlocked": "#d3f0d3",
}
RUNNING = "#cfe6f7"


def colour_of(node: Node) -> str:
    """Return the fill colour of a node."""
    return COLOURS.get(node.state, RUNNING) if node.state else COLOURS[UNSENT]


def as_mermaid(canvas: Canvas) -> str:
    """Return the canvas as a Mermaid flowchart."""
    names = {node: f"n{number}" for number, node in enumerate(canvas.nodes)}
    lines = ["flowchart TD"]
    for node in canvas.nodes.values():
        left, right = ("[", "]") if node.kind == "task" else ("{{", "}}")
        label = "<br/>".join(_for_mermaid(line) for line in lines_of(node))
        lines.append(f'    {names[node.id]}{left}"{label}"{right}')
        lines.append(f"    style {names[node.id]} fill:{colour_of(node)},stroke:#555{',stroke-width:3px' * (node.id == canvas.subject)}")
    lines += [
        f"    {names[source]} {'-.->' if canvas.nodes[target].state == UNSENT else '-->'}|{way}| {names[target]}"
        for (source, target), way in canvas.edges.items()
        if source in names and target in names
    ]
    return "\n".join(lines)


def as_dot(canvas: Canvas) -> str:
    """Return the canvas in the language of Graphviz."""
    names = {node: f"n{number}" for number, node in enumerate(canvas.nodes)}
    lines = ["digraph canvas {", '    node [style=filled, fontname="sans-serif"];']
    for node in canvas.nodes.values():
        label = "\\n".join(_for_dot(line) for line in lines_of(node))
        shape = "box" if node.kind == "task" else "hexagon"
        width = ", penwidth=3" * (node.id == canvas.subject)
        lines.append(f'    {names[node.id]} [label="{label}", shape={shape}, fillcolor="{colour_of(node)}"{width}];')
    lines += [
        f'    {names[source]} -> {names[target]} [label="{way}"{", style=dashed" * (canvas.nodes[target].state == UNSENT)}];'
        for (source, target), way in canvas.edges.items()
        if source in names and target in names
    ]
    return "\n".join([*lines, "}"])


def lines_of(node: Node) -> list[str]:
    """Return the lines in the box of a node."""
    return [line for line in (node.title, node.status, node.id) if line]


def _for_mermaid(text: str) -> str:
    """Return the text with whatever Mermaid, or the HTML in its labels, would obey as entities."""
    return "".join(char if char.isalnum() or char in " .,:_@-()/=" else f"#{ord(char)};" for char in shown(text))


def _for_dot(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace('"', '\\"')
