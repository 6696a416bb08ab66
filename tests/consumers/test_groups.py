"""Saved groups: they come back as they were, and the view knows when the last member was ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from celery import Celery
from celery.result import GroupResult as CeleryGroupResult

from celery_journal.consumers.backend import JournalBackend
from celery_journal.projections import GroupResult

from .scene import SERIALIZERS, kinds, row

NewApp = Callable[..., Celery]


def view(dsn: str, group_id: str) -> GroupResult:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return GroupResult.get(connection, group_id)


def restored(app: Celery, group_id: str) -> CeleryGroupResult | None:
    found: CeleryGroupResult | None = app.GroupResult.restore(group_id, backend=app.backend, app=app)
    return found


def group_of(app: Celery, group_id: str, *ids: str) -> CeleryGroupResult:
    return app.GroupResult(group_id, [app.AsyncResult(task_id) for task_id in ids])


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_a_saved_group_is_restored(make_app: NewApp, serializer: str) -> None:
    """R66: save and restore keep its members and their order, with every serializer."""
    app = make_app(result_serializer=serializer, accept_content=[serializer])
    saved = group_of(app, "group", "a", "b", "c")

    saved.save(backend=app.backend)

    assert restored(app, "group") == saved


def test_groups_in_groups_are_restored(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """The nesting is kept, and the view counts the tasks at its leaves."""
    inner = group_of(app, "inner", "b", "c")
    saved = app.GroupResult("outer", [app.AsyncResult("a"), inner, app.AsyncResult("d", parent=app.AsyncResult("p"))])

    saved.save(backend=backend)

    found = restored(app, "outer")
    assert found == saved
    assert found is not None
    assert found.results[1] == inner
    assert found.results[2].parent.id == "p"
    assert view(dsn, "outer").members == ("a", "b", "c", "d")


def test_a_group_nobody_saved_is_none(app: Celery) -> None:
    """As with Celery's own backends."""
    assert restored(app, "nobody") is None


def test_a_deleted_group_is_gone_and_the_log_keeps_it(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """R66: delete() acts on the view."""
    saved = group_of(app, "group", "a")
    saved.save(backend=backend)

    saved.delete(backend=backend)

    assert restored(app, "group") is None
    assert kinds(dsn, "group") == ["group-saved", "group-deleted"]


def test_a_group_saved_again_is_the_newest(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """date_created stays, date_saved moves."""
    group_of(app, "group", "a").save(backend=backend)
    first = view(dsn, "group")

    group_of(app, "group", "a", "b").save(backend=backend)

    second = view(dsn, "group")
    assert second.members == ("a", "b")
    assert second.date_created == first.date_created
    assert first.date_saved is not None
    assert second.date_saved is not None
    assert second.date_saved > first.date_saved


@pytest.mark.parametrize(
    "last", [pytest.param("SUCCESS", id="success"), pytest.param("FAILURE", id="failure"), pytest.param("REVOKED", id="revoked")]
)
def test_a_group_is_done_when_its_last_member_is_ready(app: Celery, backend: JournalBackend, dsn: str, last: str) -> None:
    """date_done is that moment, and nothing before it; a failure is an end too."""
    app.GroupResult("group", [app.AsyncResult("a"), group_of(app, "inner", "b", "c")]).save(backend=backend)
    backend.mark_as_done("a", 1)
    backend.store_result("b", None, "STARTED")
    backend.mark_as_done("c", 1)
    before = view(dsn, "group").date_done

    backend.store_result("b", None if last == "SUCCESS" else ValueError(), last)

    assert before is None
    assert view(dsn, "group").date_done == row(dsn, "b").date_done


def test_a_group_saved_after_its_end_is_done(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """The members may have been quicker than save()."""
    backend.mark_as_done("a", 1)

    group_of(app, "group", "a").save(backend=backend)

    assert view(dsn, "group").date_done == row(dsn, "a").date_done


def test_the_results_of_a_group_come_in_its_order(app: Celery, backend: JournalBackend) -> None:
    """R26, R28: a hundred members, which ended the other way round."""
    ids = [f"a{number}" for number in range(100)]
    group_of(app, "group", *ids).save(backend=backend)
    for task_id in reversed(ids):
        backend.mark_as_done(task_id, task_id.upper())

    found = restored(app, "group")

    assert found is not None
    assert found.successful()
    assert found.get(timeout=60) == [task_id.upper() for task_id in ids]


def test_a_restored_group_is_read_while_the_original_waits(app: Celery, backend: JournalBackend) -> None:
    """R66: two objects for one group do not get in each other's way."""
    original = group_of(app, "group", "a", "b")
    original.save(backend=backend)
    assert original.completed_count() == 0
    backend.mark_as_done("a", 1)
    backend.mark_as_done("b", 2)

    found = restored(app, "group")

    assert found is not None
    assert (found.get(timeout=60), original.get(timeout=60)) == ([1, 2], [1, 2])


def test_a_group_with_a_failure_raises_it(app: Celery, backend: JournalBackend) -> None:
    """R26: get() propagates, and can be told not to."""
    members = group_of(app, "group", "a", "b")
    backend.mark_as_done("a", 1)
    backend.mark_as_failure("b", KeyError("b"))

    with pytest.raises(KeyError):
        members.get(timeout=60)
    values: list[Any] = group_of(app, "group", "a", "b").get(timeout=60, propagate=False)

    assert (values[0], type(values[1])) == (1, KeyError)


def test_forgetting_a_group_forgets_its_members(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """R32: GroupResult.forget() is forget() of each."""
    members = group_of(app, "group", "a", "b")
    for task_id in ("a", "b"):
        backend.mark_as_done(task_id, 1)

    members.forget()

    assert [kinds(dsn, task_id)[-1] for task_id in ("a", "b")] == ["task-forgotten"] * 2
