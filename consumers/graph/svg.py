"""A canvas as an SVG picture: in layers, each node below all that leads to it."""

from __future__ import annotations

from collections import defaultdict
from xml.sax.saxutils import escape, quoteattr

from celery_journal.consumers.contents import cut
from celery_journal.consumers.words import shown

from .canvas import UNSENT, Canvas, Node
from .markup import colour_of, lines_of

_WIDTH, _HEIGHT, _LINE = 240, 62, 16
_ACROSS, _DOWN = 24, 56

#: Characters that a line of a box has room for.
_ROOM = 36

_STYLE = """\
  <style>
    text { font: 11px sans-serif; fill: #222 } .name { font-weight: bold } .way { fill: #777 }
    line { stroke: #777 } .unsent { stroke-dasharray: 5 4 } rect { stroke: #555 } .subject { stroke-width: 3 }
  </style>
  <defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
    <path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>"""


def as_svg(canvas: Canvas) -> str:
    """Return the picture as a document of its own."""
    places = _places(canvas)
    width = max((x for x, _ in places.values()), default=0) + _WIDTH + _ACROSS
    height = max((y for _, y in places.values()), default=0) + _HEIGHT + _ACROSS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">',
        f"  <title>{escape(shown(canvas.subject))}</title>",
        _STYLE,
    ]
    for (source, target), way in canvas.edges.items():
        if source in places and target in places:
            parts += _arrow(places[source], places[target], way, is_unsent=canvas.nodes[target].state == UNSENT)
    for node in canvas.nodes.values():
        parts += _box(node, *places[node.id], is_subject=node.id == canvas.subject)
    return "\n".join([*parts, "</svg>"])


def _places(canvas: Canvas) -> dict[str, tuple[int, int]]:
    """Return the upper left corner of each node."""
    depths: dict[str, int] = {}
    for depth, _, node, _ in canvas.tree():
        depths[node.id] = max(depth, depths.get(node.id, 0))
    places = {}
    rows: dict[int, int] = defaultdict(int)
    for node_id, depth in depths.items():
        places[node_id] = (_ACROSS + rows[depth] * (_WIDTH + _ACROSS), _ACROSS + depth * (_HEIGHT + _DOWN))
        rows[depth] += 1
    return places


def _arrow(source: tuple[int, int], target: tuple[int, int], way: str, *, is_unsent: bool) -> list[str]:
    from_x, from_y = source[0] + _WIDTH // 2, source[1] + _HEIGHT
    to_x, to_y = target[0] + _WIDTH // 2, target[1]
    dashed = ' class="unsent"' if is_unsent else ""
    return [
        f'  <line x1="{from_x}" y1="{from_y}" x2="{to_x}" y2="{to_y}" marker-end="url(#head)"{dashed}/>',
        f'  <text class="way" x="{(from_x + to_x) // 2 + 4}" y="{(from_y + to_y) // 2}">{escape(way)}</text>',
    ]


def _box(node: Node, x: int, y: int, *, is_subject: bool) -> list[str]:
    classes = " ".join(name for name, holds in (("unsent", node.state == UNSENT), ("subject", is_subject)) if holds)
    round_corners = 4 if node.kind == "task" else 20
    lines = [
        f'    <text x="{x + 10}" y="{y + 18 + number * _LINE}"{" class=" + quoteattr("name") if number == 0 else ""}>'
        f"{escape(cut(shown(line), _ROOM))}</text>"
        for number, line in enumerate(lines_of(node))
    ]
    return [
        f"  <g><title>{escape(shown(' | '.join(lines_of(node))))}</title>",
        f'    <rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="{round_corners}" fill="{colour_of(node)}" class="{classes}"/>',
        *lines,
        "  </g>",
    ]
