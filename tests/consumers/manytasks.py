"""A journal with so many tasks that whatever reads them all is noticed."""

from __future__ import annotations

from celery_journal.journal import Connection
from celery_journal.projections import rebuild

MANY = 200_000

#: A task a second until now, by number: of every tenth all is recorded, of the others how they ended, and the last twenty wait. Every
#: fiftieth has failed.
FACTS = b"""
insert into celery_journal.event (
       event_id, occurred_at, recorded_at, stream, kind, state, name, worker, queue, root_id, run, source,
       args, kwargs, result, content_type, content_encoding, traceback)
select overlay(celery_journal.first_event_id(f.at)::text placing lpad(to_hex(n * 4 + f.step), 12, '0') from 25)::uuid,
       f.at, f.at, 'task-' || lpad(n::text, 6, '0'), f.kind, f.state, 'shop.task' || n %% 20, f.worker, 'queue' || n %% 3,
       'task-' || lpad(n::text, 6, '0'), f.run, f.source, convert_to('[' || n || ']', 'UTF8'),
       convert_to('{"user_id": ' || n %% 1000 || '}', 'UTF8'), f.result, f.content_type, 'utf-8',
       case when f.state = 'FAILURE' then E'Traceback (most recent call last):\\nValueError: no' end
  from generate_series(1, %(many)s) n
       cross join lateral (select clock_timestamp() - (%(many)s - n) * interval '1 second' as sent) t
       cross join lateral (
           values (1, t.sent, 'task-sent', 'PENDING', null, null, 'signal', null, null),
                  (2, t.sent + interval '1 second', 'task-started', 'STARTED', 'w' || n %% 10, 'run', 'backend', null, null),
                  (3, t.sent + (1 + n %% 7) * interval '1 second', case when n %% 50 = 0 then 'task-failed' else 'task-succeeded' end,
                   case when n %% 50 = 0 then 'FAILURE' else 'SUCCESS' end, 'w' || n %% 10, 'run', 'backend',
                   case when n %% 50 = 0 then '{"exc_type": "ValueError", "exc_message": ["no"]}' else convert_to(n::text, 'UTF8') end,
                   'application/json'))
           as f (step, at, kind, state, worker, run, source, result, content_type)
 where case when n > %(many)s - 20 then f.step = 1 else n %% 10 = 0 or f.step = 3 end
"""


def fill(connection: Connection, many: int = MANY) -> None:
    """Put them into the log, and fold them into the views."""
    connection.execute(FACTS, {"many": many})
    rebuild(connection, ["task_result"])
    connection.execute(b"analyze")
