"""The horizon of the log, and how a log that was restored from another cluster counts on."""

from __future__ import annotations

import logging
import time
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from celery_journal import sql

from .errors import LogRestored
from .waiting import JITTER

Connection = psycopg.Connection[Any]

logger = logging.getLogger(__name__)

#: Seconds for which those who write are waited for.
PATIENCE = 10.0


def horizon(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> int:
    """Return the transaction, as the log counts them, before which nothing can appear in it any more.

    Raises LogRestored if the log was restored from another cluster, and this login cannot have it count on.
    """
    while True:
        found, restored = connection.execute(_query("horizon", schema)).fetchone() or (0, False)
        if not restored:
            return int(found)
        _begin_epoch(connection, schema)


def count_on(connection: Connection, schema: str = sql.DEFAULT_SCHEMA, *, thorough: bool = False) -> None:
    """Have the log count on, if it was restored from another cluster; with `thorough`, read all of it to find out.

    Raises LogRestored if this login cannot.
    """
    if connection.execute(_query("is restored", schema), {"thorough": thorough}).fetchone() == (True,):
        _begin_epoch(connection, schema)


def _begin_epoch(connection: Connection, schema: str) -> None:
    is_alone = connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute(_query("begin epoch", schema))
        except errors.LockNotAvailable as exc:
            if not is_alone or time.monotonic() > deadline:
                raise LogRestored(schema, "somebody writes to it for long") from exc
            time.sleep(JITTER.uniform(0, 0.5))  # those who wait for us go first
        except (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege) as exc:
            raise LogRestored(schema, str(exc).partition("\n")[0]) from exc
        else:
            logger.warning("the log was restored from another cluster, and counts on", extra={"schema": schema})
            return


def _query(name: str, schema: str) -> bytes:
    return sql.query("schema.sql", name, schema)
