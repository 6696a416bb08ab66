"""The periodic tasks that an app's beat sends, and one of them run now."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler, ScheduleEntry, Scheduler, Service

from celery_journal.journal.errors import JournalError


class UnknownScheduler(JournalError, ValueError):
    """What the app's beat_scheduler names cannot be used."""


def scheduler_of(app: Celery) -> Scheduler:
    """Return a scheduler that knows what the app's beat sends, and of which that beat notices nothing. Raises UnknownScheduler."""
    app.loader.import_default_modules()  # as beat does: they may add periodic tasks
    app.finalize()
    try:
        scheduler: Scheduler = Service(app, scheduler_cls=app.conf.beat_scheduler).get_scheduler(lazy=True)
    except Exception as exc:
        raise UnknownScheduler(f"the app's beat_scheduler, {app.conf.beat_scheduler}, cannot be used: {exc}") from exc
    if isinstance(scheduler, PersistentScheduler):  # its file is beat's alone, and has only when it last sent what
        scheduler = Scheduler(app=app, lazy=True)
        scheduler.merge_inplace(app.conf.beat_schedule)
        scheduler.install_default_entries(scheduler.schedule)
    return scheduler


def run_now(scheduler: Scheduler, entry: ScheduleEntry, producer: Any = None) -> str:
    """Send the task of the entry as beat would, but at once, and return its id; when beat sends it next stays as it is."""
    headers = {"periodic_task_name": entry.name, **(entry.options.get("headers") or {})}
    entry.options = {**entry.options, "headers": headers}
    return str(scheduler.apply_async(entry, producer=producer, advance=False).id)
