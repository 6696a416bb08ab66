"""A command for an app whose periodic tasks django-celery-beat keeps: `python -m tests.consumers.djangobeat FILE DSN run NAME`."""

from __future__ import annotations

import sys

import django
from celery import Celery
from django.conf import settings
from django.core.management import call_command

from celery_journal.consumers.cli.app import journal
from celery_journal.consumers.cli.target import AppTarget

from .scene import url_of


def main(file: str, dsn: str, *arguments: str) -> None:
    """Make the tables with two tasks, one of them disabled, and run the command."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": file}
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_celery_beat"], USE_TZ=True)
    django.setup()
    call_command("migrate", verbosity=0)
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    every_hour, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.HOURS)
    PeriodicTask.objects.create(interval=every_hour, name="nightly report", task="scene.add", args="[1, 2]", queue="reports")
    PeriodicTask.objects.create(interval=every_hour, name="asleep", task="scene.add", enabled=False)
    app = Celery("shop", broker="memory://", backend=url_of(dsn))
    app.conf.beat_scheduler = "django"
    journal.commands["periodic"](list(arguments), obj=AppTarget(app), standalone_mode=False)
    (task,) = PeriodicTask.objects.filter(name="nightly report")
    assert (task.last_run_at, task.total_run_count) == (None, 0)  # which is beat's to say


if __name__ == "__main__":
    main(*sys.argv[1:])
