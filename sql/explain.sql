-- What there is to know about a task, a chord or a group, for the words that tell why it is where it is.

-- name: task
select t.task_id, t.task_name as name, t.status as state, t.retries, t.worker, t.pid, t.queue, t.group_id,
       t.date_created, t.date_sent, t.date_started, t.date_done, t.recorded_at, t.lost_reason
  from celery_journal.task_result t
 where t.task_id = %(id)s

-- name: now
select clock_timestamp()

-- name: attempts
select a.attempt, a.run, a.worker, a.pid, a.status, a.date_sent, a.date_received, a.date_started, a.date_done, a.queue, a.eta, a.expires,
       a.time_limit, a.sent_recorded_at, a.recorded_at
  from celery_journal.task_attempt a
 where a.task_id = %(id)s
 order by a.attempt, a.recorded_at

-- name: workers
select w.worker, w.alive, w.offline, w.first_seen, w.online_since, w.last_seen, w.clock_offset, w.pid, w.concurrency, w.queues, w.active, w.freq, w.source
  from celery_journal.worker w
 where w.worker = any(%(workers)s)

-- name: consumers
-- A worker that only broadcasts does not say what it consumes: what it has received lately tells. Nor does it say what it has registered.
with taken as (
    (select t.worker, t.queue, t.recorded_at from celery_journal.task_result t
      where t.date_done is not null order by t.date_done desc nulls first limit 1000)
     union all
    select t.worker, t.queue, t.recorded_at from celery_journal.task_result t where t.date_done is null and t.worker is not null)
select %(queue)s::text as queue, count(*) as consumers, coalesce(sum(w.active), 0)::integer as active, array_agg(w.worker order by w.worker) as workers,
       array_agg(w.worker order by w.worker) filter (where %(task)s::text <> all(w.tasks)) as unregistered
  from celery_journal.worker w
 where w.alive
   and (%(queue)s = any(w.queues)
        or (w.queues is null
            and exists (select from taken k
                         where k.worker = w.worker and k.queue = %(queue)s and (w.online_since is null or k.recorded_at > w.online_since))))

-- name: registered
select w.tasks from celery_journal.worker w where w.worker = %(worker)s

-- name: ahead
-- How many tasks that were sent earlier still wait in the queue; more than a thousand are not counted.
select count(*)
  from (select from celery_journal.task_result t
         where t.date_done is null and t.status = 'PENDING' and t.worker is null and t.queue = %(queue)s and t.date_sent < %(sent)s
         limit 1001) w

-- name: chord
select c.group_id, c.size, c.done, c.failed, c.count, c.state, c.body_task_id, c.sub_tasks, c.date_created, c.date_done
  from celery_journal.chord_counter c
 where c.group_id = %(id)s

-- name: sized
-- Of one stretch of the log: whether the size of the chord was told, which Celery does before it sends the last of the header.
select exists (select from celery_journal.event e
                where e.stream = %(id)s and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid and e.size is not null) as is_sized

-- name: chord of body
select celery_journal.chord_of_body(%(id)s)

-- name: returned
select p.task_id from celery_journal.chord_part p where p.group_id = %(id)s

-- name: states
select t.task_id, t.status as state, t.worker, t.lost_reason is not null as lost, t.date_sent
  from celery_journal.task_result t
 where t.task_id = any(%(ids)s)

-- name: group
select g.group_id, g.members, g.date_saved, g.date_done from celery_journal.group_result g where g.group_id = %(id)s

-- name: open members
-- Those of a group that was not saved: of which nothing else is known by its id.
select t.task_id, t.status as state, t.worker, t.lost_reason is not null as lost
  from celery_journal.task_result t
 where t.date_done is null and t.group_id = %(id)s
 order by t.task_id
 limit 1000

-- name: raised
-- Of those tasks the stored exceptions, where they are short enough to be opened for a line.
select t.task_id, t.content_type, t.content_encoding, t.result
  from celery_journal.task_result t
 where t.task_id = any(%(ids)s) and octet_length(t.result) <= 10000

-- name: first names
-- Of those tasks that have put another one in their place, the names that they had before.
select distinct on (r.stream) r.stream, r.name
  from celery_journal.event r
 where r.stream = any(%(ids)s) and r.kind = 'task-replaced' and r.name is not null
 order by r.stream, r.position
