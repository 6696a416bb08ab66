"""What this process is to a worker: its main process, one of its children, or no part of one."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import worker_init, worker_shutdown

_main_process = 0


def is_worker_main() -> bool:
    """Return whether this is the process of a worker that starts the others, and that nothing may hold up."""
    return _main_process == os.getpid()


def in_worker() -> bool:
    """Return whether this is a process of a worker: nobody sees an error there, and a task that ends with one is gone."""
    return _main_process != 0


@worker_init.connect(weak=False, dispatch_uid="celery-journal-main-process")
def _remember(**_signal: Any) -> None:
    global _main_process  # noqa: PLW0603  it is a fact about the process
    _main_process = os.getpid()


@worker_shutdown.connect(weak=False, dispatch_uid="celery-journal-main-process")
def _forget(**_signal: Any) -> None:
    global _main_process  # noqa: PLW0603
    _main_process = 0  # the process may go on, as celery.contrib.testing's does
