"""Rows on a terminal: records where a table has no room, groups where there are more than fit, and the same facts for programs."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from rich.text import Text

from celery_journal.consumers.alike import Waiting, alike
from celery_journal.consumers.cli.output import wrapped
from celery_journal.consumers.cli.show import LONG, NAMED
from celery_journal.journal.events import GroupSaved, TaskFailed, TaskLost, TaskSent, TaskSucceeded

from .commanding import Commands
from .lostscene import Log, ago
from .test_cli import as_url

LONG_NAME = "shop.billing.tasks.charge_card_of_returning_customer"


def failed(log: Log, task_id: str, message: str = "no", **fields: Any) -> None:
    """A task has failed."""
    result = json.dumps({"exc_type": "ValueError", "exc_message": [message], "exc_module": "builtins"}).encode()
    given: dict[str, Any] = {"name": LONG_NAME, "args": b'["Gr\\u00f6\\u00dfe"]', "kwargs": b'{"order": 7}', "worker": "w1", "run": "r1"}
    given |= {name: fields.pop(name) for name in ("args", "kwargs") if name in fields}
    log.sent(task_id, occurred_at=ago(31), **{name: given[name] for name in ("name", "args", "kwargs")})
    log.started(task_id, occurred_at=ago(30), **given)
    log.tell(TaskFailed, task_id, occurred_at=ago(20), result=result, content_type="application/json", **{**given, **fields})


# Records


def test_an_id_is_never_broken_and_the_error_stands_before_the_arguments(log: Log, commands: Commands, embedded_database: str) -> None:
    """Two lines a task: when, its id and its state; and of the rest what there is room for."""
    for _ in range(3):
        failed(log, str(uuid4()), "the card is refused")
    dsn = as_url(embedded_database)

    lines = commands.run("list", dsn=dsn, terminal=True, COLUMNS="60").text.splitlines()
    ids = [task["task_id"] for task in json.loads(commands.run("list", "--json", dsn=dsn).out)]

    assert [line.split()[2:] for line in lines[::2]] == [[task_id, "FAILURE"] for task_id in ids]
    assert all(line == "  shop.billing.tasks.charge_ca…  ValueError: the card is re…" for line in lines[1::2])
    assert {len(line) for line in lines} <= set(range(61))


def test_an_id_longer_than_the_terminal_is_left_whole(log: Log, commands: Commands, embedded_database: str) -> None:
    """The terminal breaks it as it does all that is too long, and copies it whole; also in a sentence."""
    task_id = f"import-{'x' * 100}"
    failed(log, task_id)
    dsn = as_url(embedded_database)

    for path in (["list"], ["show", task_id], ["explain", task_id], ["history", task_id]):
        assert task_id in commands.run(*path, dsn=dsn, terminal=True, COLUMNS="60").text, path


def test_a_table_that_fits_is_one(log: Log, commands: Commands, embedded_database: str) -> None:
    """Whatever the width, as far as no word in it would be broken."""
    log.sent("t", name="add")
    dsn = as_url(embedded_database)

    lines = [commands.run("list", dsn=dsn, terminal=True, COLUMNS=width).text.splitlines() for width in ("80", "160")]

    assert [[line.split()[-4:] for line in page[:1]] for page in lines] == [
        [["name", "arguments", "state", "error"]],
        [["state", "took", "worker", "error"]],
    ]


def test_what_a_pipe_is_told_does_not_depend_on_a_terminal(log: Log, commands: Commands, embedded_database: str) -> None:
    """Lines with tabs, whole sentences, and each row."""
    for number in range(60):
        failed(log, f"t{number}")
        log.sent(f"waits{number}", occurred_at=ago(7200))
    dsn = as_url(embedded_database)

    for path in (["list"], ["errors"], ["stale"], ["status"], ["explain", "t0"], ["show", "t0"], ["history", "t0"]):
        narrow, wide = (commands.run(*path, dsn=dsn, COLUMNS=columns, LINES="10").out for columns in ("40", "200"))
        if path == ["status"]:  # which says when it was
            narrow, wide = narrow.partition("\n")[2], wide.partition("\n")[2]
        assert narrow == wide, path
    assert commands.run("stale", dsn=dsn, COLUMNS="40", LINES="10").out.count("\n") == 61
    assert len(commands.run("list", dsn=dsn, COLUMNS="40").out.splitlines()[0].split("\t")) == 8


def test_any_table_has_records(log: Log, commands: Commands, embedded_database: str) -> None:
    """With its headings, where it says nothing of its own: a number beside another, a text on its line."""
    failed(log, "t")

    text = commands.run("stats", dsn=as_url(embedded_database), terminal=True, COLUMNS="60").text

    assert text == f"{LONG_NAME}\n  tasks: 1  not ended: 0  failed: 1  run p50: 10 s\n"


def test_sentences_are_parted_between_words_but_not_inside_a_moment_or_a_span() -> None:
    """Nor inside a word that is longer than a line; wide characters take two columns, and the style is kept."""
    text = Text(
        "started 2 h 20 min ago, at 2025-03-14 03:01:30 UTC, by 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e \u65e5\u672c \u65e5\u672c", style="red"
    )

    lines = wrapped(text, 26, "", "  ")

    assert [line.plain for line in lines] == [
        "started 2 h 20 min ago, at",
        "  2025-03-14 03:01:30 UTC,",
        "  by",
        "  2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e",
        "  \u65e5\u672c \u65e5\u672c",
    ]
    assert [line.plain for line in wrapped(Text("\u65e5\u672c \u65e5\u672c"), 8)] == ["\u65e5\u672c", "\u65e5\u672c"]
    assert {str(span.style) for line in lines for span in line.spans} == {"red"}
    assert wrapped(Text(""), 10)[0].plain == ""


# Groups


def test_what_does_not_fit_is_counted_by_queue_and_reason(log: Log, commands: Commands, embedded_database: str) -> None:
    """With its age and an example, the most frequent first; --all lists each, and so does what fits."""
    ids = [str(uuid4()) for _ in range(30)]
    for number, task_id in enumerate(ids):
        log.sent(task_id, queue="mail" if number < 20 else "bills", occurred_at=ago(7200 + number))
    for number, task_id in enumerate(ids[20:]):
        log.tell(TaskLost, task_id, reason=f"sent at 2025-03-14 03:{number:02}:00 UTC, and never received")
    dsn = as_url(embedded_database)

    def listed(*path: str, lines: str = "25") -> list[str]:
        return commands.run(*path, dsn=dsn, terminal=True, COLUMNS="80", LINES=lines).text.splitlines()

    stale, lost = listed("stale"), listed("lost", lines="10")

    assert stale[:4] == [
        "20 tasks  in mail   the oldest for 2 h",
        "  app.send",
        "  not received by any worker on mail",
        f"  such as {ids[19]}",
    ]
    assert stale[-1] == "30 tasks in all; to list each, add: --all"
    assert lost[0].startswith("10 tasks  in bills")
    assert lost[2] == "  sent at …, and never received"
    for path in (["stale", "--all"], ["lost", "--all"]):
        assert sum(task_id in "\n".join(listed(*path)) for task_id in ids) == (30 if path[0] == "stale" else 10)
    assert sum(task_id in "\n".join(listed("lost", lines="60")) for task_id in ids) == 10


def test_reasons_are_alike_but_for_times_ids_and_numbers() -> None:
    """What differs is left out of what is said of all; what does not is told in full."""
    first, second = (str(uuid4()) for _ in range(2))
    minute = timedelta(minutes=1)

    groups = alike(
        [
            Waiting("a", "x", "mail", minute, "sent at 2025-03-14 03:00:00 UTC and never received"),
            Waiting("b", "x", "mail", 2 * minute, "sent at 2025-03-14 03:01:00 UTC and never received"),
            Waiting("c", "y", "mail", None, "sent at 2025-03-14 03:01:00 UTC and never received"),
            Waiting("d", None, None, minute, f"it waits for 2 of 3 parts, and these are lost: {first}, {second}"),
            Waiting("e", None, None, minute, f"it waits for 1 of 3 parts, and these are lost: {first}"),
            Waiting("f", "x", "bills", minute, "with w1, started at 2025-03-14 03:00:00 UTC"),
        ]
    )

    assert [(group.count, group.queue, group.reason, group.age, group.example) for group in groups] == [
        (3, "mail", "sent at … and never received", 2 * minute, "b"),
        (2, None, "it waits for … of … parts, and these are lost: …", minute, "d"),
        (1, "bills", "with w1, started at 2025-03-14 03:00:00 UTC", minute, "f"),
    ]
    assert groups[0].told_names() == "x (2), y (1)"


def test_nothing_is_said_of_a_group_that_only_its_members_know(log: Log, commands: Commands, embedded_database: str) -> None:
    """Least of all that nobody has heard of it."""
    log.tell(TaskSucceeded, "m", name="add", group_id="g")

    assert commands.run("show", "g", dsn=as_url(embedded_database)).out == "members: 1 SUCCESS\n  m  SUCCESS add\n"


# show, and the same for programs


def test_list_and_show_give_programs_the_same_object(log: Log, commands: Commands, embedded_database: str) -> None:
    """Arguments and results as what they are, the error on one line, how long it took in seconds: of whatever has become of it."""
    failed(log, "f")
    log.sent("waits", args=b'[1, "\\u00fc"]')
    log.tell(TaskSucceeded, "s", name="add", result=b'{"total": 3}', content_type="application/json", meta=b'{"stamps": {"team": "x"}}')
    log.sent("pickled", args=b"\x80\x04K\x2a.", args_content_type="application/x-python-serialize")
    dsn = as_url(embedded_database)

    tasks = {task["task_id"]: task for task in json.loads(commands.run("list", "--json", dsn=dsn).out)}

    assert set(tasks) == {"f", "waits", "s", "pickled"}
    for task_id, task in tasks.items():
        assert json.loads(commands.run("show", task_id, "--json", dsn=dsn).out)["task"] == task
    assert (tasks["f"]["args"], tasks["f"]["kwargs"], tasks["f"]["error"]) == (["Größe"], {"order": 7}, "ValueError: no")
    assert tasks["f"]["took"] == pytest.approx(10, abs=0.1)
    assert (tasks["s"]["result"], tasks["s"]["error"], tasks["s"]["took"]) == ({"total": 3}, None, None)


def test_show_begins_with_why_the_task_is_where_it_is_and_its_error(log: Log, commands: Commands, embedded_database: str) -> None:
    """As `explain` says it, in a pipe too."""
    failed(log, "t", "the card is refused")
    dsn = as_url(embedded_database)

    shown, explained = (commands.run(name, "t", dsn=dsn).out.splitlines() for name in ("show", "explain"))

    assert shown[0] == "task t FAILURE"
    assert shown[1] == explained[1]
    assert shown[1].startswith("  It has failed with ValueError: the card is refused after 10 s on w1")
    assert next(line for line in shown if line.startswith("  error")).split(maxsplit=1) == ["error", "ValueError: the card is refused"]


def test_show_cuts_what_is_long_and_says_how_much_is_left_out(log: Log, commands: Commands, embedded_database: str) -> None:
    """Of a traceback its beginning; --full and JSON have all of it."""
    deep = "".join(f'  File "a.py", line {line}, in step\n    step()\n' for line in range(200))
    traceback = f"Traceback (most recent call last):\n{deep}ValueError: no\n"
    rows = json.dumps({"rows": "x" * 5000}).encode()
    failed(log, "t", kwargs=rows, traceback=traceback)
    dsn = as_url(embedded_database)

    cut, full, data = (commands.run("show", "t", *options, dsn=dsn).out for options in ([], ["--full"], ["--json"]))

    assert f"'{'x' * (LONG - 1)}… (3,002 characters are left out; to show all: --full)" in cut
    lines = cut[cut.index("\ntraceback\n") :].splitlines()[2:]
    assert lines[0].endswith(" characters are left out; to show all: --full)")
    assert "  ValueError: no" in lines
    assert "line 0, in step" not in cut
    assert "left out" not in full
    assert ("line 0, in step" in full, "x" * 5000 in full) == (True, True)
    task = json.loads(data)["task"]
    assert (task["kwargs"], task["traceback"]) == ({"rows": "x" * 5000}, traceback)


def test_show_writes_unicode_as_it_is_and_nothing_that_a_terminal_obeys(log: Log, commands: Commands, embedded_database: str) -> None:
    """In arguments, results and what stands inside them."""
    value = json.dumps({"größe": ["½ XL ☃", "\x1b[2Jboo", "\u202egnihton"]}).encode()
    log.tell(TaskSucceeded, "t", args=b"[" + value + b"]", kwargs=value, result=value, content_type="application/json")

    shown = commands.run("show", "t", dsn=as_url(embedded_database)).out

    assert shown.count("½ XL ☃") == 3
    assert "\\u00f6" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("\\x1b[2Jboo") + shown.count("\\u001b[2Jboo") == 3


def test_of_a_group_what_has_failed_is_told_first(log: Log, commands: Commands, embedded_database: str) -> None:
    """How many there are in each state, and of the members as many as there is room for."""
    members = [f"m{number:02}" for number in range(40)]
    log.tell(GroupSaved, "g", members=(*members, "unheard"))
    events = [log.emitter.emit(TaskSucceeded, task_id, name="add") for task_id in members[:37]]
    log.journal.append(log.connection, *events, log.emitter.emit(TaskSent, "m39", name="add", queue="mail"))
    for task_id in members[37:39]:
        failed(log, task_id)
    dsn = as_url(embedded_database)

    shown = commands.run("show", "g", dsn=dsn).out.splitlines()
    data = json.loads(commands.run("show", "g", "--json", dsn=dsn).out)

    place = shown.index("members: 2 FAILURE, 1 PENDING, 1 not heard of, 37 SUCCESS")
    told = [line.split()[:2] for line in shown[place + 1 :]]
    assert told[:4] == [["m37", "FAILURE"], ["m38", "FAILURE"], ["m39", "PENDING"], ["m00", "SUCCESS"]]
    assert len(told) == NAMED + 1
    assert shown[-1].strip() == "and 21 more"
    assert data["tally"] == {"FAILURE": 2, "PENDING": 1, "SUCCESS": 37, "not heard of": 1}
