"""The list of what is expected not to pass, and the verdict that it leads to."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Broker = Literal["redis", "rabbitmq"]
Backend = Literal["journal", "redis"]

#: The list, in this repository.
LIST = Path(__file__).with_name("expected.toml")

#: What became of a test.
Outcome = Literal["passed", "failed", "skipped", "xfailed", "xpassed"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the suite is run on."""

    celery: str
    broker: Broker
    backend: Backend

    def __str__(self) -> str:
        return f"Celery {self.celery}, broker {self.broker}, backend {self.backend}"


class Entry(BaseModel):
    """Tests that are expected not to pass, and why; of every setting unless it names some."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: A module, a class in it, a test, or a test with its parameters.
    tests: tuple[str, ...] = Field(min_length=1)
    why: str = Field(min_length=10)
    #: Versions, or beginnings of versions: "5.6" is every 5.6.x.
    celery: tuple[str, ...] = ()
    broker: tuple[Broker, ...] = ()
    #: `["journal", "redis"]` says that the stock Redis backend is no better off.
    backend: tuple[Backend, ...] = ()

    def holds_for(self, setting: Setting) -> bool:
        """Return whether the entry speaks of that setting."""
        versions = [setting.celery == version or setting.celery.startswith(f"{version}.") for version in self.celery]
        return (
            (not versions or any(versions))
            and (not self.broker or setting.broker in self.broker)
            and (not self.backend or setting.backend in self.backend)
        )

    def covers(self, test: str) -> bool:
        """Return whether the entry names the test, or what it is in."""
        return any(names(name, test) for name in self.tests)


class Expected(BaseModel):
    """The whole list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Never run.
    left_out: tuple[Entry, ...] = ()
    #: Run, and allowed to fail.
    failing: tuple[Entry, ...] = ()

    @classmethod
    def read(cls, path: Path = LIST) -> Expected:
        """Return the list that the file holds."""
        return cls.model_validate(tomllib.loads(path.read_text("utf-8")))

    def within(self, setting: Setting, modules: Collection[str]) -> Expected:
        """Return what of the list speaks of these modules in that setting."""
        left_out, failing = (
            _of([each for each in entries if each.holds_for(setting)], modules) for entries in (self.left_out, self.failing)
        )
        return Expected(left_out=left_out, failing=failing)

    def leaves_out(self, test: str) -> bool:
        """Return whether a module or a test is not run."""
        return any(entry.covers(test) for entry in self.left_out)


def _of(entries: Iterable[Entry], modules: Collection[str]) -> tuple[Entry, ...]:
    """Return the entries with those of their tests that are in the modules, and not those without any."""
    found = ((entry, tuple(name for name in entry.tests if name.partition(".py")[0] in modules)) for entry in entries)
    return tuple(entry.model_copy(update={"tests": tests}) for entry, tests in found if tests)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the outcomes say, held against the list."""

    #: Tests that failed and are not in the list.
    unexpected: tuple[str, ...]
    #: Tests that failed and are in the list.
    accepted: tuple[str, ...]
    #: Names in the list that did not fail although tests of theirs were run.
    passing: tuple[str, ...]
    #: Names in the list that no test has.
    unknown: tuple[str, ...]


def judge(outcomes: Mapping[str, Outcome], failing: Iterable[Entry]) -> Verdict:
    """Hold the outcomes of tests against the entries that speak of them."""
    entries = list(failing)
    failed = [test for test, outcome in outcomes.items() if outcome == "failed"]
    accepted = [test for test in failed if any(entry.covers(test) for entry in entries)]
    passing, unknown = [], []
    for name in (name for entry in entries for name in entry.tests):
        results = {outcome for test, outcome in outcomes.items() if names(name, test)}
        if not results:
            unknown.append(name)
        elif not results & {"failed", "skipped"}:
            passing.append(name)
    unexpected = [test for test in failed if test not in accepted]
    return Verdict(tuple(unexpected), tuple(accepted), tuple(passing), tuple(unknown))


def names(name: str, test: str) -> bool:
    """Return whether the name is that of the test, or of what the test is in."""
    return test == name or test.startswith((f"{name}::", f"{name}["))
