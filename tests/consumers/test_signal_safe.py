"""An event that handlers of signals set: whenever they come, nobody waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from celery_journal.consumers.signal_safe import SignalSafeEvent

#: A handler that comes all the time while the main thread does the same as it, or waits.
STORM = """
import signal, sys, time
from celery_journal.consumers.signal_safe import SignalSafeEvent

event, came = SignalSafeEvent(), []

def handler(*_):
    came.append(1)
    event.set()
    signal.setitimer(signal.ITIMER_REAL, 0.0001 + len(came) % 97 * 1e-6)  # the next, wherever the main thread is by then

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0001)
while len(came) <= 3000:
    if sys.argv[1] == "set":
        event.set()
    else:
        event = SignalSafeEvent()  # one that is set would not be waited for
        event.wait(0.00001)
signal.setitimer(signal.ITIMER_REAL, 0)
print("ended")
"""


def ended(doing: str) -> str:
    return subprocess.run([sys.executable, "-c", STORM, doing], capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_handler_that_comes_while_it_is_set_does_not_wait_for_ever() -> None:
    """As that of a second Ctrl-C does."""
    assert ended("set") == "ended\n"


def test_a_handler_that_comes_while_its_own_thread_waits_does_not_wait_for_ever() -> None:
    """As the first does, where the main thread is who waits."""
    assert ended("wait") == "ended\n"


def test_all_who_wait_go_on() -> None:
    """However many they are, and whoever comes later."""
    event = SignalSafeEvent()
    threads = [threading.Thread(target=event.wait, args=[60]) for _ in range(3)]
    for thread in threads:
        thread.start()

    event.set()

    for thread in threads:
        thread.join(30)
    assert not [thread for thread in threads if thread.is_alive()]
    assert event.wait(60)
    assert event.is_set()


def test_who_waits_in_vain_is_told() -> None:
    """After the time that it has given."""
    event, began = SignalSafeEvent(), time.monotonic()

    assert not event.wait(0.05)
    assert time.monotonic() - began >= 0.05
    assert not event.is_set()
