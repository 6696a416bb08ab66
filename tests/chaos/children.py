"""Processes that end with this one, however it ends."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable


def end_with_us(number: int) -> Callable[[], None] | None:
    """Return what a new child is to do first: ask the kernel for this signal when the thread that started it dies.

    None where no kernel can do so.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask
