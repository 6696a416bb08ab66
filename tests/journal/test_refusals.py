"""What a server says that asks for passwords, and lets somebody in or not for another reason than the password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from celery_journal.journal import DatabaseError, DatabaseMissing, LoginRefused, connect
from tests.consumers.servers import Server

PASSWORD = "geheim-7f3a"


@pytest.fixture
def login(scram_server: Server) -> Iterator[str]:
    """The DSN of a login with a password."""
    user = f"refused_{uuid4().hex[:8]}"
    scram_server.tell(f"create role {user} login password '{PASSWORD}'")
    yield make_conninfo(scram_server.dsn, user=user, password=PASSWORD)
    scram_server.tell(f"drop role {user}")


def user_of(dsn: str) -> object:
    return psycopg.conninfo.conninfo_to_dict(dsn)["user"]


def refusal(dsn: str) -> DatabaseError:
    """Return why there is no connection; a password is never in it."""
    with pytest.raises(DatabaseError) as error:
        connect(dsn, timeout=5)
    assert PASSWORD not in str(error.value)
    assert "\n" not in str(error.value)
    return error.value


def test_a_missing_database_is_not_a_wrong_password(login: str) -> None:
    """PostgreSQL looks for it after the password."""
    error = refusal(make_conninfo(login, dbname="nowhere"))

    assert type(error) is DatabaseMissing
    assert "createdb nowhere" in str(error)
    assert error.exit_code == 5


@pytest.mark.parametrize("wrong", [{"password": "another"}, {"user": "refused_nobody"}], ids=["password", "user"])
def test_a_wrong_login_is_for_a_person_to_correct(wrong: dict[str, str], login: str) -> None:
    """It will not pass by itself."""
    error = refusal(make_conninfo(login, **wrong))

    assert isinstance(error, LoginRefused)
    assert (error.may_pass, error.exit_code, error.sqlstate) == (False, 4, "28P01")


def test_too_many_connections_of_the_role_pass(login: str, scram_server: Server) -> None:
    """It is said in the server's own words."""
    scram_server.tell(f"alter role {user_of(login)} connection limit 0")

    error = refusal(login)

    assert isinstance(error, LoginRefused)
    assert (error.may_pass, error.sqlstate) == (True, "53300")
    assert "too many connections for role" in str(error)


def test_slots_that_are_taken_pass(login: str, scram_server: Server) -> None:
    """Those that are left are reserved."""
    with ExitStack() as held:
        with suppress(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(login))

        error = refusal(login)

    assert isinstance(error, LoginRefused)
    assert (error.may_pass, error.sqlstate) == (True, "53300")
    assert "slots are reserved" in str(error) or "too many clients" in str(error)


def test_the_right_to_connect_may_be_granted_later(login: str, scram_server: Server) -> None:
    """It is not the password that is wrong."""
    scram_server.tell("create database closed")
    scram_server.tell("revoke connect on database closed from public")

    error = refusal(make_conninfo(login, dbname="closed"))
    scram_server.tell("drop database closed")

    assert isinstance(error, LoginRefused)
    assert (error.may_pass, error.sqlstate) == (True, "42501")
    assert "permission denied for database" in str(error)
