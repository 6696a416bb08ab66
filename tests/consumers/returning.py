"""A program in which many processes return the parts of one chord at the same moment."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

from tests.consumers.scene import Mailbox, delivered, new_app


def main(url: str, folder: str, size: str, processes: str, copies: str, sizing: str) -> None:
    """Return every part `copies` times, each time from another process; one of them sets the size, `first` or `amid` the parts."""
    app = new_app(url, **Mailbox(Path(folder)).conf)
    context = multiprocessing.get_context("fork")
    together = context.Barrier(int(processes))
    body = app.signature("scene.sum", task_id="body")
    app.backend.apply_chord(("g", [app.AsyncResult(f"part-{index}") for index in range(int(size))]), body)
    if sizing == "first":
        app.backend.set_chord_size("g", int(size))

    def work(number: int) -> None:
        app.backend.get_task_meta("warm")
        turns = [index for copy in range(int(copies)) for index in range((number + copy) % int(processes), int(size), int(processes))]
        together.wait()
        for turn, index in enumerate(turns):
            if sizing == "amid" and number == 0 and turn == len(turns) // 2:
                app.backend.set_chord_size("g", int(size))
            request = delivered(app, task_id=f"part-{index}", group_id="g", group_index=index, chord=body)
            app.backend.on_chord_part_return(request, "SUCCESS", index)
        os._exit(0)

    children = [context.Process(target=work, args=[number]) for number in range(int(processes))]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(child.exitcode or 0 for child in children))


if __name__ == "__main__":
    main(*sys.argv[1:])
