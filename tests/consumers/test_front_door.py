"""`import celery_journal` offers what users need, and loads nothing before it is asked for."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import celery_journal
from celery_journal.journal import JournalError

PROMISED = ["install", "JournalBackend", "AsyncResult", "GroupResult", "TaskResult", "ChordCounter", "Journal", "Emitter"]


def imported() -> dict[str, str]:
    """Return the names that a type checker sees, with the modules that have them."""
    tree = ast.parse(Path(str(celery_journal.__file__)).read_text("utf-8"))
    statements = [one for block in tree.body if isinstance(block, ast.If) for one in block.body if isinstance(one, ast.ImportFrom)]
    return {alias.name: str(one.module) for one in statements for alias in one.names}


@pytest.mark.parametrize("name", sorted({*PROMISED, *celery_journal.__all__}))
def test_a_name_is_what_its_module_has(name: str) -> None:
    """The same object by both ways, and the one that a type checker takes it for."""
    assert getattr(celery_journal, name) is getattr(importlib.import_module(imported()[name]), name)


def test_what_is_offered_is_listed() -> None:
    """For `import *`, and for who asks an interpreter."""
    assert sorted(celery_journal.__all__) == sorted(imported())
    assert set(celery_journal.__all__) <= set(dir(celery_journal))


def test_errors_are_of_one_tree() -> None:
    """Who catches JournalError catches each of them."""
    errors = [one for one in (getattr(celery_journal, name) for name in celery_journal.__all__) if isinstance(one, type)]

    assert [one.__name__ for one in errors if issubclass(one, BaseException) and not issubclass(one, JournalError)] == []


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    """And an import of it the ImportError that everybody knows."""
    with pytest.raises(AttributeError, match=r"module 'celery_journal' has no attribute 'instal'"):
        celery_journal.instal  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="instal"):
        exec("from celery_journal import instal", {})


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """The log is usable without Celery, which takes its time."""
    script = "import sys, celery_journal; from celery_journal import Journal; print('celery' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
