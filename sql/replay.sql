-- Sending recorded tasks again.

-- name: try lock
-- One process a replay. Of the session: it ends with the process, whatever happens to that.
select pg_try_advisory_lock(hashtextextended('celery_journal.replay.' || %(replay)s::text, 0))

-- name: unlock
select pg_advisory_unlock(hashtextextended('celery_journal.replay.' || %(replay)s::text, 0))

-- name: seen
-- Those of the tasks that a worker has told of since.
select distinct e.stream
  from celery_journal.event e
 where e.stream = any(%(task_ids)s)
   and e.worker is not null
   and e.kind like 'task-%%'
   and e.recorded_at >= %(since)s
