"""Nothing of the journal is everybody's, at any moment that others can see, whatever the default privileges of the database are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, migrate, script
from celery_journal.journal.events import TaskSent
from celery_journal.journal.migrations import migrations
from celery_journal.projections import rebuild
from tests.conftest import migrate_to
from tests.consumers.test_cli import as_url, command
from tests.roles import with_roles

#: What everybody may do with what is in the schema, but for reading.
OPEN = b"""
    select p.oid::regprocedure::text
      from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
     where p.pronamespace = to_regnamespace('celery_journal') and a.grantee = 0
     union
    select c.oid::regclass::text || ' ' || a.privilege_type
      from pg_class c, aclexplode(c.relacl) a
     where c.relnamespace = to_regnamespace('celery_journal') and a.grantee = 0 and a.privilege_type <> 'SELECT'
     union
    select nspname || ' ' || a.privilege_type
      from pg_namespace, aclexplode(nspacl) a
     where nspname = 'celery_journal' and a.grantee = 0 and a.privilege_type <> 'USAGE'"""


class Watched(psycopg.Cursor[Any]):
    """A cursor after each of whose statements somebody else looks at what is everybody's."""

    others: Connection
    seen: set[str]

    def execute(self, *args: Any, **kwargs: Any) -> Watched:
        """Run the statement, and have the other look."""
        super().execute(*args, **kwargs)
        self.seen.update(name for (name,) in self.others.execute(OPEN))
        return self


@pytest.fixture
def generous(empty_database: str) -> Iterator[Connection]:
    """An empty database in which everybody may do everything with what is made, and a connection that is watched."""
    with psycopg.connect(empty_database, autocommit=True) as others:
        for things in ("functions", "tables", "sequences", "schemas", "types"):
            others.execute(f"alter default privileges grant all on {things} to public".encode())
        watched = type("WatchedHere", (Watched,), {"others": others, "seen": set()})
        with psycopg.connect(empty_database, autocommit=True, cursor_factory=watched) as connection:
            yield connection


def seen(connection: Connection) -> set[str]:
    """Return what was everybody's at any moment."""
    found: set[str] = connection.cursor_factory.seen  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("version", range(len(migrations())))
def test_nothing_that_a_migration_adds_is_everybodys(generous: Connection, version: int) -> None:
    """From each version on, the first installation included: neither when it is done, nor while it goes on."""
    if version:
        with psycopg.connect(generous.info.dsn, autocommit=True) as before, before.transaction():
            migrate_to(before, version)
    generous.cursor_factory.seen.clear()  # type: ignore[attr-defined]
    open_before = {name for (name,) in generous.execute(OPEN)}

    migrate(generous)

    assert generous.execute(OPEN).fetchall() == []
    assert seen(generous) <= open_before


def test_nothing_is_everybodys_after_the_script(generous: Connection) -> None:
    """Which `celery-journal sql` prints."""
    generous.execute(script().encode())

    assert seen(generous) == set()


def test_neither_a_rebuild_nor_a_new_week_opens_anything(generous: Connection) -> None:
    """The tables and the function of a rebuild, and the partitions that come later."""
    migrate(generous)
    Journal().append(generous, Emitter().emit(TaskSent, "t"))

    rebuild(generous)
    assert generous.execute("select count(*) > 0 from celery_journal.create_partitions(20)").fetchone() == (True,)
    past = "select count(*) from celery_journal.create_past_partitions(array[celery_journal.first_event_id(now() - interval '60 days')])"
    assert generous.execute(past.encode()).fetchone() == (1,)

    assert seen(generous) == set()


def test_roles_take_the_reading_from_everybody_too(generous: Connection) -> None:
    """Who may read is what the roles are about."""
    migrate(generous)
    reads = b"select count(*) from pg_class c, aclexplode(c.relacl) a where relnamespace = 'celery_journal'::regnamespace and grantee = 0"
    assert generous.execute(reads).fetchone() != (0,)

    with with_roles(generous.info.dsn):
        assert generous.execute(reads).fetchone() == (0,)


def test_doctor_names_what_everybody_may_change(generous: Connection) -> None:
    """Somebody has granted it since."""
    migrate(generous)
    generous.execute("grant insert on celery_journal.event to public")

    said = command("doctor", dsn=as_url(generous.info.dsn)).stdout

    found = "everybody may change celery_journal.event, by default privileges perhaps"
    assert f"bad\tprivileges\t{found}\trun: celery-journal migrate" in said
    migrate(generous)
    assert found not in command("doctor", dsn=as_url(generous.info.dsn)).stdout
