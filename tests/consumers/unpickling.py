"""A process that unpickles results: it prints what they are and what has happened to them."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from celery_journal.consumers import install

from .scene import new_app


def main(url: str, path: str) -> None:
    app = install(new_app(url))
    app.set_current()
    result, group = pickle.loads(Path(path).read_bytes())
    print(result.get(timeout=60), *[step.kind for step in result.history()])
    print(group.get(timeout=60), [step.kind for step in group[0].history()])
    app.backend.database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
