-- Tasks that should have ended by now, the oldest first, page by page: a page is a short statement, and the next one begins after it.
-- A duration is counted in seconds: a day of an interval has 23 or 25 hours where the session's clock changes.
-- What lies before all dates does not end the search: PostgreSQL before 17 knows no endless age.

-- name: not ended
-- The states counted as ended are, or include, those after which nothing comes: the partial index knows the rest.
select t.task_id, t.task_name as name, t.status as state, t.worker, w.alive as worker_alive, t.queue, t.date_created, t.recorded_at, case when isfinite(o.eta) then o.eta end as eta,
       clock_timestamp() - greatest(t.date_created, o.eta, '0001-01-02 00:00+00') as age, t.lost_reason
  from celery_journal.task_result t
       cross join lateral (select max(a.eta) as eta from celery_journal.task_attempt a where a.task_id = t.task_id) o
       left join celery_journal.worker w on w.worker = t.worker
 where t.date_done is null
   and t.status <> all(%(acceptable)s)
   and t.date_created < clock_timestamp() - extract(epoch from %(duration)s::interval) * interval '1 second'
   and (o.eta is null or o.eta < clock_timestamp() - extract(epoch from %(duration)s::interval) * interval '1 second')
   and (t.date_created, t.task_id) > (%(created)s::timestamptz, %(task_id)s::text)
 order by t.date_created, t.task_id
 limit %(page)s

-- name: not acceptable
-- The same, where a task that has ended may be in a state that is not counted so.
select t.task_id, t.task_name as name, t.status as state, t.worker, w.alive as worker_alive, t.queue, t.date_created, t.recorded_at, case when isfinite(o.eta) then o.eta end as eta,
       clock_timestamp() - greatest(t.date_created, o.eta, '0001-01-02 00:00+00') as age, t.lost_reason
  from celery_journal.task_result t
       cross join lateral (select max(a.eta) as eta from celery_journal.task_attempt a where a.task_id = t.task_id) o
       left join celery_journal.worker w on w.worker = t.worker
 where t.status <> all(%(acceptable)s)
   and t.date_created < clock_timestamp() - extract(epoch from %(duration)s::interval) * interval '1 second'
   and (o.eta is null or o.eta < clock_timestamp() - extract(epoch from %(duration)s::interval) * interval '1 second')
   and (t.date_created, t.task_id) > (%(created)s::timestamptz, %(task_id)s::text)
 order by t.date_created, t.task_id
 limit %(page)s

-- name: not started
-- Tasks whose time has come, and has passed: neither ended nor begun.
select t.task_id, t.task_name as name, t.status as state, t.worker, w.alive as worker_alive, t.queue, t.date_created, t.recorded_at, case when isfinite(o.eta) then o.eta end as eta,
       clock_timestamp() - greatest(o.eta, '0001-01-02 00:00+00') as age, t.lost_reason
  from celery_journal.task_result t
       cross join lateral (
           select a.eta
             from celery_journal.task_attempt a
            where a.task_id = t.task_id
              and not exists (select from celery_journal.task_attempt s
                               where s.task_id = a.task_id and s.attempt >= a.attempt and s.status not in ('PENDING', 'RECEIVED'))
            order by a.attempt desc, a.eta desc nulls last
            limit 1) o
       left join celery_journal.worker w on w.worker = t.worker
 where t.date_done is null
   and t.status in ('PENDING', 'RECEIVED', 'RETRY')
   and t.status <> all(%(acceptable)s)
   and o.eta < clock_timestamp() - extract(epoch from %(duration)s::interval) * interval '1 second'
   and (t.date_created, t.task_id) > (%(created)s::timestamptz, %(task_id)s::text)
 order by t.date_created, t.task_id
 limit %(page)s
