"""What a row of the log must be, as its trigger `refuse_nonsense` has it, by the same names and in words for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

#: What an index can hold (2,704 bytes a row), with room for what stands beside an id.
MAX_ID_BYTES = 2500

#: The moments that an event_id can name, and that have a year of four digits.
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)

#: The kinds whose state is always the same.
STATE_OF_KIND = {
    "task-sent": "PENDING",
    "task-received": "RECEIVED",
    "task-started": "STARTED",
    "task-retried": "RETRY",
    "task-rejected": "REJECTED",
    "task-revoked": "REVOKED",
    "task-failed": "FAILURE",
    "task-succeeded": "SUCCESS",
}

#: States that no custom one can be. A task may set itself back to PENDING.
OF_ANOTHER_KIND = frozenset(STATE_OF_KIND.values()) - {"PENDING"}

Row = Mapping[str, Any]


def _state_fits(row: Row) -> bool:
    kind, state = row["kind"], row["state"]
    match kind:
        case "task-progress" | "task-ignored":
            return state is not None and state not in OF_ANOTHER_KIND
        case _:
            return kind not in STATE_OF_KIND or state == STATE_OF_KIND[kind]


def _names_its_member(row: Row) -> bool:
    return row["kind"] != "chord-part-returned" or row["task_id"] is not None


def _at_least(column: str, least: int) -> Callable[[Row], bool]:
    return lambda row: row[column] is None or row[column] >= least


#: By the name that the error of the database has: what holds, and what is said of a row of which it does not.
CONSTRAINTS: Mapping[str, tuple[Callable[[Row], bool], str]] = {
    "event_has_a_stream": (
        lambda row: 0 < len(row["stream"].encode()) <= MAX_ID_BYTES,
        f"the id of what it is about is empty, or longer than {MAX_ID_BYTES:,} bytes",
    ),
    "event_has_a_kind": (lambda row: row["kind"] != "", "it has no kind"),
    "event_is_of_our_years": (
        lambda row: row["occurred_at"] >= FIRST_MOMENT,
        "the log takes what happened in the years 1970 to 9999; set the clock right",
    ),
    "event_order_follows_its_clock": (
        lambda row: row["ordered_at"] is None or row["ordered_at"] > row["occurred_at"],
        "its ordered_at is not after its occurred_at",
    ),
    "event_schema_version_counts_from_one": (_at_least("schema_version", 1), "its schema_version is below 1"),
    "event_attempt_counts_from_zero": (_at_least("attempt", 0), "its attempt is below 0"),
    "event_size_counts_from_zero": (_at_least("size", 0), "its size is below 0"),
    "event_group_index_counts_from_zero": (_at_least("group_index", 0), "its group_index is below 0"),
    "event_pid_is_of_a_process": (_at_least("pid", 1), "its pid is below 1"),
    "event_time_limit_is_a_duration": (
        lambda row: row["time_limit"] is None or 0 <= row["time_limit"] < math.inf,
        "its time_limit is no number of seconds",
    ),
    "event_members_are_a_list": (lambda row: None not in (row["members"] or ()), "its members are no list of ids"),
    "event_part_names_its_member": (_names_its_member, "the part of a chord names no task"),
    "event_state_fits_its_kind": (_state_fits, "its state is not one of its kind"),
}


def broken_by(row: Row) -> str | None:
    """Return what makes no sense in the row, in words; None where all does. Its columns are of the types of the table."""
    return next((said for holds, said in CONSTRAINTS.values() if not holds(row)), None)
