"""Old versions of events are brought up to date when they are read; the log is never rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

#: (kind, the version it reads) to the function that returns the fields of the next version.
UPCASTERS: dict[tuple[str, int], Upcaster] = {}


def upcast(fields: Fields, upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS) -> Fields:
    """Return the fields of an event in the newest version that is known for its kind."""
    while upcaster := upcasters.get((fields["kind"], fields["schema_version"])):
        version = fields["schema_version"]
        fields = {**upcaster(fields), "schema_version": version + 1}
    return fields


def newest_version(kind: str, upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS) -> int:
    """Return the newest version that is known for the kind."""
    return max((version + 1 for of_kind, version in upcasters if of_kind == kind), default=1)
