"""A producer in a process of its own, perhaps with green threads: it waits for results that others store, and says when it has them."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

GREEN = sys.argv[1] if __name__ == "__main__" else ""
if GREEN == "gevent":
    importlib.import_module("gevent.monkey").patch_all()
if GREEN == "eventlet":
    importlib.import_module("eventlet").monkey_patch()

from tests.consumers.scene import new_app  # noqa: E402  what is to be patched is patched before it is imported, or late on purpose

if GREEN == "gevent, late":  # as in a web server that loads the app before its workers patch
    importlib.import_module("gevent.monkey").patch_all()

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60


def say(**facts: Any) -> None:
    """Tell whoever started us."""
    print(json.dumps(facts), flush=True)


def new_producer(url: str, **options: Any) -> Any:
    """Return an app that does not look again by itself, so that it has to be told."""
    return new_app(url, result_backend_transport_options={"reread_interval": 3600, **options})


def waiting(url: str, count: str) -> None:
    """Wait for so many results in a thread each, and say of each when its get() returned."""
    app = new_producer(url)
    returned: dict[str, float] = {}

    def wait_for(task_id: str) -> None:
        app.AsyncResult(task_id).get(timeout=PATIENCE)
        returned[task_id] = time.monotonic()

    threads = [threading.Thread(target=wait_for, args=[f"t{number}"]) for number in range(int(count))]
    for thread in threads:
        thread.start()
    say(waiting=len(threads))
    for thread in threads:
        thread.join()
    say(returned=returned)
    app.backend.database.close()


def sleeping(url: str) -> None:
    """Count the turns of a thread during a statement that takes a second."""
    app = new_producer(url)
    thread = threading.Thread(target=app.backend.database.run, args=[lambda connection: connection.execute("select pg_sleep(1)")])
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(0.01)
        turns += 1
    say(turns=turns)
    app.backend.database.close()


def testing(url: str) -> None:
    """Run a worker in a thread, as tests of users do, and wait for what it returns; ours are in a process of their own, for its logging."""
    start_worker = importlib.import_module("celery.contrib.testing.worker").start_worker
    importlib.import_module("celery.contrib.testing.tasks")
    app = new_producer(url)

    @app.task(name="scene.double")
    def double(number: int) -> int:
        return 2 * number

    with start_worker(app):
        say(doubled=[result.get(timeout=PATIENCE) for result in [double.delay(number) for number in range(10)]])
    app.backend.database.close()


def forking(url: str, how: str) -> None:
    """Fork while threads wait for `parent0` to `parent5`; the child waits for `child`."""
    app, parent = new_producer(url, pool_size=2), os.getpid()
    app.backend.mark_as_done("before", "before")
    app.AsyncResult("before").get(timeout=PATIENCE)

    def wait_for(task_id: str) -> None:
        has = app.AsyncResult(task_id).get(timeout=PATIENCE)
        if os.getpid() == parent:  # in the child too there is this thread, if it is a green one
            say(parent_has=has)

    threads = [threading.Thread(target=wait_for, args=[f"parent{number}"]) for number in range(6)]
    for thread in threads:
        thread.start()
    say(ready=parent)
    select.select([sys.stdin], [], [])  # other than reading, this lets green threads run

    def in_child() -> None:
        say(child=os.getpid())
        say(child_has=app.AsyncResult("child").get(timeout=PATIENCE), before=app.AsyncResult("before").get(timeout=PATIENCE))

    if how == "os.fork":
        child = os.fork()
        if not child:
            in_child()
            os._exit(0)
        while not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.02)
    else:
        process = multiprocessing.get_context("fork").Process(target=in_child)
        process.start()
        process.join()
    say(child_over=True)
    for thread in threads:
        thread.join()
    app.backend.mark_as_done("after", "after")
    say(after=app.AsyncResult("after").get(timeout=PATIENCE))
    app.backend.database.close()


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"waiting": waiting, "sleeping": sleeping, "testing": testing, "forking": forking}
    programs[sys.argv[2]](*sys.argv[3:])
