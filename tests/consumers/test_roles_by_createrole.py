"""`migrate --roles` by logins that are no superusers: it works for who may create roles, and is one sentence for everybody else."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from .test_cli import as_url, command

LOGINS = ("roles_admin", "roles_other", "roles_nobody", "roles_shop")


@pytest.fixture
def admins(server: str, empty_database: str) -> Iterator[str]:
    """The DSN of an empty database; two logins that may create roles and one that may not, each of which may make a schema."""
    with psycopg.connect(make_conninfo(server, dbname="postgres"), autocommit=True) as whole:
        whole.execute(b"select pg_advisory_lock(hashtextextended('createrole', 0))")  # logins are of the whole server
        database = str(conninfo_to_dict(empty_database)["dbname"])
        for login, may in zip(LOGINS, ("createrole", "createrole", "nocreaterole", "nocreaterole"), strict=True):
            whole.execute(SQL("create role {} login").format(Identifier(login)) + SQL(" ") + SQL(may))
            if login != "roles_shop":
                whole.execute(SQL("grant create on database {} to {}").format(Identifier(database), Identifier(login)))
        try:
            yield empty_database
        finally:
            with psycopg.connect(empty_database, autocommit=True) as connection:
                made = connection.execute(b"select rolname from pg_roles where rolname like '%' || current_database()").fetchall()
                for role in (*LOGINS, *(name for (name,) in made)):
                    leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                    connection.execute(leave.format(Identifier(role)))


def run(dsn: str, login: str, *words: str) -> tuple[int, str]:
    """Return how the command ended for that login, and what it said of errors."""
    ended = command(*words, dsn=as_url(make_conninfo(dsn, user=login)))
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_who_may_create_roles_sets_everything_up(admins: str) -> None:
    """Twice, because that is what one does after each migration; then the owner's and the workers' commands work."""
    for _ in range(2):
        assert run(admins, "roles_admin", "migrate", "--roles", "--writer", "roles_shop") == (0, "")
    assert run(admins, "roles_admin", "migrate") == (0, "")
    assert run(admins, "roles_admin", "projections", "rebuild") == (0, "")
    assert run(admins, "roles_admin", "projections", "verify") == (0, "")

    assert run(admins, "roles_shop", "tail") == (0, "")
    with psycopg.connect(admins, autocommit=True) as connection:
        owners = connection.execute(
            b"select distinct pg_get_userbyid(relowner) = 'celery_journal_owner_' || current_database() from pg_class "
            b"where relnamespace = 'celery_journal'::regnamespace and relkind in ('r', 'p', 'v')"
        ).fetchall()
        rights = b"select has_database_privilege('celery_journal_owner_' || current_database(), current_database(), 'create')"
        assert owners == [(True,)]
        assert connection.execute(rights).fetchone() == (False,)


@pytest.mark.parametrize(
    ("login", "before"),
    [
        pytest.param("roles_nobody", "roles_nobody", id="who may create no roles"),
        pytest.param("roles_admin", "postgres", id="who does not own the schema"),
        pytest.param("roles_other", "roles_admin", id="who did not make the roles"),
    ],
)
def test_who_may_not_is_told_in_one_sentence(admins: str, login: str, before: str) -> None:
    """Whoever made the schema, and perhaps the roles, before; and nothing is changed."""
    words = ["migrate", "--roles"] if login == "roles_other" else ["migrate"]
    assert run(admins, before, *words)[0] == 0

    code, said = run(admins, login, "migrate", "--roles", "--writer", "roles_shop")

    assert code not in (0, 5)
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert "superuser" in said or "run this as the owner of the schema" in said
    with psycopg.connect(admins, autocommit=True) as connection:
        member = b"select count(*) from pg_auth_members where member = 'roles_shop'::regrole"
        assert connection.execute(member).fetchone() == (0,)


def test_what_auditors_lack_is_told(admins: str) -> None:
    """Whoever does not own the database may not give that away, and is told who may, instead of leaving auditors who cannot."""
    with psycopg.connect(admins, autocommit=True) as connection:
        connection.execute(SQL("revoke temporary on database {} from public").format(Identifier(connection.info.dbname)))

    code, said = run(admins, "roles_admin", "migrate", "--roles")

    assert code == 0
    assert said.startswith("auditors cannot verify, because they may not make temporary tables; the owner of the database shall run: ")
