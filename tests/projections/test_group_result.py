"""What the view group_result shows of a saved group."""

from __future__ import annotations

from typing import Any

import pytest

from celery_journal.journal.events import (
    Event,
    GroupDeleted,
    GroupExpired,
    GroupSaved,
    TaskFailed,
    TaskForgotten,
    TaskStarted,
    TaskSucceeded,
)

from .spec import Spec, at, fact, read_log

SAVED = b'[["g", null], [[["a", null], null], [["b", null], null]]]'
JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}


def test_a_saved_group_shows_what_was_saved(spec: Spec) -> None:
    """Every field of a saved group is shown (M26-M32)."""
    views = spec.when(fact(GroupSaved, "g", 3, result=SAVED, members=("a", "b"), **JSON))

    assert views.group_result["g"] == {
        "group_id": "g",
        "date_created": at(3),
        "date_saved": at(3),
        "date_done": None,
        "members": ["a", "b"],
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "result": SAVED,
        "result_json": [["g", None], [[["a", None], None], [["b", None], None]]],
        "recorded_at": read_log(spec.connection)[-1].recorded_at,
    }


def test_the_last_save_is_shown_and_the_first_dates_the_group(spec: Spec) -> None:
    """A group saved again shows the later result, by the emitters' clocks (M28, M31, M32)."""
    spec.given(fact(GroupSaved, "g", 5, result=b"[2]", members=("a",)))

    row = spec.when(fact(GroupSaved, "g", 2, result=b"[1]", members=("b",))).group_result["g"]

    assert (row["result"], row["members"], row["date_created"], row["date_saved"]) == (b"[2]", ["a"], at(2), at(5))


def test_of_two_saves_at_one_moment_the_later_in_the_log_is_shown(spec: Spec) -> None:
    """The position decides where the clocks do not (M28)."""
    spec.given(fact(GroupSaved, "g", 5, result=b"[1]"))

    row = spec.when(fact(GroupSaved, "g", 5, result=b"[2]")).group_result["g"]

    assert row["result"] == b"[2]"


def test_a_group_is_done_when_its_last_member_is(spec: Spec) -> None:
    """date_done is the moment the last member became ready, and null before (M31, M32)."""
    spec.given(fact(GroupSaved, "g", 0, members=("a", "b")), fact(TaskSucceeded, "a", 9))
    before = spec.when(fact(TaskStarted, "b", 3)).group_result["g"]

    after = spec.when(fact(TaskFailed, "b", 4)).group_result["g"]

    assert (before["date_done"], after["date_done"]) == (None, at(9))


def test_a_group_that_names_a_member_twice_is_done_when_all_are(spec: Spec) -> None:
    """A chord inside a group, or a hand-made GroupResult, may hold one result twice (M31, M32)."""
    spec.given(fact(GroupSaved, "g", 0, members=("a", "a", "b")), fact(TaskSucceeded, "a", 9))

    row = spec.when(fact(TaskSucceeded, "b", 4)).group_result["g"]

    assert row["date_done"] == at(9)


def test_a_group_is_not_done_when_a_member_was_forgotten(spec: Spec) -> None:
    """What nobody knows any more is not known to be done (M31, M32)."""
    spec.given(fact(GroupSaved, "g", 0, members=("a",)), fact(TaskSucceeded, "a", 1))

    row = spec.when(fact(TaskForgotten, "a", 2)).group_result["g"]

    assert row["date_done"] is None


@pytest.mark.parametrize("members", [pytest.param(None, id="not-known"), pytest.param((), id="none")])
def test_a_group_without_members_is_never_done(spec: Spec, members: tuple[str, ...] | None) -> None:
    """There is no moment at which nothing became ready (M31, M32)."""
    row = spec.when(fact(GroupSaved, "g", 0, members=members)).group_result["g"]

    assert row["date_done"] is None


@pytest.mark.parametrize("forgetting", [pytest.param(GroupDeleted, id="deleted"), pytest.param(GroupExpired, id="expired")])
def test_a_deleted_group_has_no_row_and_is_still_in_the_log(spec: Spec, forgetting: type[Event]) -> None:
    """delete() touches the view; both facts are in the log (M38, B17)."""
    spec.given(saved := fact(GroupSaved, "g", 5, result=SAVED))

    views = spec.when(deleted := fact(forgetting, "g", 1))

    assert views.group_result == {}
    assert [recorded.event for recorded in read_log(spec.connection)][:2] == [saved, deleted]


@pytest.mark.parametrize("forgetting", [pytest.param(GroupDeleted, id="deleted"), pytest.param(GroupExpired, id="expired")])
def test_a_group_saved_after_it_was_deleted_has_a_new_row(spec: Spec, forgetting: type[Event]) -> None:
    """Nothing of the deleted group shines through (M28, M31, M32)."""
    spec.given(fact(GroupSaved, "g", 5, result=b"[1]", members=("a",)), fact(forgetting, "g", 6))

    row = spec.when(fact(GroupSaved, "g", 3, result=b"[2]")).group_result["g"]

    assert (row["result"], row["members"], row["date_created"], row["date_saved"]) == (b"[2]", None, at(3), at(3))
