"""Workers that may not use the journal: they do not start, and one that runs already loses nothing by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers.backend.admission import check_rights
from celery_journal.journal import RightsMissing, migrate
from celery_journal.journal.migrations import role_name

from .scene import ROOT, new_app, until, url_of
from .servers import PASSWORD, Server, unused_port
from .workers import settings, working


def tell(server: Server, dsn: str, *commands: str) -> None:
    """Run the commands in the database of the DSN, as the administrator."""
    with psycopg.connect(make_conninfo(server.dsn, dbname=conninfo_to_dict(dsn)["dbname"]), autocommit=True) as connection:
        for command in commands:
            connection.execute(command.encode())


def start(url: str, folder: Path, *arguments: str, **conf: object) -> tuple[int, str, int]:
    """Send three tasks, start a worker; return its exit code, what it said, and how many tasks are still in the queue."""
    token = f"admission-{uuid4().hex[:8]}"
    conf = {"task_track_started": True, **settings("filesystem", folder / token, token), **conf}
    sender = new_app("cache+memory://", **conf)
    for number in range(3):
        sender.send_task("scene.add", (number, 1))
    command = [sys.executable, "-m", "celery", "-A", "tests.consumers.tasks", "worker", "-l", "INFO", "-c", "1", *arguments]
    environment = {**os.environ, "SCENE_CONF": json.dumps({**conf, "result_backend": url})}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    left = len([path for path in (folder / token).rglob("*.msg") if "processed" not in str(path)])
    return ended.returncode, ended.stdout + ended.stderr, left


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", "gevent", "eventlet"])
def test_a_worker_before_migrate_does_not_start(pool: str, journal_of_owner: str, tmp_path: Path) -> None:
    """It says in one sentence what to run, and its queue is whole."""
    code, said, left = start(url_of(journal_of_owner), tmp_path, "-P", pool)

    assert (code, left) == (1, 3)
    assert "the worker does not start" in said
    assert "run: celery-journal migrate" in said
    assert "Traceback" not in said
    assert " ready." not in said


@pytest.mark.parametrize(
    ("breaking", "sentence"),
    [
        pytest.param(["alter role {user} password 'another'"], "refuses the user or the password", id="wrong password"),
        pytest.param(["insert into celery_journal.migration (version, name) values (9999, 'next')"], "pip install", id="schema too new"),
        pytest.param(["revoke insert on celery_journal.event from {user}"], "may not insert into event", id="no insert"),
        pytest.param(["revoke select on celery_journal.task_result from {user}"], "may not read task_result", id="no select"),
        pytest.param(
            [
                "revoke all on schema celery_journal from {user}",
                "alter schema celery_journal owner to postgres",
                "revoke all on schema celery_journal from public",
            ],
            "may not use it",
            id="no usage",
        ),
    ],
)
@pytest.mark.parametrize("conf", [{}, {"task_ignore_result": True, "task_track_started": False}], ids=["tracked", "ignored"])
def test_a_worker_that_may_not_use_the_journal_does_not_start(
    breaking: list[str], sentence: str, conf: dict[str, object], login: str, scram_server: Server, tmp_path: Path
) -> None:
    """Whatever it is that a person has to correct."""
    tell(scram_server, login, *(command.format(user=conninfo_to_dict(login)["user"]) for command in breaking))

    code, said, left = start(url_of(login), tmp_path, **conf)

    assert (code, left) == (1, 3)
    assert sentence in said
    assert PASSWORD not in said
    assert "Traceback" not in said


#: What the writer's role may besides, which is no business of a worker: subscriptions, imports, and what people ask.
NOT_OF_WORKERS = {"subscription", "create_past_partitions", "marked", "replayed", "settled", "role_name"}

GRANTED = b"""
select c.relname, format('%%s on %%s', g.privilege_type, c.oid::regclass)
  from pg_class c, aclexplode(c.relacl) g where g.grantee = %(role)s::regrole and c.relkind <> 'S'
union all
select c.relname, format('%%s on sequence %%s', g.privilege_type, c.oid::regclass)
  from pg_class c, aclexplode(c.relacl) g where g.grantee = %(role)s::regrole and c.relkind = 'S'
union all
select a.attname, format('%%s (%%s) on %%s', g.privilege_type, a.attname, a.attrelid::regclass)
  from pg_attribute a, aclexplode(a.attacl) g where g.grantee = %(role)s::regrole
union all
select p.proname, format('%%s on function %%s', g.privilege_type, p.oid::regprocedure)
  from pg_proc p, aclexplode(p.proacl) g where g.grantee = %(role)s::regrole
union all
select n.nspname, format('%%s on schema %%s', g.privilege_type, n.nspname)
  from pg_namespace n, aclexplode(n.nspacl) g where g.grantee = %(role)s::regrole
"""


def test_every_single_right_of_a_worker_is_looked_at(journal_of_owner: str, scram_server: Server) -> None:
    """As after an upgrade without `migrate --roles`: nothing else would tell that its sweeps fail, say, or one column of the log."""
    admin_dsn = make_conninfo(scram_server.dsn, dbname=conninfo_to_dict(journal_of_owner)["dbname"])
    user = conninfo_to_dict(journal_of_owner)["user"]
    with psycopg.connect(admin_dsn, autocommit=True) as admin, psycopg.connect(journal_of_owner, autocommit=True) as worker:
        migrate(admin, roles=True, writers=[str(user)])
        role = role_name(admin, "writer")
        granted = admin.execute(GRANTED, {"role": role}).fetchall()
        assert len(granted) > 60
        check_rights(worker, "celery_journal")

        unnoticed = []
        for name, right in granted:
            admin.execute(f"revoke {right} from {role}".encode())
            try:
                check_rights(worker, "celery_journal")
                unnoticed.append(name)
            except RightsMissing as exc:
                assert f"run `celery-journal migrate --roles --writer {user}`" in str(exc)  # noqa: PT017  the others are unnoticed
            admin.execute(f"grant {right} to {role}".encode())

        assert set(unnoticed) == NOT_OF_WORKERS


def test_a_worker_that_pg_hba_keeps_out_does_not_start(login: str, scram_server: Server, tmp_path: Path) -> None:
    """A person has written that rule, and has to change it: the server's own words say which."""
    rules = scram_server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"host all {conninfo_to_dict(login)['user']} 127.0.0.1/32 reject\n{before}")
    scram_server.tell("select pg_reload_conf()")
    try:
        until(lambda: is_kept_out(login))
        code, said, left = start(url_of(login), tmp_path)
    finally:
        rules.write_text(before)
        scram_server.tell("select pg_reload_conf()")

    assert (code, left) == (1, 3)
    assert "refuses the login (pg_hba.conf rejects connection for host" in said
    assert "correct the URL, or the server's pg_hba.conf" in said
    assert PASSWORD not in said
    assert "Traceback" not in said


def is_kept_out(dsn: str) -> bool:
    """Whether the server has read its new rules."""
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return True
    return False


def test_a_worker_starts_while_the_database_is_away(tmp_path: Path) -> None:
    """That may pass, and what it records waits in the spool."""
    url = f"journal+postgresql://app@127.0.0.1:{unused_port()}/results"

    with working("filesystem", url, "", tmp_path, "-P", "solo", result_backend_transport_options={"retry_budget": 0.2}) as worker:
        worker.send("add", 1, 2)
        until(lambda: "succeeded in" in worker.said())


@pytest.mark.parametrize("track", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize(
    ("breaking", "mending"),
    [
        pytest.param("alter role {user} password 'another'", f"alter role {{user}} password '{PASSWORD}'", id="password"),
        pytest.param("alter role {user} connection limit 0", "alter role {user} connection limit -1", id="limit"),
        pytest.param("revoke insert on celery_journal.event from {user}", "grant insert on celery_journal.event to {user}", id="rights"),
        pytest.param(
            "insert into celery_journal.migration (version, name) values (9999, 'next')",
            "delete from celery_journal.migration where version = 9999",
            id="newer schema",
        ),
        pytest.param(
            "alter schema celery_journal rename to put_away", "alter schema put_away rename to celery_journal", id="dropped schema"
        ),
    ],
)
def test_a_running_worker_that_is_refused_loses_nothing(
    breaking: str, mending: str, track: bool, login: str, scram_server: Server, tmp_path: Path
) -> None:
    """Bodies run in new children, each fact waits in the spool, and is recorded when the journal takes it again."""
    user = conninfo_to_dict(login)["user"]
    options = {"retry_budget": 0.2, "track_publish": "off", "sweep_interval": 1}
    conf: dict[str, Any] = {"task_track_started": track, "worker_max_tasks_per_child": 1, "result_backend_transport_options": options}
    with working("filesystem", url_of(login), login, tmp_path, **conf) as worker:
        assert worker.send("add", 1, 2).get(timeout=30) == 3
        tell(
            scram_server,
            login,
            breaking.format(user=user),
            f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{user}'",
        )

        sent = [worker.send("add", number, 2) for number in range(4)]
        until(lambda: worker.said().count("succeeded in") >= 5)
        tell(scram_server, login, mending.format(user=user))

        ids = [result.id for result in sent]
        ended = b"select count(*) from celery_journal.task_result where status = 'SUCCESS' and task_id = any(%s)"

        def recorded() -> bool:
            with psycopg.connect(make_conninfo(scram_server.dsn, dbname=conninfo_to_dict(login)["dbname"])) as connection:
                return connection.execute(ended, [ids]).fetchone() == (4,)

        until(recorded)
        assert "raised unexpected" not in worker.said()
        assert "facts are lost" not in worker.said()
