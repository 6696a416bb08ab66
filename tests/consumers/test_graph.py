"""Canvases from any of their members, as a real worker has run them: chains, groups, chords, callbacks, and what was never sent."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import chain, chord, group

from celery_journal.consumers.graph import Canvas, as_dot, as_mermaid, as_svg, canvas_of
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskFailed, TaskSent
from celery_journal.projections import TaskResult

from .lostscene import Log
from .scene import until, url_of
from .test_cli import as_url, command
from .workers import working


@dataclass(frozen=True, slots=True)
class Scene:
    """What the worker has run, by name, and the journal of it."""

    connection: Connection
    results: dict[str, Any]

    def canvas(self, name: str) -> Canvas:
        """Return the canvas of the result."""
        return canvas_of(self.connection, self.results[name].id)


@pytest.fixture(scope="module")
def scene(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One of each, run to its end."""
    folder: Path = tmp_path_factory.mktemp("worker")
    with (
        working("filesystem", url_of(embedded_database), embedded_database, folder) as worker,
        psycopg.connect(embedded_database, autocommit=True) as connection,
    ):

        def add(*numbers: int) -> Any:
            return worker.signature("add", *numbers)

        fail = worker.app.signature("scene.fail", args=("no",), immutable=True)
        collect = worker.signature("collect")
        results = {
            "broken": chain(add(1, 2), add(3), fail, add(4), collect).apply_async(),
            "chain with a group": chain(add(1, 2), group(add(1), add(2)), collect).apply_async(),
            "chord": chord([add(1, 1), chain(add(2, 2), add(3)), add(3, 3)], collect).apply_async(),
            "group": group(add(1, 1), add(2, 2)).apply_async(),
            "group with a chord": group(add(1, 1), chord([add(2, 2), chain(add(3, 3), add(4))], collect)).apply_async(),
            "linked": add(5, 5).apply_async(link=add(1)),
            "failed": worker.signature("fail", "x").apply_async(link=add(1), link_error=collect),
            "failed chord": chord([add(1, 1), fail], collect).apply_async(),
        }
        awaited = [results[name].id for name in ("broken", "chain with a group", "chord", "failed", "failed chord")]
        tasks = TaskResult.objects.using(connection)
        until(lambda: tasks.filter(task_id__in=awaited, date_done__isnull=False).count() == len(awaited))
        until(lambda: tasks.filter(parent_id=results["linked"].id).exists() and tasks.filter(parent_id=results["failed"].id).exists())
        until(lambda: not tasks.filter(date_done__isnull=True).exists())
        yield Scene(connection, results)


def drawn(canvas: Canvas) -> list[tuple[int, str | None, str]]:
    """Return the tree with the kinds, or the names without their module."""
    return [(depth, way, node.name.removeprefix("scene.") or node.kind) for depth, way, node, _ in canvas.tree()]


def test_a_chain_is_drawn_from_its_last_step_that_never_ran(scene: Scene) -> None:
    """Which knows of no other: the steps before it have it in their messages."""
    canvas = scene.canvas("broken")

    assert drawn(canvas) == [(0, None, "add"), (1, "then", "add"), (2, "then", "fail"), (3, "then", "add"), (4, "then", "collect")]
    assert [node.state for _, _, node, _ in canvas.tree()][:3] == ["SUCCESS", "SUCCESS", "FAILURE"]


def test_a_canvas_is_the_same_from_each_of_its_members(scene: Scene) -> None:
    """From the first step, from a member of a group, from the group and from the body of a chord."""
    for name in ("broken", "chain with a group", "chord", "failed chord", "group with a chord"):
        canvas = scene.canvas(name)

        for node in canvas.nodes:
            other = canvas_of(scene.connection, node)
            assert sorted(other.nodes) == sorted(canvas.nodes), (name, canvas.nodes[node])
            assert other.edges == canvas.edges, (name, canvas.nodes[node])


def test_a_group_in_a_chain_is_a_chord_with_what_comes_after_it(scene: Scene) -> None:
    """As Celery runs it."""
    assert drawn(scene.canvas("chain with a group")) == [
        (0, None, "add"),
        (1, "then", "chord"),
        (2, "member", "add"),
        (2, "member", "add"),
        (2, "body", "collect"),
    ]


def test_a_chord_tells_its_size_and_a_chain_in_its_header_stands_at_its_first_step(scene: Scene) -> None:
    """Of the three members, one is a chain of two."""
    canvas = scene.canvas("chord")
    found = sorted(drawn(canvas))

    assert found == sorted(
        [(0, None, "chord"), (1, "member", "add"), (1, "member", "add"), (1, "member", "add"), (2, "then", "add"), (1, "body", "collect")]
    )
    (counted,) = [node for node in canvas.nodes.values() if node.kind == "chord"]
    assert (counted.size, counted.done, counted.state) == (3, 3, "unlocked")


def test_a_chord_in_a_group_stands_inside_it(scene: Scene) -> None:
    """Its body is the member: the last of its header, which has sent it, has not sent the group."""
    found = sorted(drawn(scene.canvas("group with a chord")))

    inside = [(2, "member", "add"), (2, "member", "add"), (3, "then", "add"), (2, "body", "collect")]
    assert found == sorted([(0, None, "group"), (1, "member", "add"), (1, "member", "chord"), *inside])


def test_a_group_that_nobody_saved_is_known_by_its_members(scene: Scene) -> None:
    """From the id of the group."""
    assert drawn(scene.canvas("group")) == [(0, None, "group"), (1, "member", "add"), (1, "member", "add")]


def test_callbacks_are_drawn_as_such_and_what_will_not_be_sent_is_not(scene: Scene) -> None:
    """On success one, on an error the other."""
    assert drawn(scene.canvas("linked")) == [(0, None, "add"), (1, "callback", "add")]
    failed = drawn(scene.canvas("failed"))
    assert failed[0] == (0, None, "fail")
    assert {way for _, way, _ in failed[1:]} <= {"error", "member"}
    assert failed[-1][2] == "collect"


def test_steps_that_were_not_sent_yet_are_drawn(connection: Connection) -> None:
    """Tasks, groups and chords of the rest of a chain, from their signatures."""

    def signature(task: str, task_id: str, **kwargs: Any) -> dict[str, Any]:
        return {"task": task, "options": {"task_id": task_id}, "kwargs": kwargs}

    header = signature("celery.group", "h", tasks=[signature("m", "m1"), signature("m", "m2")])
    rest = [signature("last", "l"), signature("celery.chord", "b", header=header, body=signature("body", "b"))]
    Log(connection).tell(
        TaskSent, "first", name="first", embedded=json.dumps({"chain": rest}).encode(), embedded_content_type="application/json"
    )

    canvas = canvas_of(connection, "l")

    assert drawn(canvas) == [
        (0, None, "first"),
        (1, "then", "chord"),
        (2, "member", "m"),
        (2, "member", "m"),
        (2, "body", "body"),
        (3, "then", "last"),
    ]
    assert {node.state for node in canvas.nodes.values()} == {"PENDING", "not sent"}


def test_a_message_that_only_pickle_reads_is_not_read(connection: Connection) -> None:
    """It could run code; what the views know is drawn."""
    Log(connection).tell(TaskSent, "t", name="t", embedded=b"\x80\x04.", embedded_content_type="application/x-python-serialize")

    assert drawn(canvas_of(connection, "t")) == [(0, None, "t")]


def test_tasks_that_a_task_has_sent_stand_below_it_and_a_wide_canvas_is_cut(connection: Connection) -> None:
    """A thousand are read, and it is said that there are more."""
    log = Log(connection)
    log.sent("root", name="root", root_id="root")
    events = [log.emitter.emit(TaskFailed, f"t{number:04}", name="sub", root_id="root", parent_id="root") for number in range(1100)]
    log.journal.append(connection, *events)

    canvas = canvas_of(connection, "root")

    assert canvas.is_cut
    assert len(canvas.nodes) == 1000
    assert drawn(canvas)[:2] == [(0, None, "root"), (1, "called", "sub")]


def test_an_id_of_which_nothing_is_known_has_no_canvas(connection: Connection) -> None:
    """Also if it happens to stand in a message."""
    Log(connection).tell(TaskSent, "t", name="t", embedded=b'{"chain": []}', embedded_content_type="application/json")

    assert canvas_of(connection, "chain").nodes == {}


# The command


def test_the_tree_marks_what_was_asked_for(scene: Scene, embedded_database: str) -> None:
    """`graph ID`: one line a node, with its way, name, state and id."""
    result = command("graph", scene.results["broken"].id, dsn=as_url(embedded_database))

    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[0].startswith("scene.add SUCCESS on ")
    assert lines[2].startswith("    └── then scene.fail FAILURE on ")
    assert lines[-1].endswith(f"then scene.collect FAILURE  {scene.results['broken'].id}  <--")


def test_the_drawings_are_well_formed(scene: Scene) -> None:
    """Mermaid, Graphviz and SVG have every node and every edge."""
    canvas = scene.canvas("chain with a group")
    svg = ET.fromstring(as_svg(canvas))
    named = "{http://www.w3.org/2000/svg}"

    assert len(svg.findall(f".//{named}rect")) == len(canvas.nodes)
    assert len(svg.findall(f".//{named}line")) == len(canvas.edges)
    assert as_mermaid(canvas).count("-->|") == len(canvas.edges)
    assert as_dot(canvas).count(" -> ") == len(canvas.edges)
    boxes = {(rect.get("x"), rect.get("y")) for rect in svg.iter(f"{named}rect")}
    assert len(boxes) == len(canvas.nodes)


def test_json_has_nodes_and_edges(scene: Scene, embedded_database: str) -> None:
    """`graph ID --json`; exit code 1 with no nodes where nothing is known."""
    result = command("graph", scene.results["linked"].id, "--json", dsn=as_url(embedded_database))
    unknown = command("graph", "nobody", dsn=as_url(embedded_database))

    told = json.loads(result.stdout)
    assert [edge["way"] for edge in told["edges"]] == ["callback"]
    assert len(told["nodes"]) == 2
    assert (unknown.returncode, unknown.stdout) == (
        1,
        "nobody is no part of a canvas: the views have neither a task, nor a group or a chord of that id\n",
    )
