"""Tasks without an id: one task called "None" would be shared by all who forget to give one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult

from celery_journal.projections import TaskResult


@pytest.mark.parametrize("nothing", [None, ""], ids=["none", "empty"])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda app, nothing: app.backend.store_result(nothing, 1, "SUCCESS"), id="store_result"),
        pytest.param(lambda app, nothing: app.backend.mark_as_done(nothing, 1), id="mark_as_done"),
        pytest.param(lambda app, nothing: app.backend.mark_as_failure(nothing, ValueError("x")), id="mark_as_failure"),
        pytest.param(lambda app, nothing: app.backend.mark_as_revoked(nothing), id="mark_as_revoked"),
        pytest.param(lambda app, nothing: app.backend.get_task_meta(nothing), id="get_task_meta"),
        pytest.param(lambda app, nothing: app.backend.wait_for(nothing, timeout=1), id="wait_for"),
        pytest.param(lambda app, nothing: list(app.backend.get_many([nothing], timeout=1)), id="get_many"),
        pytest.param(lambda app, nothing: app.backend.task_result_exists(nothing), id="exists"),
        pytest.param(lambda app, nothing: app.backend.forget(nothing), id="forget"),
        pytest.param(lambda app, nothing: app.backend.save_group(nothing, GroupResult("g", [], app=app)), id="save_group"),
        pytest.param(lambda app, nothing: app.backend.restore_group(nothing), id="restore_group"),
        pytest.param(lambda app, nothing: app.backend.delete_group(nothing), id="delete_group"),
        pytest.param(lambda app, nothing: app.backend.set_chord_size(nothing, 2), id="set_chord_size"),
    ],
)
def test_what_is_about_no_task_is_refused(call: Callable[[Celery, Any], object], nothing: Any, app: Celery) -> None:
    """As Celery's key-value backends refuse it, and nothing is recorded."""
    with pytest.raises(ValueError, match="_id must not be empty"):
        call(app, nothing)

    assert app.backend.database.run(lambda connection: connection.execute("select count(*) from celery_journal.event").fetchone()) == (0,)


def test_update_state_outside_of_a_task_is_refused(app: Celery) -> None:
    """It does not know which task is meant."""

    @app.task(shared=False)
    def report() -> None:
        pass

    with pytest.raises(ValueError, match="task_id must not be empty"):
        report.update_state(state="PROGRESS", meta={"done": 1})

    report.update_state(task_id="mine", state="PROGRESS", meta={"done": 1})
    assert AsyncResult("mine", app=app).state == "PROGRESS"
    assert app.backend.database.run(lambda connection: TaskResult.get_many(connection, ["None", ""])) == {}
