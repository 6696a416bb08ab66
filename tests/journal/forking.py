"""Running a function in a forked child, as Celery's prefork pool does."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_a_fork(function: Callable[[], T]) -> T:
    """Return what the function returns in a child of this process."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads: just what Celery does
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            answer = pickle.dumps(function())
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
        except BaseException as exc:  # noqa: BLE001 - the child must not go on as a second test run
            os.write(2, f"in the fork: {exc!r}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the child failed"
    value: T = pickle.loads(answer)
    return value
