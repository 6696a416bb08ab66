"""A program that uses the backend, forks, and uses it again in both processes; it prints the sessions as JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import billiard

from tests.consumers.scene import new_app


def session(backend: Any) -> int:
    """Return the id of the server process that serves us."""
    return int(backend.database.run(lambda connection: connection.info.backend_pid))


def by_os_fork(work: Callable[[], None]) -> int:
    """Run the work in a child, and let it end without any clean-up."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def by_multiprocessing(work: Callable[[], None]) -> int:
    """Run the work in a child of the standard library."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode or 0


def by_billiard(work: Callable[[], None]) -> int:
    """Run the work in a child of Celery's own library."""
    process = billiard.Process(target=work)
    process.start()
    process.join()
    return int(process.exitcode)


def main(url: str, how: str) -> None:
    """Store before the fork, in the child, and after it."""
    backend = new_app(url).backend
    backend.store_result("before", 1, "SUCCESS")
    ours = session(backend)

    def work() -> None:
        backend.store_result("child", [session(backend), backend.get_task_meta("before")["result"]], "SUCCESS")

    exitcode = {"os.fork": by_os_fork, "multiprocessing": by_multiprocessing, "billiard": by_billiard}[how](work)
    backend.store_result("after", 1, "SUCCESS")
    theirs, seen = backend.get_task_meta("child")["result"]
    print(json.dumps({"exitcode": exitcode, "before": ours, "child": theirs, "seen": seen, "after": session(backend)}))
    backend.database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
