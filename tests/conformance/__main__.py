"""Celery's integration suite against this backend, with each broker of the machine: `python -m tests.conformance [MODULE ...]`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from shutil import get_terminal_size
from typing import get_args

from rich.console import Console
from rich.table import Table

from . import services
from .expected import Backend, Broker, Expected, Outcome, Setting, judge
from .run import Run, run
from .suite import Suite, SuiteMissing, fetch, unpack

ROOT = Path(__file__).parents[2]

#: Where source distributions and logs are kept.
BUILD = ROOT / "build" / "conformance"

#: Columns of the table.
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def main(arguments: list[str]) -> int:
    """Run the suite as the arguments say; return 0 if nothing failed but what is expected to, 2 if nothing could be run.

    In CI, a broker that is missing is a failure.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("modules", metavar="MODULE", nargs="*", help="modules of the suite, such as test_canvas (default: all)")
    parser.add_argument("--except", metavar="MODULE", action="append", default=[], dest="left_out", help="a module that is not run")
    parser.add_argument("--broker", choices=get_args(Broker), action="append", help="default: each that answers")
    parser.add_argument("--backend", choices=get_args(Backend), default="journal", help="redis runs Celery's own Redis backend instead")
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, width=max(100, get_terminal_size().columns))

    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="celery-journal-conformance-") as folder, ExitStack() as stack:
        try:
            suite = unpack(fetch(version("celery"), BUILD), version("celery"), Path(folder) / "suite")
            modules = _chosen(suite, given.modules, given.left_out)
            stack.enter_context(services.redis_of_the_suite())
        except (services.NotRun, SuiteMissing) as exc:
            console.print(f"not run: {exc}", markup=False)
            return 2
        done: dict[Setting, list[Run]] = {}
        not_run = []
        for broker in given.broker or get_args(Broker):
            setting = Setting(suite.version, broker, given.backend)
            try:
                done[setting] = _run_all(suite, modules, setting, Path(folder) / "journal", console)
            except services.NotRun as exc:
                not_run.append(f"not run with the broker {broker}: {exc}")
    good = [report(setting, runs, Expected.read().within(setting, modules), console) for setting, runs in done.items()]
    for line in not_run:
        console.print(line, markup=False)
    if not any(done.values()):
        return 2
    return 0 if all(good) and not (not_run and os.environ.get("CI")) else 1


def _chosen(suite: Suite, modules: list[str], left_out: list[str]) -> list[str]:
    names, without = ([Path(name).stem for name in given] for given in (modules or suite.modules, left_out))
    if unknown := [name for name in (*names, *without) if name not in suite.modules]:
        raise SuiteMissing(f"Celery {suite.version} has no module {unknown[0]}; it has {', '.join(suite.modules)}")
    return [name for name in names if name not in without]


def _run_all(suite: Suite, modules: list[str], setting: Setting, folder: Path, console: Console) -> list[Run]:
    """Run the modules one after another, and say how each went as soon as it is known."""
    expected = Expected.read().within(setting, modules)
    left_out = [name for entry in expected.left_out for name in entry.tests]
    logs = BUILD / f"{setting.celery}-{setting.broker}-{setting.backend}"
    logs.mkdir(exist_ok=True)
    runs = []
    with services.broker(setting.broker) as broker, services.backend(setting.backend, folder) as backend:
        console.print(f"{setting}; logs are in {logs.relative_to(ROOT)}", markup=False)
        for module in modules:
            if expected.leaves_out(f"{module}.py"):
                continue
            done = run(suite, module, left_out, broker.url, backend.url, logs / f"{module}.log")
            broker.clear()
            if done.outcomes:  # helpers are called test_*.py as well
                runs.append(done)
                counts = ", ".join(f"{done.count(outcome)} {outcome}" for outcome in OUTCOMES if done.count(outcome))
                console.print(f"  {module}: {counts} in {done.seconds:.0f} s", markup=False)
    return runs


def report(setting: Setting, runs: list[Run], expected: Expected, console: Console) -> bool:
    """Print the table, and of each test that did not pass why; return whether none failed but those in the list."""
    outcomes = {test: outcome for each in runs for test, outcome in each.outcomes.items()}
    reasons = {test: reason for each in runs for test, reason in each.reasons.items()}
    verdict = judge(outcomes, expected.failing)

    def why(test: str) -> str:
        return next(entry.why for entry in expected.failing if entry.covers(test) or test in entry.tests)

    console.print()
    console.print(_table(setting, runs))
    for title, lines in {
        "left out": [f"{name}: {entry.why}" for entry in expected.left_out for name in entry.tests],
        "skipped by the suite": [f"{test}: {reasons[test]}" for test, outcome in outcomes.items() if outcome == "skipped"],
        "failed as expected": [f"{test}: {why(test)}" for test in verdict.accepted],
        "expected to fail, but passed": [f"{name}: {why(name)}" for name in verdict.passing],
        "expected to fail, but there is no such test": list(verdict.unknown),
        "FAILED": [f"{test}: {reasons[test]}" for test in verdict.unexpected],
    }.items():
        if lines:
            console.print("\n  ".join([f"{title}:", *lines]), markup=False)
    return not verdict.unexpected


def _table(setting: Setting, runs: list[Run]) -> Table:
    table = Table(title=str(setting), title_justify="left")
    table.add_column("module", no_wrap=True)
    for name in (*OUTCOMES, "s"):
        table.add_column(name, justify="right")
    for each in runs:
        table.add_row(each.module, *(str(each.count(outcome)) for outcome in OUTCOMES), f"{each.seconds:.0f}")
    totals = [str(sum([each.count(outcome) for each in runs])) for outcome in OUTCOMES]
    table.add_section()
    table.add_row("all", *totals, f"{sum(each.seconds for each in runs):.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
