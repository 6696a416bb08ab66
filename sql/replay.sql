-- Sending recorded tasks again.

-- name: try lock
-- One process a replay. Of the session: it ends with the process, whatever happens to that.
select pg_try_advisory_lock(hashtextextended('celery_journal.replay.' || %(replay)s::text, 0))

-- name: unlock
select pg_advisory_unlock(hashtextextended('celery_journal.replay.' || %(replay)s::text, 0))

-- name: claim
-- One process at a time finds out that nobody else sends its next batch, and says that it does.
select pg_advisory_xact_lock(hashtextextended('celery_journal.replay', 0))

-- name: unfinished
-- The replays that somebody has begun, and that are not at their end: running, interrupted, or in doubt. The newest first.
select r.stream
  from celery_journal.event r
 where r.kind = 'replay-started'
   and not exists (select from celery_journal.event f where f.stream = r.stream and f.kind = 'replay-finished')
 order by r.position desc
 limit %(limit)s

-- name: last batch
-- What the replay was last about to send.
select e.event_id
  from celery_journal.event e
 where e.stream = %(replay)s
   and e.kind = 'replay-sending'
 order by e.position desc
 limit 1

-- name: last batches
-- Which replays were last about to send which of the tasks. Those that began before anything was known of the tasks were not.
select r.stream, b.task_id
  from (select min(e.position) as position from celery_journal.event e where e.stream = any(%(task_ids)s)) known
       join celery_journal.event r on r.kind = 'replay-started' and r.position > known.position
       cross join lateral (
           select e.members from celery_journal.event e
            where e.stream = r.stream and e.kind = 'replay-sending'
            order by e.position desc
            limit 1) batch
       cross join lateral unnest(batch.members) as b (task_id)
 where b.task_id = any(%(task_ids)s)

-- name: seen
-- In one stretch of the log, those of the tasks that a worker has told of since.
select distinct e.stream
  from celery_journal.event e
 where e.stream = any(%(task_ids)s)
   and e.worker is not null
   and e.kind like 'task-%%'
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
   and e.recorded_at >= %(since)s
