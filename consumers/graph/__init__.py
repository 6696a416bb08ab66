"""The canvas that a task is part of, from any of its members, and how it is drawn."""

from .canvas import UNSENT, Canvas, Node
from .markup import as_dot, as_mermaid
from .reading import canvas_of
from .svg import as_svg
from .text import as_tree

__all__ = ["UNSENT", "Canvas", "Node", "as_dot", "as_mermaid", "as_svg", "as_tree", "canvas_of"]
