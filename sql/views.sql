-- Reading the views by key.

-- name: task_result
select t.task_id, t.task_name, t.periodic_task_name, t.worker, t.status, t.result, t.traceback, t.meta,
       t.content_type, t.content_encoding, t.date_created, t.date_started, t.date_done, t.date_updated,
       t.retries, t.pid, t.queue, t.root_id, t.parent_id, t.group_id,
       t.args, t.kwargs, t.args_content_type, t.date_sent, t.recorded_at, t.lost_reason
  from celery_journal.task_result t
 where t.task_id = any(%(keys)s)

-- name: group_result
select g.group_id, g.result, g.content_type, g.content_encoding, g.members, g.date_created, g.date_saved, g.date_done
  from celery_journal.group_result g
 where g.group_id = any(%(keys)s)

-- name: chord_counter
select c.group_id, c.sub_tasks::text as sub_tasks, c.count, c.size, c.done, c.failed, c.state, c.body_task_id, c.date_created, c.date_done
  from celery_journal.chord_counter c
 where c.group_id = any(%(keys)s)

-- name: parts
-- The returned parts of a chord, in the order of its header; whatever has no place there, as it returned.
select p.group_id, p.task_id, p.group_index, p.status, p.result, p.content_type, p.content_encoding, p.date_done
  from celery_journal.chord_part p
 where p.group_id = %(group_id)s
 order by p.group_index nulls last, p.position

-- name: task_attempts
-- The runs of a task, in the order in which they began.
select a.task_id, a.attempt, a.run, a.worker, a.pid, a.status, a.date_sent, a.date_received, a.date_started, a.date_done,
       a.queue, a.eta, a.expires, a.time_limit, a.queue_wait, a.run_time, a.traceback, a.recorded_at, a.sent_recorded_at
  from celery_journal.task_attempt a
 where a.task_id = %(task_id)s
 order by a.attempt, coalesce(a.date_received, a.date_started, a.date_done, a.date_sent), a.run nulls first

-- name: worker
-- Those of the names that are one, or all where no names are given.
select w.worker, w.alive, w.offline, w.first_seen, w.online_since, w.last_seen, w.clock_offset, w.pid, w.software, w.version, w.system,
       w.pool, w.concurrency, w.queues, w.freq, w.active, w.processed, w.source, w.tasks
  from celery_journal.worker w
 where w.worker = any(%(keys)s) or %(keys)s::text[] is null
 order by w.worker
