-- The current state of each task: three last-writer-wins registers (what was asked, the run, the outcome), each with
-- a key. A fold is a join: commutative, associative, idempotent, so facts may come late, twice and out of order.

-- name: lift
-- What one event means to the row of its task.
select e.stream as task_id,
       e.position,
       case when e.forgets then e.position end as forgotten_position,
       case when e.forgets then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       case when not e.forgets then e.occurred_at end as date_created,
       case when not e.forgets then e.occurred_at end as date_updated,
       -- What was asked: the fullest account wins (with arguments, with a name), then the newest attempt, then task-sent.
       case when e.forgets then -1
            else case when e.args is not null then 2199023255552 when e.name is not null then 1099511627776 else 0 end
                 + e.attempt::bigint * 2 + (e.kind = 'task-sent')::integer
       end as asked_rank,
       case when e.forgets then '-infinity' else e.occurred_at end as asked_at,
       case when e.forgets then 0 else e.position end as asked_position,
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
       case when e.forgets then -1
            else (e.worker is not null)::integer * 1099511627776 + e.attempt::bigint * 2 + (e.kind = 'task-started')::integer
       end as run_rank,
       case when e.forgets then '-infinity' else e.occurred_at end as run_at,
       case when e.forgets then 0 else e.position end as run_position,
       e.worker,
       e.pid,
       case when e.kind = 'task-started' then e.attempt else -1 end as started_attempt,
       case when e.kind = 'task-started' then e.occurred_at end as date_started,
       -- The outcome: SUCCESS is final; then the newest attempt; within it the class of the state. A later attempt
       -- that is only sent or received does not hide RETRY, which says more.
       case when e.forgets then -1
            when e.attempt > 0 and e.kind in ('task-sent', 'task-received') then 0
            else (e.kind = 'task-succeeded')::integer * 1125899906842624 + e.attempt::bigint * 16
                 + case e.kind
                       when 'task-sent' then 1
                       when 'task-received' then 2
                       when 'task-revoked' then case when e.worker is null then 3 else 8 end
                       when 'task-started' then 4
                       when 'task-progress' then 5
                       when 'task-retried' then 6
                       when 'task-rejected' then 7
                       when 'task-ignored' then 9
                       when 'task-failed' then 10
                       when 'task-succeeded' then 11
                   end
       end as outcome_rank,
       case when e.forgets then '-infinity' else e.occurred_at end as outcome_at,
       case when e.forgets then 0 else e.position end as outcome_position,
       case e.kind
           when 'task-sent' then 'PENDING'
           when 'task-received' then 'RECEIVED'
           when 'task-revoked' then 'REVOKED'
           when 'task-started' then 'STARTED'
           when 'task-progress' then e.state
           when 'task-retried' then 'RETRY'
           when 'task-rejected' then 'REJECTED'
           when 'task-ignored' then 'IGNORED'
           when 'task-failed' then 'FAILURE'
           when 'task-succeeded' then 'SUCCESS'
       end as status,
       case when not e.forgets then e.attempt end as retries,
       case when e.kind in ('task-succeeded', 'task-failed', 'task-revoked', 'task-ignored') then e.occurred_at end as date_done,
       e.content_type,
       e.content_encoding,
       e.result,
       e.traceback,
       e.meta
  from (select *, kind in ('task-forgotten', 'task-expired', 'task-erased') as forgets from new_event) e
 where e.kind in ('task-sent', 'task-received', 'task-started', 'task-progress', 'task-retried', 'task-rejected',
                  'task-revoked', 'task-failed', 'task-succeeded', 'task-ignored',
                  'task-forgotten', 'task-expired', 'task-erased')

-- name: combine
-- Many events become one row a task: the winner of each register among those after the last forgetting.
select w.task_id,
       w.forgotten_position,
       case when w.forgotten_position is not null then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       w.date_created,
       w.date_updated,
       coalesce(a.asked_rank, -1) as asked_rank,
       coalesce(a.asked_at, '-infinity') as asked_at,
       coalesce(a.asked_position, 0) as asked_position,
       a.task_name,
       a.periodic_task_name,
       a.args,
       a.kwargs,
       a.args_content_type,
       a.queue,
       a.root_id,
       a.parent_id,
       a.group_id,
       coalesce(r.run_rank, -1) as run_rank,
       coalesce(r.run_at, '-infinity') as run_at,
       coalesce(r.run_position, 0) as run_position,
       r.worker,
       r.pid,
       coalesce(s.started_attempt, -1) as started_attempt,
       s.date_started,
       coalesce(o.outcome_rank, -1) as outcome_rank,
       coalesce(o.outcome_at, '-infinity') as outcome_at,
       coalesce(o.outcome_position, 0) as outcome_position,
       o.status,
       o.retries,
       o.date_done,
       o.content_type,
       o.content_encoding,
       o.result,
       o.traceback,
       o.meta
  from (select l.task_id,
               l.forgotten_position,
               min(l.date_created) as date_created,
               max(l.date_updated) as date_updated,
               (max(array[l.asked_rank, l.moment, l.position]) filter (where l.counts))[3] as asked,
               (max(array[l.run_rank, l.moment, l.position]) filter (where l.counts))[3] as run,
               (max(array[l.started_attempt, -l.moment, l.position]) filter (where l.counts and l.started_attempt >= 0))[3] as started,
               (max(array[l.outcome_rank, l.moment, l.position]) filter (where l.counts))[3] as outcome
          from (select task_id, position, asked_rank, run_rank, started_attempt, outcome_rank, date_created is not null as counts,
                       (extract(epoch from date_created) * 1000000)::bigint as moment,
                       date_created, date_updated, f.forgotten_position
                  from lifted
                       left join (select task_id, max(forgotten_position) as forgotten_position
                                    from lifted where forgotten_position is not null group by task_id) f using (task_id)
                 where position >= coalesce(f.forgotten_position, 0)) l
         group by l.task_id, l.forgotten_position) w
       left join lifted a on a.position = w.asked
       left join lifted r on r.position = w.run
       left join lifted s on s.position = w.started
       left join lifted o on o.position = w.outcome

-- name: merge
insert into celery_journal.task_result_row as t (
       task_id, forgotten_position, forgotten_xmax, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta)
select task_id, forgotten_position, forgotten_xmax, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta
  from folded
 order by task_id
on conflict (task_id) do update set
       forgotten_position = greatest(t.forgotten_position, excluded.forgotten_position),
       forgotten_xmax = coalesce(excluded.forgotten_xmax, t.forgotten_xmax),
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
returning t.task_id as id, t.forgotten_position as forgotten

-- name: forget
delete from celery_journal.task_result_row where task_id = any(forgotten_ids)

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
