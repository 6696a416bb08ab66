"""Chains and chords that failed and are sent again, on a real worker: from the failed step, from the failed tasks of the header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import chain, chord, group

from celery_journal.consumers import install
from celery_journal.consumers.replay import Replay, Summary, lineage
from celery_journal.journal import Connection
from celery_journal.projections import ChordCounter, verify

from .replayscene import begun, resumed
from .scene import ask, kinds, row, until, url_of
from .workers import Worker, available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
def connection(embedded_database: str) -> Iterator[Connection]:
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet: reading it fails."""
    return tmp_path / "number"


def ended(worker: Worker, *results: Any) -> None:
    """Wait until these have ended, and all that was to be recorded of them is."""
    for result in results:
        result.get(timeout=PATIENCE, propagate=False)
    worker.app.backend.buffer.flush()


def replayed(connection: Connection, worker: Worker, name: str, *task_ids: str, **wishes: Any) -> Summary:
    summary = begun(connection, worker.app, list(task_ids), name, **wishes).run()
    worker.app.backend.buffer.flush()
    return summary


def value(worker: Worker, task_id: str) -> Any:
    return worker.app.AsyncResult(task_id).get(timeout=PATIENCE)


def has_become(worker: Worker, task_id: str, status: str) -> bool:
    """Return whether the task is in that state; it may not be known at all yet."""
    return ask(worker.dsn, b"select status from celery_journal.task_result where task_id = %s", task_id) == [(status,)]


def has_failed(worker: Worker, task_id: str) -> bool:
    """Return whether a task has, of which is also known how it was sent: a worker that sends one records it when there is time."""
    return has_become(worker, task_id, "FAILURE") and "task-sent" in kinds(worker.dsn, task_id)


def reading(worker: Worker, path: Path) -> Any:
    """Return the signature of a task that reads the file, whatever came before it."""
    return worker.app.signature("scene.read", args=[str(path)], immutable=True)


def the_copy_of(connection: Connection, task_id: str) -> str:
    (copy,) = lineage(connection, task_id).replayed_as
    return copy


@pytest.mark.parametrize("named", [0, 1, 2, 3])
def test_a_failed_chain_goes_on_from_its_failed_step(worker: Worker, connection: Connection, path: Path, named: int) -> None:
    """Whichever of its steps is named, one that succeeded, that failed, or that was never sent; under new ids, with lineage."""
    result = chain(worker.signature("add", 1, 1), reading(worker, path), worker.signature("add", 10), worker.signature("add", 100))()
    ended(worker, result)
    last, third, failed = result, result.parent, result.parent.parent
    ids = [failed.parent.id, failed.id, third.id, last.id]
    until(lambda: has_become(worker, last.id, "FAILURE"))
    path.write_text("5")

    summary = replayed(connection, worker, f"chain-{named}", ids[named])

    assert (list(summary.sent), summary.refused, summary.skipped) == ([failed.id], [], [])
    copies = [the_copy_of(connection, task_id) for task_id in ids[1:]]
    assert value(worker, copies[-1]) == 115
    until(lambda: [lineage(connection, copy).replay_of for copy in copies] == ids[1:])
    assert lineage(connection, ids[0]).replayed_as == ()
    assert row(worker.dsn, last.id).status == "FAILURE"
    again = replayed(connection, worker, f"chain-{named} again", *ids)
    assert (again.sent, len(again.skipped)) == ({}, 4)


def test_all_steps_of_a_failed_chain_are_one(worker: Worker, connection: Connection, path: Path) -> None:
    """As `--filter state:FAILURE` finds them: it is sent once. Afterwards it has succeeded, and is left out."""
    result = chain(worker.signature("read", str(path)), worker.signature("add", 1), worker.signature("add", 2))()
    ended(worker, result)
    ids = [result.parent.parent.id, result.parent.id, result.id]
    path.write_text("5")

    summary = replayed(connection, worker, "one", *ids)
    assert value(worker, the_copy_of(connection, result.id)) == 8
    again = replayed(connection, worker, "one again", *ids)

    assert (len(summary.sent), summary.along) == (1, 2)
    assert {why for _, why in again.skipped} == {"it has succeeded since, in an earlier replay"}


def test_a_step_that_has_succeeded_since_is_not_run_again(worker: Worker, connection: Connection, path: Path) -> None:
    """Of a chain whose replay came further, and failed again, the last step counts."""
    other = path.with_name("other")
    result = chain(worker.signature("add", 1, 1), reading(worker, path), reading(worker, other))()
    ended(worker, result)
    failed, last = result.parent.id, result.id
    path.write_text("5")
    replayed(connection, worker, "further", failed)
    copy, copy_of_last = the_copy_of(connection, failed), the_copy_of(connection, last)
    until(lambda: has_failed(worker, copy_of_last), PATIENCE)
    other.write_text("6")

    summary = replayed(connection, worker, "to the end", copy_of_last, last, failed)

    assert list(summary.sent) == [copy_of_last]
    assert value(worker, the_copy_of(connection, copy_of_last)) == 6
    assert lineage(connection, copy).replayed_as == ()


def test_a_chord_that_failed_again_goes_on_from_its_last_time(worker: Worker, connection: Connection, path: Path) -> None:
    """What its first replay has brought to success counts, whichever of its tasks is named."""
    other = path.with_name("another")
    body = chord([reading(worker, path), reading(worker, other)], app=worker.app)(worker.signature("collect"))
    ended(worker, body)
    group_id, members = body.parent.id, [member.id for member in body.parent.results]
    until(lambda: ChordCounter.get(connection, group_id).state == "failed")
    path.write_text("7")
    replayed(connection, worker, "half", group_id)
    first, second = (the_copy_of(connection, member) for member in members)
    until(lambda: has_failed(worker, second) and has_become(worker, first, "SUCCESS"), PATIENCE)
    until(lambda: has_become(worker, the_copy_of(connection, body.id), "FAILURE"), PATIENCE)
    other.write_text("8")

    summary = replayed(connection, worker, "whole", members[1])

    assert list(summary.sent) == [second]
    assert value(worker, the_copy_of(connection, the_copy_of(connection, body.id))) == [7, 8]


def test_a_chain_keeps_its_ids_where_that_is_asked_for(worker: Worker, connection: Connection, path: Path) -> None:
    """`--same-id`: who waits for the end of the chain gets its value."""
    result = chain(worker.signature("read", str(path)), worker.signature("add", 1))()
    ended(worker, result)
    path.write_text("5")

    replayed(connection, worker, "same", result.id, same_id=True)

    until(lambda: has_become(worker, result.id, "SUCCESS"), PATIENCE)
    assert worker.app.AsyncResult(result.id).get(timeout=PATIENCE) == 6


@pytest.mark.parametrize("named", ["member", "member that succeeded", "group", "body"])
def test_a_chord_is_begun_anew_from_its_failed_tasks(worker: Worker, connection: Connection, path: Path, named: str) -> None:
    """A new group and a new body; what has succeeded counts, and is not run again."""
    header = [worker.signature("add", 1, 1), worker.signature("read", str(path)), worker.signature("add", 2, 2)]
    body = chord(header, app=worker.app)(worker.signature("collect"))
    ended(worker, body)
    group_id, members = body.parent.id, [member.id for member in body.parent.results]
    until(lambda: ChordCounter.get(connection, group_id).state == "failed")
    path.write_text("7")
    subject = {"member": members[1], "member that succeeded": members[0], "group": group_id, "body": body.id}[named]

    summary = replayed(connection, worker, f"chord {named}", subject)

    assert (list(summary.sent), summary.refused, summary.skipped) == ([members[1]], [], [])
    copy = the_copy_of(connection, body.id)
    assert value(worker, copy) == [2, 7, 4]
    until(lambda: lineage(connection, copy).replay_of == body.id)
    assert [lineage(connection, member).replayed_as for member in (members[0], members[2])] == [(), ()]
    (new,) = ChordCounter.all_objects.using(connection).filter(body_task_id=copy)
    assert (new.size, new.done, new.failed, new.state) == (3, 3, 0, "unlocked")
    assert (row(worker.dsn, body.id).status, ChordCounter.get(connection, group_id).state) == ("FAILURE", "failed")


def test_a_chord_of_chains_goes_on_from_the_failed_step_of_each(worker: Worker, connection: Connection, path: Path) -> None:
    """The ends of the chains are what the chord waits for."""
    broken = chain(worker.signature("read", str(path)), worker.signature("add", 1))
    header = [broken, chain(worker.signature("add", 1, 1), worker.signature("add", 1)), worker.signature("read", str(path))]
    body = chord(header, app=worker.app)(chain(worker.signature("collect"), worker.signature("collect")))
    ended(worker, body)
    group_id = next(group for (group,) in ask(worker.dsn, b"select group_id from celery_journal.chord_counter order by date_created desc"))
    until(lambda: ChordCounter.get(connection, group_id).state == "failed")
    path.write_text("7")

    summary = replayed(connection, worker, "chord of chains", group_id)

    assert (len(summary.sent), summary.refused) == (2, [])
    assert value(worker, the_copy_of(connection, body.id)) == [8, 3, 7]


def test_a_chord_whose_body_failed_runs_its_body_again(worker: Worker, connection: Connection, path: Path) -> None:
    """The header has succeeded, and is left alone; its tasks have nothing to replay."""
    member = worker.signature("add", 1, 1)
    body = chord([member, member.clone()], app=worker.app)(reading(worker, path))
    ended(worker, body)
    group_id, members = body.parent.id, [one.id for one in body.parent.results]
    path.write_text("9")
    until(lambda: "chord-unlocked" in kinds(worker.dsn, group_id) and "task-sent" in kinds(worker.dsn, body.id))

    header = replayed(connection, worker, "header", members[0])
    summary = replayed(connection, worker, "body", group_id, body.id)

    assert header.skipped == [(members[0], f"it has succeeded, and its chord has begun its body {body.id}")]
    assert (list(summary.sent), summary.along) == ([body.id], 1)
    assert value(worker, summary.sent[body.id]) == 9


def test_a_chord_inside_a_chain_goes_on_to_the_end_of_the_chain(worker: Worker, connection: Connection, path: Path) -> None:
    """What comes after the chord is in the message of its body."""
    canvas = chain(
        worker.signature("add", 1, 1),
        group(worker.signature("add", 10), reading(worker, path)),
        worker.signature("collect"),
        worker.signature("collect"),
    )
    result = canvas.apply_async()
    ended(worker, result)
    failed = ask(worker.dsn, b"select task_id from celery_journal.task_result where status = 'FAILURE' and task_name = 'scene.read'")
    path.write_text("3")
    mine = [task_id for (task_id,) in failed if str(path) in str(row(worker.dsn, task_id).task_args)]

    summary = replayed(connection, worker, "in a chain", *mine)

    assert (list(summary.sent), summary.refused) == (mine, [])
    copy = the_copy_of(connection, result.id)
    assert value(worker, copy) == [12, 3]


def test_a_body_that_is_a_group_has_succeeded_when_its_tasks_have(worker: Worker, connection: Connection, path: Path) -> None:
    """Whichever of it is named, before and after; the tasks of the group were never sent when it was."""
    body = group(worker.signature("collect"), worker.signature("collect"))
    result = chord([worker.signature("add", 1, 1), reading(worker, path)], app=worker.app)(body)
    ended(worker, *result.parent.results)
    failed, group_id, tasks = result.parent.results[1].id, result.parent.id, [one.id for one in result.results]
    until(lambda: ChordCounter.get(connection, group_id).state == "failed")
    path.write_text("7")

    summary = replayed(connection, worker, "group as body", group_id, result.id, *tasks)
    copies = [the_copy_of(connection, task_id) for task_id in tasks]
    assert [value(worker, copy) for copy in copies] == [[2, 7]] * 2
    worker.app.backend.buffer.flush()
    until(lambda: all("task-sent" in kinds(worker.dsn, copy) for copy in copies))
    again = replayed(connection, worker, "group as body again", group_id, failed, *tasks)

    assert (list(summary.sent), summary.refused, summary.skipped, summary.along) == ([failed], [], [], 3)
    assert (again.sent, again.refused, len(again.skipped)) == ({}, [], 4)


@pytest.mark.parametrize("same_id", [False, True])
def test_from_python_it_is_the_result_of_what_was_named(worker: Worker, path: Path, same_id: bool) -> None:
    """The end of a chain, though it is its failed step that is sent."""
    result = chain(worker.signature("read", str(path)), worker.signature("add", 1), worker.signature("add", 2))()
    ended(worker, result)
    path.write_text("5")

    again = install(worker.app).AsyncResult(result.id).replay(same_id=same_id)
    until(lambda: has_become(worker, again.id, "SUCCESS"), PATIENCE)

    assert (again.get(timeout=PATIENCE), again.id == result.id) == (8, same_id)


def test_from_python_the_body_of_a_chord_is_the_new_body(worker: Worker, connection: Connection, path: Path) -> None:
    """Though it is a task of its header that is sent."""
    body = chord([worker.signature("add", 1, 1), reading(worker, path)], app=worker.app)(worker.signature("collect"))
    ended(worker, body)
    until(lambda: ChordCounter.get(connection, body.parent.id).state == "failed")
    path.write_text("5")

    assert install(worker.app).AsyncResult(body.id).replay().get(timeout=PATIENCE) == [2, 5]


def test_a_chain_whose_chord_failed_goes_on_from_that(worker: Worker, connection: Connection, path: Path) -> None:
    """Named by a step before it, which has succeeded; what stands behind it, and was never sent, goes along."""
    canvas = chain(
        worker.signature("add", 1, 1),
        group(worker.signature("add", 10), reading(worker, path)),
        worker.signature("collect"),
        group(worker.signature("collect"), worker.signature("collect")),
        worker.signature("collect"),
    )
    result = canvas.apply_async()
    ended(worker, result)
    step = result
    while step.parent is not None:
        step = step.parent
    first = step.id
    until(lambda: has_become(worker, result.id, "FAILURE"))
    failed = [
        task_id
        for (task_id,) in ask(worker.dsn, b"select task_id from celery_journal.task_result where root_id = %s", first)
        if row(worker.dsn, task_id).status == "FAILURE" and row(worker.dsn, task_id).worker  # what is behind it has failed unsent
    ]
    path.write_text("3")

    preview = begun(connection, worker.app, [result.id, first], "behind, preview").preview()
    summary = replayed(connection, worker, "behind", result.id, first)

    for found in (preview, summary):
        assert (list(found.sent), found.refused, found.along) == (failed, [], 1)
    assert value(worker, the_copy_of(connection, result.id)) == [[12, 3], [12, 3]]
    assert resumed(connection, worker.app, "behind").run().counts == summary.counts
    again = replayed(connection, worker, "behind again", first, result.id)
    assert (again.sent, [why for _, why in again.skipped]) == ({}, ["it has succeeded"] * 2)
    once_more = replayed(connection, worker, "once more", first, also_succeeded=True)
    assert list(once_more.sent) == [first]


def test_a_chord_cannot_be_sent_again_under_its_own_id(worker: Worker, connection: Connection, path: Path) -> None:
    """Each of its parts counts once, and they have."""
    plain = chord([worker.signature("read", str(path)), worker.signature("add", 1, 1)], app=worker.app)(worker.signature("collect"))
    ended(worker, plain)
    until(lambda: ChordCounter.get(connection, plain.parent.id).state == "failed")

    same = replayed(connection, worker, "same ids", plain.parent.results[0].id, same_id=True)

    assert [why.partition(", which can only")[2] for _, why in same.refused] == [" be sent again under a new id, without --same-id"]


def group_of_body(connection: Connection, body_id: str) -> str:
    (chord,) = ChordCounter.all_objects.using(connection).filter(body_task_id=body_id)
    return str(chord.group_id)


@pytest.mark.parametrize("named", ["task inside", "group inside", "body inside", "task", "group", "body"])
def test_a_chord_inside_of_a_chord_is_begun_anew_with_it(worker: Worker, connection: Connection, path: Path, named: str) -> None:
    """From the failed task inside of it, whatever of them is named; each has a new group and a new body."""
    inner = chord([worker.signature("add", 1, 1), worker.signature("read", str(path))], worker.signature("collect"))
    outer = chord([inner, worker.signature("add", 2, 2)], app=worker.app)(worker.signature("collect"))
    ended(worker, outer)
    inside, plain = outer.parent.results
    group_id, inner_group = outer.parent.id, group_of_body(connection, inside.id)
    until(lambda: ChordCounter.get(connection, group_id).state == "failed" and ChordCounter.get(connection, inner_group).state == "failed")
    failed = inside.parent.results[1].id
    path.write_text("7")
    names = {"task inside": failed, "group inside": inner_group, "body inside": inside.id}
    subject = {**names, "task": plain.id, "group": group_id, "body": outer.id}[named]

    summary = replayed(connection, worker, f"nested {named}", subject)

    assert (list(summary.sent), summary.refused, summary.skipped) == ([failed], [], [])
    assert value(worker, the_copy_of(connection, outer.id)) == [[2, 7], 4]
    assert value(worker, the_copy_of(connection, inside.id)) == [2, 7]
    assert lineage(connection, plain.id).replayed_as == ()


def test_a_chord_whose_chord_inside_has_failed_in_its_body(worker: Worker, connection: Connection, path: Path) -> None:
    """Only that body runs again, and then the one outside."""
    inner = chord([worker.signature("add", 1, 1), worker.signature("add", 2, 2)], reading(worker, path))
    outer = chord([inner, worker.signature("add", 3, 3)], app=worker.app)(worker.signature("collect"))
    ended(worker, outer)
    until(lambda: ChordCounter.get(connection, outer.parent.id).state == "failed")
    path.write_text("8")

    summary = replayed(connection, worker, "body inside", outer.id)

    assert (list(summary.sent), summary.refused) == ([outer.parent.results[0].id], [])
    assert value(worker, the_copy_of(connection, outer.id)) == [8, 6]


@pytest.mark.parametrize("named", ["group", "body", "task"])
def test_a_body_that_is_a_chord_is_begun_anew(worker: Worker, connection: Connection, path: Path, named: str) -> None:
    """The header before it has succeeded, and is left alone."""
    last = chord([reading(worker, path), worker.signature("collect")], worker.signature("collect"))
    result = chord([worker.signature("add", 1, 1), worker.signature("add", 2, 2)], app=worker.app)(last)
    ended(worker, result)
    failed = next(
        task_id
        for (task_id,) in ask(worker.dsn, b"select task_id from celery_journal.task_result where status = 'FAILURE'")
        if str(path) in str(row(worker.dsn, task_id).task_args)
    )
    groups = ask(worker.dsn, b"select group_id from celery_journal.chord_counter where body_task_id = %s order by date_created", result.id)
    path.write_text("9")
    subject = {"group": groups[0][0], "body": result.id, "task": failed}[named]

    summary = replayed(connection, worker, f"body {named}", subject)

    assert (list(summary.sent), summary.refused, summary.skipped) == ([failed], [], [])
    assert value(worker, the_copy_of(connection, result.id)) == [9, [2, 4]]


@pytest.mark.parametrize("nested", [False, True])
def test_a_chord_that_was_interrupted_is_begun_once(
    monkeypatch: pytest.MonkeyPatch, worker: Worker, connection: Connection, path: Path, nested: bool
) -> None:
    """Between its failed tasks: resumed, the chord has each of its parts once, and so have those inside of it."""
    header = [worker.signature("read", str(path)), worker.signature("add", 1, 1), worker.signature("read", str(path))]
    if nested:
        header[2] = chord([reading(worker, path), reading(worker, path)], worker.signature("collect"))
    body = chord(header, app=worker.app)(worker.signature("collect"))
    ended(worker, body)
    until(lambda: ChordCounter.get(connection, body.parent.id).state == "failed")
    path.write_text("6")
    name = f"interrupted {nested}"
    replay = begun(connection, worker.app, [body.parent.id], name, rate="2/s")  # one at a time

    tell, told = Replay._tell_sent, list[object]()

    def tell_once(self: Replay, *given: Any) -> None:
        tell(self, *given)
        told.append(given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "_tell_sent", tell_once)
        with pytest.raises(KeyboardInterrupt):
            replay.run()
    assert len(told) == 1
    summary = resumed(connection, worker.app, name).run()

    assert len(summary.sent) == (3 if nested else 2)
    assert value(worker, the_copy_of(connection, body.id)) == [6, 2, [6, 6] if nested else 6]


def test_the_views_are_what_the_log_says(worker: Worker, connection: Connection) -> None:
    """After all of the above."""
    assert [str(difference) for difference in verify(connection).differences] == []
