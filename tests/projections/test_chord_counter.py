"""What the view chord_counter shows of a chord, and who is told to send the body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest

from celery_journal.journal import Connection, Journal
from celery_journal.journal.events import (
    ChordFailed,
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    GroupDeleted,
    GroupExpired,
)

from .oracle import Row
from .spec import Spec, at, at_once, checked, fact, read_log

HEADER = b'[[["a", null], null], [["b", null], null]]'
LEASE = timedelta(minutes=1)


def part(task_id: str, second: float = 5, state: str = "SUCCESS", index: int | None = None) -> ChordPartReturned:
    return fact(ChordPartReturned, "g", second, task_id=task_id, state=state, group_index=index, result=b"1")


def counts(row: Row) -> tuple[object, ...]:
    return row["size"], row["done"], row["failed"], row["count"]


def claim(connection: Connection, claimant: str = "me", parts: int = 1, lease: timedelta = LEASE) -> str:
    row = connection.execute("select celery_journal.claim_chord('g', %s, %s, %s)", (parts, claimant, lease)).fetchone()
    assert row is not None
    answer: str = row[0]
    return answer


def test_a_chord_shows_its_header_and_its_size(spec: Spec) -> None:
    """The counter starts at the length of the header (M39-M42)."""
    row = spec.chord(fact(ChordStarted, "g", 1, size=2, result=HEADER))

    assert row == {
        "group_id": "g",
        "sub_tasks": [[["a", None], None], [["b", None], None]],
        "size": 2,
        "done": 0,
        "failed": 0,
        "count": 2,
        "date_created": at(1),
        "date_done": None,
        "state": "open",
        "body_task_id": None,
        "recorded_at": read_log(spec.connection)[-1].recorded_at,
    }


def test_the_count_falls_from_the_size_to_zero(spec: Spec) -> None:
    """Each part that returns takes one off; failed parts count, and are counted apart (M42)."""
    seen = [counts(spec.chord(fact(ChordStarted, "g", 1, size=3)))]
    for task_id, state in (("a", "SUCCESS"), ("b", "FAILURE"), ("c", "REVOKED")):
        seen.append(counts(spec.when(part(task_id, state=state)).chord_counter["g"]))

    assert seen == [(3, 0, 0, 3), (3, 1, 0, 2), (3, 2, 1, 1), (3, 3, 2, 0)]


def test_a_chord_whose_size_nobody_knows_yet_has_no_count(spec: Spec) -> None:
    """A header that is a generator has no length: nobody may take "not known" for "none left" (M42)."""
    spec.given(part("a"))

    row = spec.chord(fact(ChordStarted, "g", 1))

    assert counts(row) == (None, 1, 0, None)


def test_the_size_may_come_after_the_parts(spec: Spec) -> None:
    """set_chord_size() runs when the header was sent, and the first parts may be back by then (M42)."""
    spec.given(part("a"), fact(ChordStarted, "g", 1), part("b"))

    row = spec.chord(fact(ChordSizeSet, "g", 2, size=3))

    assert counts(row) == (3, 2, 0, 1)


def test_the_last_size_counts(spec: Spec) -> None:
    """A header that replaced a member by a chord is sized again (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), fact(ChordSizeSet, "g", 5, size=4))

    row = spec.chord(fact(ChordSizeSet, "g", 3, size=3))

    assert row["size"] == 4


def test_an_added_member_raises_the_size_once(spec: Spec) -> None:
    """add_to_chord() brings a member, however often it is told (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), fact(ChordSizeSet, "g", 2, task_id="c"), fact(ChordSizeSet, "g", 4, task_id="d"))

    row = spec.chord(fact(ChordSizeSet, "g", 3, task_id="c"))

    assert counts(row) == (4, 0, 0, 4)


def test_the_header_alone_tells_the_size_until_it_is_set(spec: Spec) -> None:
    """The view counts the header where no size has come yet (M41, M42)."""
    spec.given(part("a"))

    row = spec.chord(fact(ChordStarted, "g", 1, result=HEADER))

    assert counts(row) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"{}", id="no-list"),
        pytest.param(b"\x80\x04]\x94.", id="pickle"),
        pytest.param(b'["a\\u0000"]', id="escaped-nul"),
        pytest.param(b'["a\x00"]', id="nul"),
    ],
)
def test_a_header_that_is_no_json_list_does_not_make_the_view_unreadable(spec: Spec, header: bytes) -> None:
    """One odd header must not break the view for every other chord (M41)."""
    spec.journal.append(spec.connection, fact(ChordStarted, "odd", 1, result=header))
    spec.journal.append(spec.connection, fact(ChordStarted, "g", 1, size=2, result=HEADER))

    rows = spec.connection.execute("select group_id, size from celery_journal.chord_counter order by 1").fetchall()

    assert rows == [("g", 2), ("odd", None)]


def test_a_redelivered_part_counts_once(spec: Spec) -> None:
    """A part that is told again, as a success or by a late revoke, is one part (M39, M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), part("a", 3, index=0), part("a", 4, index=0))

    views = spec.when(part("a", 5, "REVOKED", index=0))

    assert counts(views.chord_counter["g"]) == (2, 1, 0, 1)
    assert views.chord_part["g", "a", 0]["date_done"] == at(3)


def test_the_success_of_a_part_beats_its_failure(spec: Spec) -> None:
    """A part that was given up and then did return has returned (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), part("a", 3, "FAILURE"))

    views = spec.when(part("a", 4))

    assert counts(views.chord_counter["g"]) == (2, 1, 0, 1)
    assert views.chord_part["g", "a", None]["status"] == "SUCCESS"


def test_one_task_in_two_places_of_the_header_is_two_parts(spec: Spec) -> None:
    """A part is keyed by its place too (M39)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), part("a", index=0))

    row = spec.when(part("a", index=1)).chord_counter["g"]

    assert counts(row) == (2, 2, 0, 0)


def test_more_parts_than_the_size_leave_nothing_to_wait_for(spec: Spec) -> None:
    """The count is never negative (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=1), part("a"))

    row = spec.when(part("b")).chord_counter["g"]

    assert counts(row) == (1, 2, 0, 0)


def test_an_unlocked_chord_names_its_body(spec: Spec) -> None:
    """Once the body is sent the chord is done (M39, M45)."""
    spec.given(fact(ChordStarted, "g", 1, size=1), part("a"))

    row = spec.chord(fact(ChordUnlocked, "g", 7, task_id="body"))

    assert (row["state"], row["body_task_id"], row["date_done"]) == ("unlocked", "body", at(7))


def test_a_body_that_was_sent_stands_against_a_failure(spec: Spec) -> None:
    """Of two ends, unlocked wins, whatever the clocks say (M39)."""
    spec.given(fact(ChordStarted, "g", 1, size=1), fact(ChordUnlocked, "g", 7, task_id="body"))

    row = spec.chord(fact(ChordFailed, "g", 9, task_id="other"))

    assert (row["state"], row["body_task_id"], row["date_done"]) == ("unlocked", "body", at(7))


def test_a_failed_chord_says_so(spec: Spec) -> None:
    """A body that will not run ends the chord as well (M39)."""
    spec.given(fact(ChordStarted, "g", 1, size=1), part("a", state="FAILURE"))

    row = spec.chord(fact(ChordFailed, "g", 9, task_id="body"))

    assert (row["state"], row["body_task_id"], row["date_done"]) == ("failed", "body", at(9))


def test_an_expired_chord_has_no_row_and_no_parts(spec: Spec) -> None:
    """group-expired takes the chord and its parts out of the views (M45)."""
    spec.given(fact(ChordStarted, "g", 1, size=1), part("a"), fact(ChordUnlocked, "g", 6))

    views = spec.when(fact(GroupExpired, "g", 2))

    assert (views.chord_counter, views.chord_part) == ({}, {})


def test_a_deleted_group_leaves_its_chord_alone(spec: Spec) -> None:
    """GroupResult.delete() is about the saved group (M38)."""
    spec.given(fact(ChordStarted, "g", 1, size=1))

    row = spec.chord(fact(GroupDeleted, "g", 2))

    assert row["count"] == 1


def test_a_chord_that_starts_after_its_expiry_counts_only_the_parts_since(spec: Spec) -> None:
    """Nothing of the expired chord shines through (M42)."""
    spec.given(
        fact(ChordStarted, "g", 5, size=5, result=HEADER), part("a"), fact(ChordSizeSet, "g", 6, task_id="x"), fact(GroupExpired, "g")
    )
    spec.given(part("b"))

    row = spec.chord(fact(ChordStarted, "g", 2, size=2))

    assert counts(row) == (2, 1, 0, 1)
    assert (row["date_created"], row["sub_tasks"]) == (at(2), None)


def test_a_part_that_returns_again_after_the_expiry_counts(spec: Spec) -> None:
    """What came before the expiry is as if it had never been, a success included (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), part("a", 2), fact(GroupExpired, "g", 3), fact(ChordStarted, "g", 4, size=2))

    views = spec.when(part("a", 5, "FAILURE"))

    assert counts(views.chord_counter["g"]) == (2, 1, 1, 1)
    assert claim(spec.connection, parts=0) == "waiting"


def test_purging_what_was_forgotten_changes_no_view(spec: Spec) -> None:
    """The same part, told again after the expiry, is counted the same before and after the purge (M42)."""
    spec.given(fact(ChordStarted, "g", 1, size=2), part("a", 2), fact(GroupExpired, "g", 3), fact(ChordStarted, "g", 4, size=2))
    for _ in range(2):
        spec.connection.execute("select celery_journal.purge_forgotten()")

    views = spec.when(part("a", 5))

    assert counts(views.chord_counter["g"]) == (2, 1, 0, 1)


def test_a_chord_nobody_started_is_unknown(connection: Connection) -> None:
    """A part of a chord that was started elsewhere, or has expired, makes no body (B19)."""
    assert claim(connection) == "unknown"


def test_a_chord_waits_for_its_size(connection: Connection, journal: Journal) -> None:
    """Parts that are back before the size is known make nobody send the body (B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1), part("a"))

    assert claim(connection) == "waiting"


def test_the_last_part_claims_the_chord(connection: Connection, journal: Journal) -> None:
    """Each part but the last hears `waiting`, the last `claimed`, whoever comes after it `taken` (B19, M42)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=2))
    answers = []
    for task_id in "ab":
        journal.append(connection, part(task_id))
        answers.append(claim(connection, task_id))

    answers.append(claim(connection, "late"))

    assert answers == ["waiting", "claimed", "taken"]


def test_a_redelivered_part_does_not_claim_the_chord(connection: Connection, journal: Journal) -> None:
    """The cheap tally counts a redelivery, the parts do not (B19, M42)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=2))
    answers = []
    for task_id in "aaab":
        journal.append(connection, part(task_id))
        answers.append(claim(connection, task_id))

    assert answers == ["waiting", "waiting", "waiting", "claimed"]


def test_the_size_claims_when_it_comes_last(connection: Connection, journal: Journal) -> None:
    """Whoever sets the size of a chord whose parts are all back asks with no part of its own, and claims (B18, B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1))
    journal.append(connection, part("a"))
    assert claim(connection) == "waiting"
    journal.append(connection, fact(ChordSizeSet, "g", 2, size=1))

    assert claim(connection, parts=0) == "claimed"


def test_an_added_member_is_waited_for(connection: Connection, journal: Journal) -> None:
    """A member that add_to_chord() brought is one more part to wait for (B19, M42)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), fact(ChordSizeSet, "g", 2, task_id="b"), part("a"))
    before = claim(connection)
    journal.append(connection, part("b"))

    assert (before, claim(connection)) == ("waiting", "claimed")


def test_a_claim_that_ran_out_is_taken_over(connection: Connection, journal: Journal) -> None:
    """A claimant that died leaves the chord to the next sweep (B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), part("a"))
    assert claim(connection, "dies", lease=timedelta(0)) == "claimed"

    assert claim(connection, "sweep", parts=0) == "taken over"


def test_a_claim_that_was_given_back_is_free(connection: Connection, journal: Journal) -> None:
    """Without its lease a chord is anybody's again (B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), part("a"))
    assert claim(connection, "one") == "claimed"
    before = claim(connection, "two", parts=0)
    connection.execute("select celery_journal.release_chord('g')")

    assert (before, claim(connection, "two", parts=0)) == ("taken", "claimed")


def test_a_claimant_whose_answer_was_lost_may_ask_again(connection: Connection, journal: Journal) -> None:
    """The same claim, asked a second time because the connection broke, is still the claimant's, and nobody else's (B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), part("a"))
    assert claim(connection, "one") == "claimed"

    assert [claim(connection, name) for name in ("one", "two")] == ["claimed", "taken"]


@pytest.mark.parametrize("end", [pytest.param(ChordUnlocked, id="unlocked"), pytest.param(ChordFailed, id="failed")])
def test_an_ended_chord_is_not_claimed_again(connection: Connection, journal: Journal, end: type[ChordUnlocked | ChordFailed]) -> None:
    """Once the body is sent, or will not run, a late part only hears so (B19, M45)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), part("a"))
    assert claim(connection) == "claimed"
    journal.append(connection, fact(end, "g", 6, task_id="body"))

    assert claim(connection, "late") == "ended"
    assert connection.execute("select count(*) from celery_journal.chord_lease").fetchone() == (0,)


def test_a_chord_that_expired_is_unknown(connection: Connection, journal: Journal) -> None:
    """What has left the view makes no body (B19, M45)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), part("a"), fact(GroupExpired, "g", 2))

    assert claim(connection) == "unknown"


def test_an_open_chord_is_found_by_the_sweep(connection: Connection, journal: Journal) -> None:
    """A chord whose parts are all there, and which nobody claims, is found (B19)."""
    journal.append(connection, fact(ChordStarted, "g", 1, size=1), fact(ChordStarted, "waits", 1, size=1), part("a"))
    swept = connection.execute("select * from celery_journal.open_chords()").fetchall()
    claim(connection, parts=0)

    assert swept == [("g",)]
    assert connection.execute("select * from celery_journal.open_chords()").fetchall() == []


@pytest.mark.parametrize("in_one_transaction", [pytest.param(False, id="two-statements"), pytest.param(True, id="one-transaction")])
def test_exactly_one_of_sixteen_claims_the_chord(dsn: str, connection: Connection, journal: Journal, in_one_transaction: bool) -> None:
    """Sixteen threads return the last parts at once, two of them each part: exactly one is to send the body (B19, M42)."""
    for run in range(10):
        connection.execute("delete from celery_journal.chord_lease")
        journal.append(connection, fact(GroupExpired, "g"), fact(ChordStarted, "g", 1, size=10))
        journal.append(connection, part(f"{run}-early-1"), part(f"{run}-early-2"))

        def return_part(number: int, run: int = run) -> Callable[[Connection], str]:
            def job(own: Connection) -> str:
                returned = part(f"{run}-{number % 8}")
                if not in_one_transaction:
                    journal.append(own, returned)
                    return claim(own, str(number))
                with own.transaction():
                    journal.append(own, returned)
                    return claim(own, str(number))

            return job

        before = claim(connection, parts=0)
        answers = Counter(at_once(dsn, [return_part(number) for number in range(16)]))

        assert before == "waiting"
        assert answers["claimed"] == 1, answers
        assert set(answers) <= {"claimed", "waiting", "taken"}
        journal.append(connection, fact(ChordUnlocked, "g", 9, task_id="body"))
    checked(connection)
