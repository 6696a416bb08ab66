-- The canvas that a task is a part of, from any of its members.

-- name: tasks
-- Those of the ids, of the groups, and whose first task is one of the roots. Most tasks are their own root, and not in the index. Older
-- logs have tasks that are their own parent: so says Celery where a task without one tries again.
select f.task_id, t.task_name as name, t.status as state, t.worker, t.root_id, nullif(t.parent_id, t.task_id) as parent_id, t.group_id,
       t.date_created, t.lost_reason
  from (select t.task_id from celery_journal.task_result t where t.task_id = any(%(ids)s)
         union
        (select t.task_id from celery_journal.task_result t where t.root_id = any(%(roots)s) and t.root_id <> t.task_id limit %(most)s)
         union
        (select t.task_id from celery_journal.task_result t where t.group_id = any(%(groups)s) and t.group_id is not null limit %(most)s)) f
       join celery_journal.task_result t on t.task_id = f.task_id
 order by t.date_created, f.task_id
 limit %(most)s

-- name: chords
select c.group_id, c.size, c.done, c.failed, c.state, c.body_task_id, c.sub_tasks
  from celery_journal.chord_counter c
 where c.group_id = any(%(groups)s)

-- name: groups
select g.group_id, g.members
  from celery_journal.group_result g
 where g.group_id = any(%(groups)s)

-- name: chords of bodies
-- The chords whose result is that of one of the tasks, be they open or not.
select c.group_id from celery_journal.chord_counter c where c.body_task_id = any(%(ids)s)

-- name: embedding
-- In one stretch of the log, the task in whose message the id stands: a step of a chain that was not sent is known by the steps before
-- it. Nothing but reading the log tells, so this is asked for ids only of which nothing else is known.
select e.stream, e.position
  from celery_journal.event e
 where e.kind = 'task-sent'
   and e.body is not null
   and position(convert_to(%(id)s, 'UTF8') in e.body) > 0
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
 order by e.position
 limit 1
