"""Programs that send tasks and may not use the journal: their tasks are sent, and what is recorded of them waits."""

from __future__ import annotations

import logging

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .scene import Mailbox, new_app, until, url_of
from .servers import PASSWORD, Server


@pytest.mark.parametrize("track_publish", ["buffered", "sync"])
@pytest.mark.parametrize(
    ("breaking", "mending"),
    [
        pytest.param("alter role {user} password 'another'", f"alter role {{user}} password '{PASSWORD}'", id="password"),
        pytest.param("alter role {user} nologin", "alter role {user} login", id="no login"),
        pytest.param("alter role {user} connection limit 0", "alter role {user} connection limit -1", id="limit"),
        pytest.param("revoke insert on celery_journal.event from {user}", "grant insert on celery_journal.event to {user}", id="rights"),
        pytest.param(
            "insert into celery_journal.migration (version, name) values (9999, 'next')",
            "delete from celery_journal.migration where version = 9999",
            id="newer schema",
        ),
        pytest.param("alter schema celery_journal rename to put_away", "alter schema put_away rename to celery_journal", id="not migrated"),
    ],
)
def test_what_a_refused_sender_tells_waits_in_the_spool(
    breaking: str,
    mending: str,
    track_publish: str,
    login: str,
    scram_server: Server,
    mailbox: Mailbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is recorded when somebody has corrected what was wrong, whichever process notices first."""
    user, name = conninfo_to_dict(login)["user"], conninfo_to_dict(login)["dbname"]
    options = {"retry_budget": 0.2, "track_publish": track_publish}
    app = new_app(url_of(login), result_backend_transport_options=options, **mailbox.conf)

    with psycopg.connect(make_conninfo(scram_server.dsn, dbname=name), autocommit=True) as admin:
        admin.execute(breaking.format(user=user).encode())
        with caplog.at_level(logging.WARNING):
            ids = [app.send_task("scene.add", (number, 1)).id for number in range(3)]
            app.backend.buffer.flush()

        assert len(mailbox.sent()) == 3
        assert app.backend.spool.length() == 3
        assert "lost" not in caplog.text
        assert "could not be recorded" not in caplog.text
        assert PASSWORD not in caplog.text

        admin.execute(mending.format(user=user).encode())
        query = b"select count(*) from celery_journal.event where kind = 'task-sent' and stream = any(%s)"
        until(lambda: admin.execute(query, [ids]).fetchone() == (3,))
    app.backend.database.close()
