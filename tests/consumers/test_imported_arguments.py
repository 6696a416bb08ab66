"""Arguments of which another backend has only what they look like are read where that says for sure what they were."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from celery_journal.consumers.cli.main import main
from celery_journal.consumers.contents import arguments_of
from celery_journal.consumers.transfer.reprs import LONGEST, args_in, kwargs_in
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskSucceeded
from celery_journal.projections import TaskResult, verify

from .lostscene import Log
from .scene import ROOT, kinds
from .test_cli import as_url
from .test_foreign import taken

TABLE = """create table django_celery_results_taskresult (
    id integer primary key, task_id, status, content_type, content_encoding, result, date_done datetime, date_created datetime,
    traceback, meta, task_name, task_args, task_kwargs, worker)"""


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what is taken over is the same in all."""
    return embedded_database


@contextmanager
def old(file: Path) -> Iterator[sqlite3.Connection]:
    """The tables of django-celery-results, closed afterwards."""
    connection = sqlite3.connect(file)
    with connection:
        yield connection
    connection.close()


@pytest.mark.parametrize(
    ("text", "args"),
    [
        pytest.param('"(1, 2)"', [1, 2], id="json-of-a-repr"),
        pytest.param("(1, 2)", [1, 2], id="repr"),
        pytest.param("[1, 'a', None, True, 1.5]", [1, "a", None, True, 1.5], id="repr-of-a-list"),
        pytest.param('[1, "a", null, true]', [1, "a", None, True], id="json"),
        pytest.param("\"'(1, 2)'\"", [1, 2], id="json-of-a-repr-of-a-repr"),
        pytest.param('"\\"(1, 2)\\""', [1, 2], id="json-of-json-of-a-repr"),
        pytest.param("'(\\'a\\', 1)'", ["a", 1], id="repr-of-a-repr"),
        pytest.param("('it\\'s',)", ["it's"], id="quote"),
        pytest.param('("it\'s",)', ["it's"], id="other-quotes"),
        pytest.param("({'a': (1, [2])},)", [{"a": (1, [2])}], id="nested"),
        pytest.param("()", [], id="none"),
        pytest.param("(1, 2)\n", [1, 2], id="yaml"),
        pytest.param("('…', 'ü')", ["…", "ü"], id="not-ascii"),
    ],
)
def test_what_arguments_look_like_is_read(text: str, args: list[Any]) -> None:
    """However often it was written down again."""
    assert args_in(text) == args


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param('"(1, ...)"', "(1, ...)", id="cut"),
        pytest.param("(1, 2, ...", "(1, 2, ...", id="cut-at-the-end"),
        pytest.param("('aaa...',)", "('aaa...',)", id="cut-text"),
        pytest.param("([{...}],)", "([{...}],)", id="too-deep"),
        pytest.param("({'a': [...]},)", "({'a': [...]},)", id="too-deep-inside"),
        pytest.param("('C:\\new',)", "('C:\\new',)", id="backslash"),
        pytest.param("(b'80ff',)", "(b'80ff',)", id="bytes"),
        pytest.param("({1, 2},)", "({1, 2},)", id="set"),
        pytest.param("(1j,)", "(1j,)", id="complex"),
        pytest.param("(1e999,)", "(1e999,)", id="infinite"),
        pytest.param("(<Order 7>,)", "(<Order 7>,)", id="object"),
        pytest.param("(Decimal('1'),)", "(Decimal('1'),)", id="decimal"),
        pytest.param("***", "***", id="hidden"),
        pytest.param("42", "42", id="number"),
        pytest.param("{'a': 1}", "{'a': 1}", id="keyword-arguments"),
        pytest.param("nul\0", "nul\0", id="nul"),
        pytest.param("(" * 5000, "(" * 5000, id="deep"),
        pytest.param("[" * 100_000, "[" * 100_000, id="deep-json"),
        pytest.param(f"('{'a' * LONGEST}',)", f"('{'a' * LONGEST}',)", id="long"),
        pytest.param(f"({'9' * 5000},)", f"({'9' * 5000},)", id="long-number"),
        pytest.param("[NaN]", "[NaN]", id="not-a-number"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_what_does_not_say_for_sure_stays_the_text(text: str | None, left: str | None) -> None:
    """What was cut, or may have been; what Celery writes in another way than Python reads it; what JSON has no form for."""
    assert args_in(text) == left


def test_keyword_arguments_have_names() -> None:
    """Or else it is a text, too."""
    assert kwargs_in("\"{'a': 1, 'b': {2: 3}}\"") == {"a": 1, "b": {2: 3}}
    assert kwargs_in('"{1: 2}"') == "{1: 2}"
    assert kwargs_in("{'a': 'b...'}") == "{'a': 'b...'}"
    assert kwargs_in("(1, 2)") == "(1, 2)"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(VALUES), st.integers(min_value=1, max_value=200))
def test_celerys_own_repr_is_read_as_what_it_was_or_not_at_all(args: list[Any], longest: int) -> None:
    """Wherever it was cut, and whatever stands in it."""
    text = saferepr(tuple(args), longest)

    read = args_in(json.dumps(text))

    assert read == args or read == args_in(text) == text


def test_the_arguments_of_django_celery_results_are_as_if_recorded(connection: Connection, tmp_path: Path, dsn: str) -> None:
    """They are in JSON, are searched and listed; what cannot be read is the text, and listed as that."""
    file = tmp_path / "django.db"
    insert = """insert into django_celery_results_taskresult (task_id, status, content_type, content_encoding, result, date_done,
                task_name, task_args, task_kwargs)
                values (?, 'SUCCESS', 'application/json', 'utf-8', '1', '2026-01-01 10:00:00', 'shop.add', ?, ?)"""
    with old(file) as tables:
        tables.execute(TABLE)
        tables.execute(insert, ("encoded", '"(1, 2)"', "\"{'user_id': 7}\""))  # as 2.x stores what a worker tells
        tables.execute(insert, ("plain", "(1, 2)", "{'user_id': 7}"))  # as its manager stores what it is given
        tables.execute(insert, ("protocol 1", "[1, 2]", '{"user_id": 7}'))
        tables.execute(insert, ("cut", '"(1, ...)"', "\"{'user_id': 7}\""))
        tables.execute(insert, ("none", None, None))

    assert taken(connection, "django-celery-results", f"sqlite:///{file}").tasks == 5

    tasks = TaskResult.objects.using(connection)
    for task_id in ("encoded", "plain", "protocol 1"):
        task = tasks.get(task_id=task_id)
        assert (task.task_args, task.task_kwargs) == ("[1, 2]", '{"user_id": 7}')
        assert arguments_of(task) == "1, 2, user_id=7"
    found = tasks.filter(args__path={0: 1}, kwargs__path={"user_id": 7})
    assert set(found.values_list("task_id", flat=True)) == {"encoded", "plain", "protocol 1"}
    assert tasks.get(task_id="cut").task_args == '"(1, ...)"'
    assert arguments_of(tasks.get(task_id="cut")) == "(1, ...), user_id=7"
    assert tasks.get(task_id="none").args is None
    shown = CliRunner().invoke(main, ["--dsn", as_url(dsn), "show", "cut"]).stdout
    assert "  * as text  (1, ...)\n  user_id    7\n" in shown
    assert verify(connection).differences == []


@pytest.mark.parametrize("accept", [True, False])
def test_pickled_arguments_are_opened_where_that_is_accepted(accept: bool, connection: Connection, tmp_path: Path) -> None:
    """And else they are what they were: bytes of that type."""
    file = tmp_path / "django.db"
    subprocess.run([sys.executable, "-m", "tests.consumers.djangoresults", str(file), "pickle"], cwd=ROOT, check=True)
    with old(file) as tables:
        tables.execute("update django_celery_results_taskresult set meta = null")

    taken(connection, "django-celery-results", f"sqlite:///{file}", accept=frozenset({"json", *(["pickle"] if accept else [])}))

    task = TaskResult.get(connection, "fine")
    assert (task.task_args, task.args_content_type) == (("[1, 2]", None) if accept else (None, "application/x-python-serialize"))


def test_once_more_records_nothing_twice(connection: Connection, tmp_path: Path, dsn: str) -> None:
    """Neither of what has ended, nor of what has not; nor where an earlier version has taken it over with the text."""
    file = tmp_path / "django.db"
    insert = """insert into django_celery_results_taskresult (task_id, status, content_type, content_encoding, date_done, date_created,
                task_name, task_args, task_kwargs)
                values (?, ?, 'application/json', 'utf-8', ?, '2026-01-01 09:00:00', 'shop.add', '"(1, 2)"', '"{}"')"""
    with old(file) as tables:
        tables.execute(TABLE)
        tables.execute(insert, ("ended", "SUCCESS", "2026-01-01 10:00:00"))
        tables.execute(insert, ("open", "STARTED", "2026-01-01 10:00:00"))
        tables.execute(insert, ("before", "SUCCESS", "2026-01-01 10:00:00"))
    Log(connection).tell(TaskSucceeded, "before", name="shop.add", args=b'"(1, 2)"', kwargs=b'"{}"', source="django-celery-results")

    first, second = (taken(connection, "django-celery-results", f"sqlite:///{file}") for _ in range(2))

    assert (first.tasks, first.known, second.tasks, second.known) == (2, 1, 1, 2)  # what has not ended may have gone on
    assert [kinds(dsn, one) for one in ("ended", "open", "before")] == [["task-succeeded"], ["task-started"], ["task-succeeded"]]
    assert TaskResult.get(connection, "before").task_args == '"(1, 2)"'
