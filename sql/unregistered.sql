-- Tasks whose names the workers that would receive them have not registered.

-- name: waiting
-- By queue and name what waits for workers of which none has registered that name, the longest first. As long as a live worker does not
-- tell its queues, it may consume any; and one that does not tell its tasks may have registered any. A task with an eta waits from then
-- on: the first of each name are looked at for one.
with consumer as materialized (
    select q.queue, w.worker, w.tasks
      from celery_journal.worker w
           cross join lateral unnest(w.queues) as q (queue)
     where w.alive and not exists (select from celery_journal.worker o where o.alive and o.queues is null)),
open as materialized (
    select t.queue, t.task_name as name, t.task_id, t.date_created
      from celery_journal.task_result t
     where t.date_done is null and t.lost_reason is null and t.status in ('PENDING', 'RETRY', 'REJECTED')
       and t.queue in (select c.queue from consumer c) and t.task_name is not null),
unknown as materialized (
    select o.queue, o.name, o.tasks, c.workers
      from (select o.queue, o.name, count(*) as tasks from open o group by o.queue, o.name) o
           cross join lateral (
               select array_agg(c.worker order by c.worker) as workers, bool_and(not coalesce(o.name = any(c.tasks), true)) as is_unknown
                 from consumer c
                where c.queue = o.queue) c
     where c.is_unknown),
oldest as (
    select o.queue, o.name, o.task_id, o.date_created, row_number() over (partition by o.queue, o.name order by o.date_created, o.task_id) as place
      from open o
           join unknown u on u.queue = o.queue and u.name = o.name
     where isfinite(o.date_created)),
due as (
    select o.queue, o.name, max(clock_timestamp() - greatest(o.date_created, e.eta)) as age
      from oldest o
           cross join lateral (select max(a.eta) as eta from celery_journal.task_attempt a where a.task_id = o.task_id) e
     where o.place <= %(looked_at)s and (e.eta is null or e.eta <= clock_timestamp())
     group by o.queue, o.name)
select u.queue, u.name, u.tasks, d.age, u.workers
  from unknown u
       join due d on d.queue = u.queue and d.name = u.name
 order by d.age desc, u.queue, u.name

-- name: unlike
-- Of the tasks that were sent last, by queue and name, which live workers of the queue have not registered what another one of it has.
with recent as materialized (
    select distinct t.queue, t.name
      from (select t.queue, t.task_name as name from celery_journal.task_result t order by t.date_created desc limit 10000) t
     where t.queue is not null and t.name is not null)
select r.queue, r.name, array_agg(w.worker order by w.worker) filter (where r.name <> all(w.tasks)) as workers
  from recent r
       join celery_journal.worker w on w.alive and r.queue = any(w.queues)
 group by r.queue, r.name
having bool_or(r.name = any(w.tasks)) and bool_or(r.name <> all(w.tasks))
 order by r.queue, r.name
