"""What an error of PostgreSQL means for whoever wants to record something: by its SQLSTATE, in this one place."""

from __future__ import annotations

import psycopg

#: Classes of SQLSTATE that mean the same statement may do another time: no connection, rollback, no resources, an operator, the system.
_TRANSIENT_CLASSES = {"08", "40", "53", "57", "58"}

#: The same, by themselves: a log that does not count on yet, a lock, a server that became a standby, a transaction that took too long.
_TRANSIENT_STATES = {"55000", "55006", "55P03", "25006", "25P02", "25P03", "25P04"}

#: Classes that mean the journal is not as it was: no such table, no privilege, no such schema, a login refused.
_CHANGED_CLASSES = {"28", "3D", "3F", "42"}

#: A login is refused for its password, or because there is no such user where one is asked for a password.
WRONG_LOGIN = "28P01"

#: A login is refused by itself: a user that does not exist or must not log in, or a rule of pg_hba.conf. Only a person can correct that.
NO_LOGIN = "28000"

#: The server has no database of that name.
NO_DATABASE = "3D000"


def is_transient(exc: BaseException) -> bool:
    """Return whether the same statement may do another time, such as after a lost connection; never after an error in the data."""
    if isinstance(exc, psycopg.InterfaceError):
        return True
    if not isinstance(exc, psycopg.Error):
        return False
    if exc.sqlstate is None:
        return isinstance(exc, psycopg.OperationalError)
    return exc.sqlstate[:2] in _TRANSIENT_CLASSES or exc.sqlstate in _TRANSIENT_STATES


def is_outage(exc: BaseException) -> bool:
    """Return whether it is the database that fails, and not the fact."""
    return is_transient(exc) or (isinstance(exc, psycopg.Error) and (exc.sqlstate or "")[:2] in _CHANGED_CLASSES)
