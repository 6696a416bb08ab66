"""A process that has used the backend forks: as every prefork worker does, and web servers that load the app first."""

from __future__ import annotations

import json

import pytest

from .scene import recorded, start, url_of


@pytest.mark.parametrize("how", ["os.fork", "multiprocessing", "billiard"])
def test_a_child_opens_its_own_session_and_leaves_its_parents_alone(dsn: str, how: str) -> None:
    """The child stores and reads, and when it has ended, its parent goes on in the session it had."""
    with start("forking", url_of(dsn), how) as process:
        said, _ = process.communicate()

    told = json.loads(said)
    assert (process.returncode, told["exitcode"], told["seen"]) == (0, 0, 1)
    assert told["child"] != told["before"]
    assert told["after"] == told["before"]


def test_a_child_is_an_emitter_of_its_own(dsn: str) -> None:
    """The same counter in two processes must not make one event id of two facts."""
    with start("forking", url_of(dsn), "os.fork") as process:
        process.communicate()

    events = [event.event.event_id for task_id in ("before", "child", "after") for event in recorded(dsn, task_id)]
    assert len(set(events)) == 3
