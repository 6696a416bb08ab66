"""Every exception of ours crosses from process to process: Celery pickles those of tasks, and copies them."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

import celery_journal.consumers
import celery_journal.journal
import celery_journal.projections
import celery_journal.sql

#: What stands for a parameter of that name; any other gets a text.
VALUES: dict[str, Any] = {
    "event_ids": [uuid4()],
    "exit_code": 4,
    "found": 3,
    "wanted": 4,
    "may_pass": True,
    "lines": ["a line"],
}


def exceptions() -> Iterator[type[BaseException]]:
    """Yield every exception class that a module of ours defines."""
    for package in (celery_journal.sql, celery_journal.journal, celery_journal.projections, celery_journal.consumers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.rpartition(".")[2] == "__main__" or ".django" in module.name:
                continue
            for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(cls, BaseException) and cls.__module__ == module.name:
                    yield cls


def made(cls: type[BaseException]) -> BaseException:
    """Return an instance, made as its parameters ask."""
    parameters = [] if "__init__" not in vars(cls) else list(inspect.signature(cls).parameters.values())
    if not parameters:
        return cls("why it is so")
    given = [VALUES.get(parameter.name, 7 if parameter.annotation == "int" else "a text") for parameter in parameters]
    positional = [value for value, parameter in zip(given, parameters, strict=True) if parameter.kind != parameter.KEYWORD_ONLY]
    named = {parameter.name: value for value, parameter in zip(given, parameters, strict=True) if parameter.kind == parameter.KEYWORD_ONLY}
    return cls(*positional, **named)


@pytest.mark.parametrize("cls", [pytest.param(cls, id=cls.__qualname__) for cls in exceptions()])
def test_an_exception_survives_pickling_and_copying(cls: type[BaseException]) -> None:
    """What comes out says the same and knows the same, whatever its constructor takes."""
    exc = made(cls)

    for other in (pickle.loads(pickle.dumps(exc)), copy.copy(exc), copy.deepcopy(exc)):
        assert (type(other), str(other), other.args, vars(other)) == (cls, str(exc), exc.args, vars(exc))
