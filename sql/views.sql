-- Reading the views by key.

-- name: task_result
select t.task_id, t.task_name, t.periodic_task_name, t.worker, t.status, t.result, t.traceback, t.meta,
       t.content_type, t.content_encoding, t.date_created, t.date_started, t.date_done, t.date_updated,
       t.retries, t.pid, t.queue, t.root_id, t.parent_id, t.group_id,
       t.args, t.kwargs, t.args_content_type
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
