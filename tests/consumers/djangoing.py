"""A Django program with its own tables in the journal's database, which sends and runs tasks inside its transactions."""

from __future__ import annotations

import json
import sys
from typing import Any

import django
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

from .scene import url_of

dsn = sys.argv[1]
parts = conninfo_to_dict(dsn)
settings.configure(
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts["dbname"],
            "USER": parts.get("user", ""),
            "HOST": parts.get("host", ""),
            "PORT": str(parts.get("port", "")),
        }
    },
)
django.setup()

from django.db import connection, transaction  # noqa: E402

app = Celery("shop", broker="memory://", backend=url_of(dsn))


@app.task(name="shop.charge")
def charge(order: int) -> int:
    """Write a row and fail, all in one transaction, for odd orders."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("insert into charge values (%s)", [order])
        if order % 2:
            raise ValueError("declined")
    return order


def charged() -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute("select number from charge order by 1")
        return [number for (number,) in cursor.fetchall()]


def main() -> None:
    """Print what became of the user's rows and of the journal's."""
    with connection.cursor() as cursor:
        cursor.execute("create table charge (number integer)")
    said: dict[str, Any] = {}
    with start_worker(app, pool="solo", perform_ping_check=False):
        try:
            with transaction.atomic():
                result = charge.delay(2)
                said["inside"] = result.get(timeout=30)  # stored on a connection of its own, so it is seen in here
                raise KeyError
        except KeyError:
            said["after the rollback"] = app.AsyncResult(result.id).state
        failed = charge.delay(3)
        said["error"] = repr(failed.get(timeout=30, propagate=False))
        said["failed"] = failed.state
        try:
            charge.AsyncResult("unknown").get(timeout=0.1)
        except CeleryTimeoutError:
            said["unknown"] = "timeout"
    said["charged"] = charged()
    print(json.dumps(said))


main()
