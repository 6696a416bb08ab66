-- What goes on, and what went on.

-- name: replaced
-- The names that tasks had before they put another one in their place, by which people know them.
select distinct on (r.stream) r.stream as task_id, r.name
  from celery_journal.event r
 where r.kind = 'task-replaced' and r.name is not null
 order by r.stream, r.position

-- name: never sent
-- A later step of a chain, or the body of a chord, of which nobody has heard but that it failed with what comes before it.
(t.status = 'FAILURE' and t.worker is null and t.date_sent is null and t.date_started is null
 and exists (select from celery_journal.event e
              where e.stream = t.task_id and e.kind = 'task-failed' and e.source = 'backend'
                and e.event_id >= celery_journal.first_event_id(least(greatest(t.date_created, '1970-01-02 00:00+00'), clock_timestamp()) - interval '1 day'))
 and ((t.root_id is not null and t.root_id <> t.task_id)
      or exists (select from celery_journal.chord_counter c where c.body_task_id = t.task_id)
      or exists (select from celery_journal.event l where l.stream = t.task_id and l.kind = 'task-lost')))

-- name: key of name
coalesce(r.name, t.task_name, '')

-- name: key of queue
coalesce(t.queue, '')

-- name: key of worker
coalesce(t.worker, '')

-- name: key of hour
-- In UTC, in which every hour comes once.
case when isfinite(coalesce(t.date_done, t.date_created))
     then to_char(date_trunc('hour', coalesce(t.date_done, t.date_created) at time zone 'UTC'), 'YYYY-MM-DD HH24:MI') else '' end

-- name: by key
-- Of the tasks that a condition finds, by their names, for one: how they ended, and how long their runs have waited and taken. Half of them no
-- longer than the first of each three, 95 and 99 of a hundred no longer than the others.
with replaced as materialized ({replaced}),
chosen as materialized (
    select t.task_id, {key} as name, t.status, t.date_done is not null as has_ended,
           {never sent} as is_never_sent,
           t.task_id in (select s.task_id from celery_journal.settled() s) as is_settled
      from celery_journal.task_result t
           left join replaced r on r.task_id = t.task_id
     where {condition}),
tally as (
    select c.name, count(*) as tasks,
           count(*) filter (where not c.has_ended) as unended,
           count(*) filter (where c.has_ended and c.status = 'SUCCESS') as succeeded,
           count(*) filter (where c.is_never_sent) as never_sent,
           count(*) filter (where c.has_ended and c.status = 'FAILURE' and not c.is_never_sent and not c.is_settled) as failed,
           count(*) filter (where c.has_ended and c.status = 'FAILURE' and not c.is_never_sent and c.is_settled) as settled,
           count(*) filter (where c.has_ended and c.status not in ('SUCCESS', 'FAILURE')) as others
      from chosen c
     group by c.name),
run as (
    select c.name, count(*) filter (where a.status = 'RETRY') as retried,
           percentile_cont(array[0.5, 0.95, 0.99]) within group (order by a.queue_wait) as queue_wait,
           percentile_cont(array[0.5, 0.95, 0.99]) within group (order by a.run_time) as run_time
      from chosen c
           join celery_journal.task_attempt a on a.task_id = c.task_id
     group by c.name)
select y.name, y.tasks, y.unended, y.never_sent, y.succeeded, y.failed, y.settled, y.others, coalesce(r.retried, 0) as retried, r.queue_wait, r.run_time
  from tally y
       left join run r on r.name = y.name
 order by y.tasks desc, y.name

-- name: going on
-- What has not ended, and what ended in the last seconds: altogether, by name, by state, by worker and by queue.
with replaced as materialized ({replaced}),
looked_at as (
    select t.task_id, t.task_name, t.status, t.worker, t.queue, t.date_done, t.date_started
      from celery_journal.task_result t
     where t.date_done is null
     union all
    select t.task_id, t.task_name, t.status, t.worker, t.queue, t.date_done, t.date_started
      from celery_journal.task_result t
     where t.date_done > statement_timestamp() - %(seconds)s * interval '1 second'
       and not {never sent}),
seen as (
    select coalesce(r.name, l.task_name) as name, l.status as state, l.worker, l.queue, l.date_done, l.date_started
      from looked_at l
           left join replaced r on r.task_id = l.task_id)
select case grouping(s.name, s.state, s.worker, s.queue) when 7 then 'name' when 11 then 'state' when 13 then 'worker' when 14 then 'queue' else 'all' end as what,
       coalesce(s.name, s.state, s.worker, s.queue) as key,
       count(*) filter (where s.date_done is null and s.state in ('PENDING', 'RECEIVED', 'RETRY', 'REJECTED')) as waiting,
       count(*) filter (where s.date_done is null and s.state not in ('PENDING', 'RECEIVED', 'RETRY', 'REJECTED')) as running,
       count(*) filter (where s.date_done is not null) as ended,
       count(*) filter (where s.date_done is not null and s.state = 'FAILURE') as failed,
       avg(greatest(s.date_done - s.date_started, interval '0')) filter (where isfinite(s.date_done) and isfinite(s.date_started)) as run_time
  from seen s
 group by grouping sets ((), (s.name), (s.state), (s.worker), (s.queue))
having grouping(s.name, s.state, s.worker, s.queue) = 15 or coalesce(s.name, s.state, s.worker, s.queue) is not null
 order by 1, running desc, ended desc, waiting desc, 2

-- name: now
select clock_timestamp(), count(*) filter (where w.alive), coalesce(array_agg(w.worker) filter (where not w.alive and not w.offline), '{}')
  from celery_journal.worker w
