"""The examples of the acceptance list, on a real worker: the code between the comments is as users have it."""

# ruff: noqa: BLE001  the examples catch what they catch
from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import chain, group
from celery.exceptions import TimeoutError  # noqa: A004  Python's own is another

from celery_journal.consumers import install
from celery_journal.consumers.results import ResultSet

from .scene import kinds, recorded, until, url_of
from .seed import tasks_of
from .workers import Worker, available, working


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with the tasks of the examples."""
    broker = "redis" if available("redis") else "filesystem"
    folder, url = tmp_path_factory.mktemp("examples"), url_of(embedded_database)
    with working(broker, url, embedded_database, folder, "-c", "4", include=["tests.consumers.seed"]) as worker:
        install(worker.app)
        yield worker


@pytest.fixture(scope="module")
def tasks(worker: Worker) -> SimpleNamespace:
    """The tasks, as the app that sends them has them."""
    return tasks_of(worker.app)


def test_basic_result_handling(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R53, R54: its id, whether it is ready, its state; get(timeout=10) and TimeoutError."""
    add = tasks.add

    # Execute task and get result
    result = add.delay(4, 4)

    # Check status without blocking
    print(f"Task ID: {result.id}")
    print(f"Ready: {result.ready()}")
    print(f"State: {result.state}")

    # Get result with timeout
    try:
        value = result.get(timeout=10)
        print(f"Result: {value}")
    except TimeoutError:
        print("Task took too long")

    # Check if successful
    if result.successful():
        print("Task completed successfully")
    else:
        print("Task failed or not ready")

    task_id, ready, state, value, end = capsys.readouterr().out.splitlines()
    assert (task_id, ready, value, end) == (f"Task ID: {result.id}", "Ready: False", "Result: 8", "Task completed successfully")
    assert state in {"State: PENDING", "State: RECEIVED", "State: STARTED"}


def test_a_task_that_takes_too_long(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R54: the other way that the example can take."""
    add = tasks.add
    result = add.delay(4, 4)

    try:
        value = result.get(timeout=0.1)
        print(f"Result: {value}")
    except TimeoutError:
        print("Task took too long")

    assert capsys.readouterr().out == "Task took too long\n"


def test_error_handling_and_propagation(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R55, R56: propagate=True raises ValueError, with .traceback; propagate=False gives failed(), result and info."""
    divide = tasks.divide

    # Task that may fail
    result = divide.delay(10, 0)

    # Get result with error handling
    try:
        value = result.get(propagate=True)
        print(f"Result: {value}")
    except ValueError as exc:
        print(f"Task failed: {exc}")
        print(f"Traceback: {result.traceback}")

    # Get result without propagating errors
    value = result.get(propagate=False)
    if result.failed():
        print(f"Task failed with: {result.result}")
        print(f"Info: {result.info}")

    said = capsys.readouterr().out
    assert said.startswith("Task failed: Cannot divide by zero\nTraceback: Traceback (most recent call last):\n")
    assert 'raise ValueError("Cannot divide by zero")' in said
    assert said.endswith("Task failed with: Cannot divide by zero\nInfo: Cannot divide by zero\n")
    assert isinstance(value, ValueError)


def test_group_results(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R57, R58: ready, successful, get -> [4, 8, 16], and iterate."""
    add = tasks.add

    # Create and execute group
    job = group([add.s(2, 2), add.s(4, 4), add.s(8, 8)])
    result = job.apply_async()

    # Check group status
    print(f"Group ready: {result.ready()}")
    print(f"Group successful: {result.successful() if result.ready() else 'Not ready'}")

    # Get all results
    try:
        results = result.get(timeout=30)
        print(f"All results: {results}")  # [4, 8, 16]
    except Exception as exc:
        print(f"Group failed: {exc}")

    # Iterate over results as they complete
    print("Results as they complete:")
    for task_result in result.iterate(timeout=30):
        print(f"Got result: {task_result}")

    said = capsys.readouterr().out.splitlines()
    assert said[:4] == ["Group ready: False", "Group successful: Not ready", "All results: [4, 8, 16]", "Results as they complete:"]
    assert sorted(said[4:]) == ["Got result: 16", "Got result: 4", "Got result: 8"]


def test_result_set_operations(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R59: five tasks, iterated over as they complete."""
    add = tasks.add

    # Create multiple tasks
    tasks = [add.delay(i, i) for i in range(5)]  # type: ignore[assignment]

    # Create result set
    result_set = ResultSet(tasks)  # type: ignore[arg-type]

    # Batch operations
    print(f"All ready: {result_set.ready()}")

    # Get results with error handling
    results = []
    for result in result_set.iterate(timeout=60):
        try:
            value = result
            results.append(value)
            print(f"Task completed with result: {value}")
        except Exception as exc:
            print(f"Task failed: {exc}")

    print(f"Final results: {results}")

    said = capsys.readouterr().out.splitlines()
    assert said[0] == "All ready: False"
    assert sorted(said[1:6]) == [f"Task completed with result: {value}" for value in (0, 2, 4, 6, 8)]
    assert (sorted(results), said[6]) == ([0, 2, 4, 6, 8], f"Final results: {results}")


def test_an_error_in_a_result_set(tasks: SimpleNamespace) -> None:
    """R59: where the example catches errors, there may be some: with propagate=False they are among the values."""
    found = list(ResultSet([tasks.divide.delay(4, 2), tasks.divide.delay(1, 0)]).iterate(timeout=60, propagate=False))

    assert {type(value) for value in found} == {float, ValueError}
    with pytest.raises(ValueError, match="Cannot divide by zero"):
        list(ResultSet([tasks.divide.delay(1, 0)]).iterate(timeout=60))


def test_task_revocation_and_control(worker: Worker, tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R60: revoke(terminate=True), REVOKED, forget."""
    add = tasks.add

    # Start long-running task
    result = add.delay(1000000, 2000000)

    # Check if we can revoke it
    if not result.ready():
        print("Revoking task...")
        result.revoke(terminate=True)

    # Wait a moment and check
    time.sleep(1)
    until(result.ready)  # not in the example: a machine that is busy may take more than a moment
    if result.state == "REVOKED":
        print("Task was revoked")

    # Forget about result
    result.forget()

    assert capsys.readouterr().out == "Revoking task...\nTask was revoked\n"
    assert result.state == "PENDING"
    told = kinds(worker.dsn, result.id)
    assert "task-revoked" in told
    assert "task-forgotten" in told


def test_advanced_result_monitoring(tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R61: the loop of monitor_task, for a task that succeeds and for one that fails."""
    add, divide = tasks.add, tasks.divide

    def monitor_task(result: Any, name: str = "Task") -> None:
        """Monitor task execution with detailed status."""

        print(f"Monitoring {name} (ID: {result.id})")

        # Polling loop
        while not result.ready():
            print(f"  Status: {result.state}")
            if hasattr(result, "info") and result.info:
                print(f"  Info: {result.info}")
            time.sleep(1)

        # Final status
        if result.successful():
            print(f"  ✓ Completed: {result.result}")
        else:
            print(f"  ✗ Failed: {result.result}")
            if result.traceback:
                print(f"  Traceback: {result.traceback}")

    # Monitor task execution
    result = add.delay(10, 20)
    monitor_task(result, "Addition")

    said = capsys.readouterr().out.splitlines()
    assert (said[0], said[-1]) == (f"Monitoring Addition (ID: {result.id})", "  ✓ Completed: 30")
    assert "  Status: STARTED" in said
    assert any(line.startswith("  Info: {'pid': ") for line in said)

    monitor_task(divide.delay(1, 0), "Division")

    said = capsys.readouterr().out.splitlines()
    assert "  ✗ Failed: Cannot divide by zero" in said
    assert "  Traceback: Traceback (most recent call last):" in said


def test_working_with_task_metadata(worker: Worker, tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R62: update_state('PROGRESS'), the percentage, the dictionary at the end; and each update in the log."""
    task_with_progress = tasks.task_with_progress

    # Execute and monitor progress
    result = task_with_progress.delay(10)

    while not result.ready():
        if result.state == "PROGRESS":
            meta = result.info
            progress = (meta["current"] / meta["total"]) * 100
            print(f"Progress: {progress:.1f}% ({meta['current']}/{meta['total']})")
        time.sleep(0.5)

    print(f"Final result: {result.get()}")

    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "Final result: {'status': 'Complete', 'processed': 10}"
    assert said[:-1] == [f"Progress: {n * 10:.1f}% ({n}/10)" for n in (int(line.split("(")[1].split("/")[0]) for line in said[:-1])]
    told = [step.info for step in result.history() if step.kind == "task-progress"]
    assert told == [{"current": n, "total": 10} for n in range(1, 11)]


def test_handling_task_dependencies(worker: Worker, tasks: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """R63, R64: a chain's end is 20, its parent 15, its grandparent 5; each row knows its parent."""
    add = tasks.add

    # Create dependent tasks
    workflow = chain(
        add.s(2, 3),  # First task: 2 + 3 = 5
        add.s(10),  # Second task: 5 + 10 = 15
        add.s(5),  # Third task: 15 + 5 = 20
    )

    result = workflow.apply_async()

    # The result represents the final task in the chain
    print(f"Final result: {result.get()}")  # 20

    # Access parent results if needed
    if hasattr(result, "parent") and result.parent:
        print(f"Parent result: {result.parent.get()}")  # 15
        if hasattr(result.parent, "parent") and result.parent.parent:
            print(f"Grandparent result: {result.parent.parent.get()}")  # 5

    assert capsys.readouterr().out == "Final result: 20\nParent result: 15\nGrandparent result: 5\n"
    parents = {getattr(place.event, "parent_id", None) for place in recorded(worker.dsn, result.id)}
    assert parents == {result.parent.id}
