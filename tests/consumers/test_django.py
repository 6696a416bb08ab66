"""Django's transactions do not touch the journal, nor the other way round: each has its own connections."""

from __future__ import annotations

import json

from .scene import start


def test_a_rollback_takes_back_what_is_the_users_and_nothing_else(dsn: str) -> None:
    """B21: a result stored inside an `atomic` block that is rolled back is there; the row that a failing task wrote is not."""
    with start("djangoing", dsn) as process:
        said = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])

    assert said == {
        "inside": 2,
        "after the rollback": "SUCCESS",
        "error": "ValueError('declined')",
        "failed": "FAILURE",
        "unknown": "timeout",
        "charged": [2],
    }
