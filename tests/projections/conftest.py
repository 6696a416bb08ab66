"""Every specification holds for a fact that is told once, that is delivered twice, and that two emitters tell."""

from __future__ import annotations

import pytest

from celery_journal.journal import Connection

pytest.register_assert_rewrite("tests.projections.spec")

from .spec import Spec  # noqa: E402


@pytest.fixture(params=["once", "twice", "by two emitters"])
def spec(request: pytest.FixtureRequest, connection: Connection) -> Spec:
    """An empty journal, and how often it is told the fact of `when`."""
    return Spec(connection, request.param)
