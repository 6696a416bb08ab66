"""The shape of what Celery shows of a request."""

from __future__ import annotations

from typing import Any


def shape(value: Any) -> Any:
    """Return the names and types that a value is made of."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, dict):
        return [kind, {str(key): shape(inner) for key, inner in value.items()}]
    return [kind, *map(shape, value)] if isinstance(value, (list, tuple)) else kind
