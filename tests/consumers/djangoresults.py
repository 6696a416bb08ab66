"""A past in django-celery-results: `python -m tests.consumers.djangoresults FILE SERIALIZER` makes it, in an SQLite database."""

from __future__ import annotations

import sys
from typing import Any

import django
from celery import Celery
from celery.app.task import Context
from django.conf import settings
from django.core.management import call_command


def make(file: str, serializer: str) -> None:
    """Store what the tests look for, as a worker would."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": file}
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["django_celery_results"], USE_TZ=True)
    django.setup()
    call_command("migrate", verbosity=0)
    app = Celery("old", backend="django-db", set_as_current=False)
    app.conf.update(result_extended=True, result_serializer=serializer, accept_content=["json", "pickle"])
    backend: Any = app.backend

    def request(task_id: str) -> Context:
        argsrepr, kwargsrepr = "(1, 2)", "{'a': 1}"
        return Context(
            id=task_id, task="shop.add", argsrepr=argsrepr, kwargsrepr=kwargsrepr, hostname="w1", _children=[app.AsyncResult("child")]
        )

    backend.store_result("fine", None, "STARTED", request=request("fine"))
    backend.mark_as_done("fine", {"total": 5}, request=request("fine"))
    backend.mark_as_failure("failed", ValueError("no such shop"), "Traceback ...", request=request("failed"))
    backend.store_result("halfway", {"current": 3}, "PROGRESS", request=request("halfway"))
    app.GroupResult("group", [app.AsyncResult("fine"), app.AsyncResult("failed")]).save()


if __name__ == "__main__":
    make(*sys.argv[1:])
