-- The current state of each task: three last-writer-wins registers (what was asked, the run, the outcome), each with
-- a key. A fold is a join: commutative, associative, idempotent, so facts may come late, twice and out of order.

-- name: classes
-- The class of an outcome is its place here; `asked` stands for a revoke that somebody asked for and no worker effected.
array['task-sent', 'task-received', 'asked', 'task-started', 'task-progress', 'task-retried', 'task-rejected', 'task-revoked', 'task-ignored', 'task-failed', 'task-succeeded']

-- name: kinds
'task-sent', 'task-received', 'task-started', 'task-progress', 'task-retried', 'task-rejected', 'task-revoked', 'task-ignored', 'task-failed', 'task-succeeded'

-- name: forgetting kinds
'task-forgotten', 'task-expired', 'task-erased'

-- name: lift
-- What one event means to the row of its task: every event writes every register, under a key that says how much it knows.
select e.stream as task_id,
       e.occurred_at as date_created,
       e.occurred_at as date_updated,
       -- What was asked: the fullest account wins (with arguments, with a name), then the newest attempt, then task-sent.
       case when e.args is not null then 2199023255552 when e.name is not null then 1099511627776 else 0 end
           + e.attempt::bigint * 2 + (e.kind = 'task-sent')::integer as asked_rank,
       e.occurred_at as asked_at,
       e.position as asked_position,
       e.name as task_name,
       e.periodic_task_name,
       e.args,
       e.kwargs,
       e.args_content_type,
       e.queue,
       e.root_id,
       e.parent_id,
       e.group_id,
       -- The run: the newest attempt that a worker is known for, as task-started tells it.
       case when e.worker is not null then 1099511627776 else 0 end
           + e.attempt::bigint * 2 + (e.kind = 'task-started')::integer as run_rank,
       e.occurred_at as run_at,
       e.position as run_position,
       e.worker,
       e.pid,
       case when e.kind = 'task-started' then e.attempt else -1 end as started_attempt,
       case when e.kind = 'task-started' then e.occurred_at end as date_started,
       -- The outcome: SUCCESS is final; then the newest attempt; within it the class of the state. A later attempt
       -- that is only sent or received does not hide RETRY, which says more. An abort (celery.contrib.abortable) is asked for
       -- from outside: what the running task tells of itself must not hide it.
       case when e.kind = 'task-succeeded' then 1125899906842624 + e.attempt::bigint * 16
            when e.attempt > 0 and e.kind in ('task-sent', 'task-received') then 0
            when e.kind = 'task-revoked' and e.worker is null then e.attempt::bigint * 16 + array_position({classes}, 'asked')
            when e.state = 'ABORTED' then e.attempt::bigint * 16 + array_position({classes}, 'task-retried')
            else e.attempt::bigint * 16 + array_position({classes}, e.kind) end as outcome_rank,
       e.occurred_at as outcome_at,
       e.position as outcome_position,
       e.state as status,
       e.attempt as retries,
       case when e.kind in ('task-succeeded', 'task-failed', 'task-revoked', 'task-ignored') then e.occurred_at end as date_done,
       e.content_type,
       e.content_encoding,
       e.result,
       e.traceback,
       e.meta
  from new_event e
 where e.kind in ({kinds})

-- name: combine
-- Many events become one row a task: the winner of each register.
select w.task_id,
       w.date_created,
       w.date_updated,
       a.asked_rank,
       a.asked_at,
       a.asked_position,
       a.task_name,
       a.periodic_task_name,
       a.args,
       a.kwargs,
       a.args_content_type,
       a.queue,
       a.root_id,
       a.parent_id,
       a.group_id,
       r.run_rank,
       r.run_at,
       r.run_position,
       r.worker,
       r.pid,
       coalesce(s.started_attempt, -1) as started_attempt,
       s.date_started,
       o.outcome_rank,
       o.outcome_at,
       o.outcome_position,
       o.status,
       o.retries,
       o.date_done,
       o.content_type,
       o.content_encoding,
       o.result,
       o.traceback,
       o.meta
  from (select l.task_id,
               min(l.date_created) as date_created,
               max(l.date_updated) as date_updated,
               (max(array[l.asked_rank, l.moment, l.position]))[3] as asked,
               (max(array[l.run_rank, l.moment, l.position]))[3] as run,
               (max(array[l.started_attempt, -l.moment, l.position]) filter (where l.started_attempt >= 0))[3] as started,
               (max(array[l.outcome_rank, l.moment, l.position]))[3] as outcome
          from (select *, (extract(epoch from date_created) * 1000000)::bigint as moment, asked_position as position
                  from lifted) l
         group by l.task_id) w
       join lifted a on a.asked_position = w.asked
       join lifted r on r.run_position = w.run
       join lifted o on o.outcome_position = w.outcome
       left join lifted s on s.asked_position = w.started

-- name: merge
insert into celery_journal.task_result_row as t (
       task_id, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta)
select task_id, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta
  from folded
 order by task_id
on conflict (task_id) do update set
       date_created = least(t.date_created, excluded.date_created),
       date_updated = greatest(t.date_updated, excluded.date_updated),
       asked_rank = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.asked_rank else t.asked_rank end,
       asked_at = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.asked_at else t.asked_at end,
       asked_position = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.asked_position else t.asked_position end,
       task_name = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.task_name else t.task_name end,
       periodic_task_name = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.periodic_task_name else t.periodic_task_name end,
       args = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.args else t.args end,
       kwargs = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.kwargs else t.kwargs end,
       args_content_type = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.args_content_type else t.args_content_type end,
       queue = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.queue else t.queue end,
       root_id = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.root_id else t.root_id end,
       parent_id = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.parent_id else t.parent_id end,
       group_id = case when (excluded.asked_rank, excluded.asked_at, excluded.asked_position) > (t.asked_rank, t.asked_at, t.asked_position) then excluded.group_id else t.group_id end,
       run_rank = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_rank else t.run_rank end,
       run_at = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_at else t.run_at end,
       run_position = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_position else t.run_position end,
       worker = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.worker else t.worker end,
       pid = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.pid else t.pid end,
       date_started = case when excluded.started_attempt > t.started_attempt then excluded.date_started
                           when excluded.started_attempt < t.started_attempt then t.date_started
                           else least(t.date_started, excluded.date_started) end,
       started_attempt = greatest(t.started_attempt, excluded.started_attempt),
       outcome_rank = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.outcome_rank else t.outcome_rank end,
       outcome_at = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.outcome_at else t.outcome_at end,
       outcome_position = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.outcome_position else t.outcome_position end,
       status = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.status else t.status end,
       retries = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.retries else t.retries end,
       date_done = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.date_done else t.date_done end,
       content_type = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.content_type else t.content_type end,
       content_encoding = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.content_encoding else t.content_encoding end,
       result = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.result else t.result end,
       traceback = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.traceback else t.traceback end,
       meta = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.meta else t.meta end

-- name: key
task_id

-- name: tables
task_result_row

-- name: view
create or replace view celery_journal.task_result as
select t.task_id,
       t.task_name,
       t.periodic_task_name,
       t.status,
       t.retries,
       t.worker,
       t.pid,
       t.queue,
       t.root_id,
       t.parent_id,
       t.group_id,
       t.date_created,
       t.date_started,
       t.date_done,
       t.date_updated,
       t.args,
       t.kwargs,
       t.args_content_type,
       t.content_type,
       t.content_encoding,
       t.result,
       t.traceback,
       t.meta,
       celery_journal.json_or_null(t.args) as args_json,
       celery_journal.json_or_null(t.kwargs) as kwargs_json,
       celery_journal.json_or_null(t.result) as result_json,
       celery_journal.json_or_null(t.meta) as meta_json
  from celery_journal.task_result_row t
 where t.date_created is not null
