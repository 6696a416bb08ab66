"""Ten thousand tasks while workers, captures, broker and database die and come back: `python -m tests.chaos [--seed N]`.

Afterwards the journal has to have the true end of each, or to call it lost for the true reason.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from shutil import get_terminal_size

from rich.console import Console
from rich.table import Table

from .broker import can_run
from .run import Outcome, run
from .schedule import Plan


def main(arguments: list[str]) -> int:
    """Make the run that the arguments ask for; return 0 if nothing is wrong, 2 if it cannot be made here."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=None, help="repeat the choices of an earlier run")
    parser.add_argument("--tasks", type=int, default=Plan(0).tasks, help="tasks to send (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="tasks to send in a second (default: %(default)s)")
    parser.add_argument("--captures", type=int, default=Plan(0).captures, help="captures of Celery's broadcast (default: %(default)s)")
    parser.add_argument("--no-restarts", action="store_true", help="leave broker and database alone")
    parser.add_argument("--crash", action="store_true", help="kill the database instead of stopping it")
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    given = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False, markup=False, width=max(100, get_terminal_size().columns))
    if not can_run():
        console.print("not run: there is no RabbitMQ on this machine")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever starts us in the background has Ctrl-C ignored
        signal.signal(number, _leave)
    plan = Plan(
        seed=random.randrange(10**6) if given.seed is None else given.seed,
        tasks=given.tasks,
        seconds=given.tasks / given.rate,
        captures=given.captures,
        foreign=given.captures > 0,
        restarts=not given.no_restarts,
        crash=given.crash,
    )
    console.print(f"SEED={plan.seed} TASKS={plan.tasks}")
    folder = Path(tempfile.mkdtemp(prefix="celery-journal-chaos-"))
    folder.chmod(0o755)  # the database has an account of its own
    try:
        outcome = run(plan, folder, console.print)
    finally:
        if given.keep:
            console.print(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report(plan, outcome, console)
    return 1 if outcome.violations else 0


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def report(plan: Plan, outcome: Outcome, console: Console) -> None:
    """Print what became of the tasks, what died, and every violation."""
    truth, rows = outcome.truth, outcome.record.rows
    ends: dict[str, Counter[str]] = {}
    for task_id, kind in truth.orders.items():
        if task_id in rows:
            ends.setdefault(kind, Counter())["lost" if task_id in outcome.lost else rows[task_id].status] += 1
        else:
            ends.setdefault(kind, Counter())["not sent"] += 1
    states = sorted({state for counts in ends.values() for state in counts})
    table = Table(title=f"SEED={plan.seed} TASKS={plan.tasks}", title_justify="left")
    table.add_column("tasks", no_wrap=True)
    for name in (*states, "all"):
        table.add_column(name, justify="right")
    for kind, counts in [*sorted(ends.items()), ("all", sum(ends.values(), Counter()))]:
        table.add_row(kind, *(str(counts[state] or "") for state in states), str(counts.total()))
    console.print(table)
    twice = sum(len(executions) > len({execution.attempt for execution in executions}) for executions in truth.executions.values())
    console.print(
        f"executions: {sum(map(len, truth.executions.values()))}, of {twice} tasks an attempt more than once; "
        f"orders refused to the producers: {len(truth.refused)}"
    )
    console.print("died: " + ", ".join(f"{what} {times}" for what, times in sorted(outcome.blows.items())))
    console.print(f"events: {outcome.record.events} ({', '.join(f'{source} {count}' for source, count in outcome.record.sources.items())})")
    for reason, count in Counter(outcome.lost.values()).most_common(20):
        console.print(f"lost {count}: {reason}")
    console.print("seconds: " + ", ".join(f"{what} {seconds:.0f}" for what, seconds in outcome.seconds.items()))
    for violation in outcome.violations:
        console.print(f"VIOLATION {violation}")
    console.print(f"{len(outcome.violations)} violations; SEED={plan.seed} TASKS={plan.tasks}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
