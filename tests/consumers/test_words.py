"""Facts as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from celery_journal.consumers.words import counted, duration, listed, moment, shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.0004, "1 ms"),
        (0.04, "40 ms"),
        (0.96, "1 s"),
        (1.2, "1.2 s"),
        (9.99, "10 s"),
        (10.4, "10 s"),
        (59.7, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (3660, "1 h 1 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
        (9_000_000, "104 d 4 h"),
        (-250, "4 min 10 s"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    """A second more or less matters only where there are few."""
    assert duration(seconds) == words
    assert duration(timedelta(seconds=seconds)) == words


def test_a_moment_is_in_utc() -> None:
    """Whatever zone it comes in."""
    assert moment(datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))) == "2025-12-31 23:00:00 UTC"
    assert moment(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 00:00:00 UTC"


def test_numbers_and_lists() -> None:
    """One is singular; many are cut."""
    assert [counted(number, "task") for number in (0, 1, 2, 1234)] == ["0 tasks", "1 task", "2 tasks", "1,234 tasks"]
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(8)]) == "0, 1, 2, 3, 4 and 3 more"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("mail", "mail"),
        ("Grüße 你好", "Grüße 你好"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),  # the same in one character
        ("a\nb\rc\td\0", "a\\nb\\rc\\td\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),  # from right to left
        ("\ud800", "\\ud800"),
        (7, "7"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: object, safe: str) -> None:
    """And takes one line."""
    assert shown(text) == safe
