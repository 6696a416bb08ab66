-- What is broken now: read from the views alone, so that it costs the same however long the log is.

-- name: queues
-- Of each queue that has a task which has not ended, or a live worker: what waits and runs, since when the oldest should have been
-- taken, and how many live workers consume it. A task with an eta waits from then on: the first of each queue are looked at for one.
with open as materialized (
    select t.queue, t.task_id, t.date_created, t.status in ('PENDING', 'RECEIVED', 'RETRY', 'REJECTED') as waits
      from celery_journal.task_result t
     where t.date_done is null and t.lost_reason is null),
tally as (
    select o.queue, count(*) filter (where o.waits) as waiting, count(*) filter (where not o.waits) as running
      from open o
     group by o.queue),
oldest as (
    select o.queue, o.task_id, o.date_created, row_number() over (partition by o.queue order by o.date_created, o.task_id) as place
      from open o
     where o.waits and isfinite(o.date_created)),
due as (
    select o.queue, max(clock_timestamp() - greatest(o.date_created, e.eta)) as age
      from oldest o
           cross join lateral (select max(a.eta) as eta from celery_journal.task_attempt a where a.task_id = o.task_id) e
     where o.place <= %(looked_at)s and (e.eta is null or e.eta <= clock_timestamp())
     group by o.queue),
consumed as (
    select q.queue, count(*) as workers
      from celery_journal.worker w
           cross join lateral unnest(w.queues) as q (queue)
     where w.alive
     group by q.queue)
select coalesce(t.queue, c.queue) as queue, coalesce(t.waiting, 0) as waiting, coalesce(t.running, 0) as running, d.age,
       coalesce(c.workers, 0) as workers
  from tally t
       full join consumed c on c.queue = t.queue
       left join due d on d.queue is not distinct from t.queue
 order by coalesce(c.workers, 0) > 0, d.age desc nulls last, 1

-- name: ended
-- What ended since then, how much of it failed, and how much of that is settled.
select count(*) as ended, count(*) filter (where t.status = 'FAILURE' and t.task_id <> all(%(settled)s)) as failed,
       count(*) filter (where t.status = 'FAILURE' and t.task_id = any(%(settled)s)) as settled
  from celery_journal.task_result t
 where t.date_done > %(since)s

-- name: failed
-- What failed since then, the newest first.
select t.task_id
  from celery_journal.task_result t
 where t.status = 'FAILURE' and t.date_done > %(since)s
 order by t.date_done desc
 limit %(limit)s

-- name: lost
-- What is marked as lost, with the reason. A worker marks it within minutes; `celery-journal lost` searches.
select t.task_id, t.queue, t.lost_reason as reason
  from celery_journal.task_result t
 where t.date_done is null and t.lost_reason is not null
 order by t.date_created
 limit %(limit)s

-- name: stuck chords
-- Chords all of whose members have ended, and whose body has neither been sent nor failed for longer than a moment.
select c.group_id, c.body_task_id, clock_timestamp() - c.recorded_at as age
  from celery_journal.chord_counter c
 where c.state = 'open' and c.size is not null and c.done >= c.size and c.recorded_at < clock_timestamp() - interval '60 seconds'
 order by c.date_created
 limit %(limit)s
