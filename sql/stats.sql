-- What goes on, and what went on.

-- name: by name
-- Of the tasks that a condition finds, by their names: how they ended, and how long their runs have waited and taken. Half of them no
-- longer than the first of each three, 95 and 99 of a hundred no longer than the others.
with chosen as materialized (
    select t.task_id, coalesce(t.task_name, '') as name, t.status, t.date_done is not null as has_ended
      from celery_journal.task_result t
     where {condition}),
tally as (
    select c.name, count(*) as tasks,
           count(*) filter (where not c.has_ended) as unended,
           count(*) filter (where c.has_ended and c.status = 'SUCCESS') as succeeded,
           count(*) filter (where c.has_ended and c.status = 'FAILURE') as failed,
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
select y.name, y.tasks, y.unended, y.succeeded, y.failed, y.others, coalesce(r.retried, 0) as retried, r.queue_wait, r.run_time
  from tally y
       left join run r on r.name = y.name
 order by y.tasks desc, y.name

-- name: going on
-- What has not ended, and what ended in the last seconds: altogether, by name, by state, by worker and by queue.
with seen as (
    select t.task_name as name, t.status as state, t.worker, t.queue, t.date_done, t.date_started
      from celery_journal.task_result t
     where t.date_done is null
     union all
    select t.task_name, t.status, t.worker, t.queue, t.date_done, t.date_started
      from celery_journal.task_result t
     where t.date_done > clock_timestamp() - %(seconds)s * interval '1 second')
select case grouping(s.name, s.state, s.worker, s.queue) when 7 then 'name' when 11 then 'state' when 13 then 'worker' when 14 then 'queue' else 'all' end as what,
       coalesce(s.name, s.state, s.worker, s.queue) as key,
       count(*) filter (where s.date_done is null and s.state in ('PENDING', 'RECEIVED', 'RETRY', 'REJECTED')) as waiting,
       count(*) filter (where s.date_done is null and s.state not in ('PENDING', 'RECEIVED', 'RETRY', 'REJECTED')) as running,
       count(*) filter (where s.date_done is not null) as ended,
       count(*) filter (where s.date_done is not null and s.state = 'FAILURE') as failed,
       avg(greatest(s.date_done - s.date_started, interval '0')) filter (where s.date_done is not null and s.date_started is not null) as run_time
  from seen s
 group by grouping sets ((), (s.name), (s.state), (s.worker), (s.queue))
having grouping(s.name, s.state, s.worker, s.queue) = 15 or coalesce(s.name, s.state, s.worker, s.queue) is not null
 order by 1, running desc, ended desc, waiting desc, 2

-- name: now
select clock_timestamp(), (select count(*) from celery_journal.worker w where w.alive)
