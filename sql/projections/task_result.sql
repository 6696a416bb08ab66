-- The current state of each task: last-writer-wins registers (what was asked, the run, the outcome, the last news), each
-- with a key. A fold is a join: commutative, associative, idempotent, so facts may come late, twice and out of order.
-- Its parts are the runs, one for each delivery of the message of an attempt.

-- name: classes
-- The class of an outcome is its place here; `asked` stands for a revoke that somebody asked for and no worker effected.
array['task-sent', 'task-received', 'asked', 'task-started', 'task-progress', 'task-retried', 'task-rejected', 'task-revoked', 'task-ignored', 'task-failed', 'task-succeeded']

-- name: kinds
'task-sent', 'task-received', 'task-started', 'task-progress', 'task-retried', 'task-rejected', 'task-revoked', 'task-ignored', 'task-failed', 'task-succeeded', 'task-replaced', 'task-lost'

-- name: forgetting kinds
'task-forgotten', 'task-expired', 'task-erased'

-- name: lift
-- What one event means to the row of its task: every event writes every register, under a key that says how much it knows. Where an
-- emitter's clock went back, the key has the place that the emitter gave the event, and the date is what the clock said.
select e.stream as task_id,
       e.occurred_at as date_created,
       e.occurred_at as date_updated,
       -- What was asked: the fullest account wins (with arguments, with a name), then the newest attempt, then task-sent.
       case when e.kind = 'task-lost' then -1
            when e.args is not null then 2199023255552 when e.name is not null then 1099511627776 else 0 end
           + case when e.kind = 'task-lost' then 0 else e.attempt::bigint * 2 + (e.kind = 'task-sent')::integer end as asked_rank,
       coalesce(e.ordered_at, e.occurred_at) as asked_at,
       e.position as asked_position,
       e.name as task_name,
       e.periodic_task_name,
       e.args,
       e.kwargs,
       e.args_content_type,
       e.queue,
       -- Who sends by an exchange need not know the queue: the worker that has the message from it does.
       case when e.worker is not null then e.queue end as heard_queue,
       e.root_id,
       e.parent_id,
       e.group_id,
       -- The run: that of the outcome, where the process that ran it has told the end; else the newest attempt that a worker is known
       -- for, as task-started tells it.
       case when e.kind = 'task-lost' then -1
            else case when e.worker is not null then 1099511627776 else 0 end
                 + e.attempt::bigint * 8
                 + case when e.kind = 'task-started' then 1
                        when e.worker is null or e.pid is null then 0
                        when e.kind = 'task-succeeded' then 17592186044416
                        when e.kind = 'task-failed' then 4
                        when e.kind = 'task-ignored' then 3
                        when e.kind = 'task-revoked' then 2 else 0 end end as run_rank,
       coalesce(e.ordered_at, e.occurred_at) as run_at,
       e.position as run_position,
       e.worker,
       e.pid,
       case when e.kind = 'task-started' then e.attempt else -1 end as started_attempt,
       case when e.kind = 'task-started' then e.occurred_at end as date_started,
       null::timestamptz as date_restarted,
       -- The outcome: SUCCESS is final; then the newest attempt; within it the class of the state. A later attempt
       -- that is only sent or received does not hide RETRY, which says more. An abort (celery.contrib.abortable) is asked for
       -- from outside: what the running task tells of itself must not hide it. A custom state that no worker has told may be of before
       -- the start, as when a sender stores QUEUED: the later of the two is shown.
       case when e.kind = 'task-succeeded' then 1125899906842624 + e.attempt::bigint * 16
            when e.kind in ('task-lost', 'task-replaced') then -1
            when e.attempt > 0 and e.kind in ('task-sent', 'task-received') then 0
            when e.kind = 'task-revoked' and e.worker is null then e.attempt::bigint * 16 + array_position({classes}, 'asked')
            when e.state = 'ABORTED' then e.attempt::bigint * 16 + array_position({classes}, 'task-retried')
            when e.kind = 'task-progress' and e.worker is null then e.attempt::bigint * 16 + array_position({classes}, 'task-started')
            else e.attempt::bigint * 16 + array_position({classes}, e.kind) end as outcome_rank,
       coalesce(e.ordered_at, e.occurred_at) as outcome_at,
       e.position as outcome_position,
       case when e.kind = 'task-replaced' then 'PENDING' else coalesce(e.state, 'PENDING') end as status,
       e.attempt as retries,
       case when e.kind in ('task-succeeded', 'task-failed', 'task-revoked', 'task-ignored') then e.occurred_at end as date_done,
       e.content_type,
       e.content_encoding,
       e.result,
       e.traceback,
       e.meta,
       case when e.kind = 'task-sent' then e.occurred_at end as date_sent,
       e.recorded_at,
       e.position as news_position,
       case when e.kind = 'task-lost' then coalesce(e.reason, '') end as lost_reason
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
       nullif(z.date_started, s.date_started) as date_restarted,
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
       o.meta,
       w.date_sent,
       w.recorded_at,
       n.news_position,
       n.lost_reason,
       w.heard_queue
  from (select l.task_id,
               min(l.date_created) as date_created,
               max(l.date_updated) as date_updated,
               (max(array[l.asked_rank, l.moment, l.position, l.number]))[4] as asked,
               (max(array[l.run_rank, l.moment, l.position, l.number]))[4] as run,
               (max(array[l.started_attempt, -l.told, l.position, l.number]) filter (where l.started_attempt >= 0))[4] as started,
               (max(array[l.started_attempt, l.told, l.position, l.number]) filter (where l.started_attempt >= 0))[4] as restarted,
               max(l.date_sent) as date_sent,
               (max(array[l.outcome_rank, l.moment, l.position, l.number]))[4] as outcome,
               max(l.heard_queue collate "C") as heard_queue,
               max(l.recorded_at) as recorded_at,
               (max(array[l.position, l.number]))[2] as news
          from (select *, (extract(epoch from asked_at) * 1000000)::bigint as moment,
                       (extract(epoch from date_created) * 1000000)::bigint as told, asked_position as position
                  from lifted) l
         group by l.task_id) w
       join lifted a on a.number = w.asked
       join lifted r on r.number = w.run
       join lifted o on o.number = w.outcome
       join lifted n on n.number = w.news
       left join lifted s on s.number = w.started
       left join lifted z on z.number = w.restarted

-- name: merge
insert into celery_journal.task_result_row as t (
       task_id, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started, date_restarted,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta,
       date_sent, recorded_at, news_position, lost_reason, heard_queue)
select task_id, date_created, date_updated,
       asked_rank, asked_at, asked_position, task_name, periodic_task_name, args, kwargs, args_content_type,
       queue, root_id, parent_id, group_id,
       run_rank, run_at, run_position, worker, pid, started_attempt, date_started, date_restarted,
       outcome_rank, outcome_at, outcome_position, status, retries, date_done,
       content_type, content_encoding, result, traceback, meta,
       date_sent, recorded_at, news_position, lost_reason, heard_queue
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
       date_restarted = case when excluded.started_attempt > t.started_attempt then excluded.date_restarted
                             when excluded.started_attempt < t.started_attempt then t.date_restarted
                             else nullif(greatest(t.date_started, t.date_restarted, excluded.date_started, excluded.date_restarted),
                                         least(t.date_started, excluded.date_started)) end,
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
       meta = case when (excluded.outcome_rank, excluded.outcome_at, excluded.outcome_position) > (t.outcome_rank, t.outcome_at, t.outcome_position) then excluded.meta else t.meta end,
       heard_queue = greatest(t.heard_queue, excluded.heard_queue collate "C"),
       date_sent = greatest(t.date_sent, excluded.date_sent),
       recorded_at = greatest(t.recorded_at, excluded.recorded_at),
       lost_reason = case when excluded.news_position > t.news_position then excluded.lost_reason else t.lost_reason end,
       news_position = greatest(t.news_position, excluded.news_position)

-- name: key
task_id

-- name: tables
task_result_row task_attempt_row

-- name: clear parts
delete from celery_journal.task_attempt_row where task_id = any({forgotten ids})

-- name: lift part
-- What is asked for from outside (a revoke without a worker) and what is only a report of progress is no part of a run.
select e.stream as task_id,
       e.attempt,
       coalesce(e.run, '') as run,
       case when e.kind = 'task-sent' then e.occurred_at end as date_sent,
       case when e.kind = 'task-sent' then e.recorded_at end as sent_recorded_at,
       null::timestamptz[] as sendings,
       case when e.kind = 'task-received' then e.occurred_at end as date_received,
       case when e.kind = 'task-started' then e.occurred_at end as date_started,
       case when e.kind = 'task-started' then e.recorded_at end as started_recorded_at,
       e.recorded_at,
       case when e.kind in ('task-sent', 'task-received') then e.eta end as eta,
       e.expires,
       e.time_limit,
       e.queue,
       case when e.worker is null then 0 when e.kind = 'task-started' then 2 else 1 end as run_rank,
       coalesce(e.ordered_at, e.occurred_at) as run_at,
       e.position as run_position,
       e.worker,
       e.pid,
       case when e.kind in ({ends of runs}) then {class of an end} else -1 end as end_rank,
       coalesce(e.ordered_at, e.occurred_at) as end_at,
       e.position as end_position,
       case when e.kind in ({ends of runs}) then e.state end as status,
       case when e.kind in ({ends of runs}) then e.occurred_at end as date_done,
       e.traceback
  from new_event e
 where e.kind in ('task-sent', 'task-received', 'task-started', {ends of runs}) and (e.kind <> 'task-revoked' or e.worker is not null)

-- name: last of rows
celery_journal.first_event_id(least(max(t.date_updated), '9999-12-30 00:00+00') + interval '1 day')

-- name: ends of runs
'task-retried', 'task-rejected', 'task-revoked', 'task-ignored', 'task-failed', 'task-succeeded', 'task-replaced'

-- name: class of an end
-- A run that has put another task in its place has ended as one without a result has.
array_position({classes}, case e.kind when 'task-replaced' then 'task-ignored' else e.kind end)

-- name: combine part
select w.task_id,
       w.attempt,
       w.run,
       w.date_sent,
       w.sent_recorded_at,
       case when w.date_sent < w.last_sent then celery_journal.joined_sendings(w.sendings, null) end as sendings,
       w.date_received,
       w.date_started,
       w.started_recorded_at,
       w.recorded_at,
       w.eta,
       w.expires,
       w.time_limit,
       w.queue,
       r.run_rank,
       r.run_at,
       r.run_position,
       r.worker,
       r.pid,
       e.end_rank,
       e.end_at,
       e.end_position,
       e.status,
       e.date_done,
       e.traceback
  from (select l.task_id,
               l.attempt,
               l.run,
               min(l.date_sent) as date_sent,
               min(l.sent_recorded_at) as sent_recorded_at,
               max(l.date_sent) as last_sent,
               array_agg(array[l.date_sent, l.sent_recorded_at]) filter (where l.date_sent is not null) as sendings,
               min(l.date_received) as date_received,
               min(l.date_started) as date_started,
               min(l.started_recorded_at) as started_recorded_at,
               max(l.recorded_at) as recorded_at,
               max(l.eta) as eta,
               max(l.expires) as expires,
               max(l.time_limit) as time_limit,
               max(l.queue collate "C") as queue,
               (max(array[l.run_rank, l.moment, l.run_position, l.number]))[4] as ran,
               (max(array[l.end_rank, l.moment, l.end_position, l.number]))[4] as ended
          from (select *, (extract(epoch from run_at) * 1000000)::bigint as moment from lifted) l
         group by l.task_id, l.attempt, l.run) w
       join lifted r on r.number = w.ran
       join lifted e on e.number = w.ended

-- name: merge part
insert into celery_journal.task_attempt_row as t (
       task_id, attempt, run, date_sent, sent_recorded_at, sendings, date_received, date_started, started_recorded_at, recorded_at,
       eta, expires, time_limit, queue, run_rank, run_at, run_position, worker, pid,
       end_rank, end_at, end_position, status, date_done, traceback)
select task_id, attempt, run, date_sent, sent_recorded_at, sendings, date_received, date_started, started_recorded_at, recorded_at,
       eta, expires, time_limit, queue, run_rank, run_at, run_position, worker, pid,
       end_rank, end_at, end_position, status, date_done, traceback
  from folded
 order by task_id, attempt, run
on conflict (task_id, attempt, run) do update set
       date_sent = least(t.date_sent, excluded.date_sent),
       sent_recorded_at = least(t.sent_recorded_at, excluded.sent_recorded_at),
       sendings = case when excluded.date_sent is null or (excluded.sendings is null and t.sendings is null and excluded.date_sent = t.date_sent)
                       then t.sendings
                       when t.date_sent is null then excluded.sendings
                       else celery_journal.joined_sendings(coalesce(t.sendings, array[array[t.date_sent, t.sent_recorded_at]]),
                                                           coalesce(excluded.sendings, array[array[excluded.date_sent, excluded.sent_recorded_at]])) end,
       date_received = least(t.date_received, excluded.date_received),
       date_started = least(t.date_started, excluded.date_started),
       started_recorded_at = least(t.started_recorded_at, excluded.started_recorded_at),
       recorded_at = greatest(t.recorded_at, excluded.recorded_at),
       eta = greatest(t.eta, excluded.eta),
       expires = greatest(t.expires, excluded.expires),
       time_limit = greatest(t.time_limit, excluded.time_limit),
       queue = greatest(t.queue, excluded.queue collate "C"),
       run_rank = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_rank else t.run_rank end,
       run_at = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_at else t.run_at end,
       run_position = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.run_position else t.run_position end,
       worker = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.worker else t.worker end,
       pid = case when (excluded.run_rank, excluded.run_at, excluded.run_position) > (t.run_rank, t.run_at, t.run_position) then excluded.pid else t.pid end,
       end_rank = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.end_rank else t.end_rank end,
       end_at = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.end_at else t.end_at end,
       end_position = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.end_position else t.end_position end,
       status = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.status else t.status end,
       date_done = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.date_done else t.date_done end,
       traceback = case when (excluded.end_rank, excluded.end_at, excluded.end_position) > (t.end_rank, t.end_at, t.end_position) then excluded.traceback else t.traceback end

-- name: alive task_attempt_row
true

-- name: view
-- A row is of one run, that of the outcome. Where its message was sent again after that run began, the arguments that are shown are not
-- those of the newest sending, but in the log; and where several runs of the attempt began, one of them has ended it. `ran_again`
-- is true of all that ran more than once, `ran_long` of all that ran for ten seconds, of few others, and an index has them: `runs` is how often it
-- was started, `overlap` whether it was so while another run, of which the end is known, was at work. `args_json` and
-- `kwargs_json` are for the search, and of the newest sending: an index of one's own is on them.
create or replace view celery_journal.task_result as
select t.task_id,
       t.task_name,
       t.periodic_task_name,
       t.status,
       t.retries,
       t.worker,
       t.pid,
       coalesce(t.queue, t.heard_queue) as queue,
       t.root_id,
       t.parent_id,
       t.group_id,
       t.date_created,
       case when t.date_restarted is null and t.started_attempt <= t.retries then t.date_started
            else coalesce(celery_journal.started_of(t.task_id, t.retries, t.outcome_position,
                                                    case when t.date_done is null then t.started_attempt end), t.date_started)
            end as date_started,
       t.date_done,
       t.date_updated,
       a.args,
       a.kwargs,
       case when s.told is null then t.args_content_type else convert_from(s.told[3], 'UTF8') end as args_content_type,
       t.content_type,
       t.content_encoding,
       t.result,
       t.traceback,
       t.meta,
       celery_journal.json_or_null(t.args) as args_json,
       celery_journal.json_or_null(t.kwargs) as kwargs_json,
       celery_journal.json_or_null(t.result) as result_json,
       celery_journal.json_or_null(t.meta) as meta_json,
       t.date_sent,
       t.recorded_at,
       case when t.date_done is null then t.lost_reason end as lost_reason,
       t.retries > 0 or t.started_attempt > 0 or t.date_restarted is not null as ran_again,
       case when isfinite(t.date_done) and isfinite(t.date_started) then t.date_done - t.date_started end >= interval '10 seconds'
           or t.started_attempt > t.retries or t.date_restarted is not null as ran_long,
       (select count(*) from celery_journal.task_attempt_row r where r.task_id = t.task_id and r.date_started is not null) as runs,
       -- What a run has sent itself, as the next attempt or in its own place, may begin before it has ended.
       (t.retries > 0 or t.started_attempt > 0 or t.date_restarted is not null)
           and exists (select from celery_journal.task_attempt_row r
                              join celery_journal.task_attempt_row o on o.task_id = r.task_id and (o.attempt, o.run) <> (r.attempt, r.run)
                        where r.task_id = t.task_id and r.date_started <= o.date_started and o.date_started < r.date_done
                          and o.attempt <> case r.status when 'RETRY' then r.attempt + 1 when 'REPLACED' then r.attempt else -1 end) as overlap
  from celery_journal.task_result_row t
       cross join lateral (
           select case when t.date_done is not null
                            and (t.asked_at > coalesce(t.date_started, t.date_done) or t.started_attempt > t.retries)
                       then celery_journal.asked_of(t.task_id, t.retries, t.outcome_position, t.outcome_at, t.forgotten_position, t.date_created)
                       end as told) s
       cross join lateral (
           select case when s.told is null then t.args else s.told[1] end as args,
                  case when s.told is null then t.kwargs else s.told[2] end as kwargs) a
 where t.date_created is not null;

-- A run that began is shown, with the newest sending before it, and a sending after which none began. How long it waited in its queue
-- is told by the clocks of sender and worker, unless something contradicts them, and then by that of the database: it started before it
-- was sent; what is recorded had yet to happen; or one of the two was recorded at once and the other long after it happened. That
-- both are recorded late says nothing of clocks: the database, or a capture, was down.
create or replace view celery_journal.task_attempt as
select a.task_id,
       a.attempt,
       nullif(a.run, '') as run,
       a.worker,
       a.pid,
       coalesce(a.status, case when a.date_started is not null then 'STARTED' when a.date_received is not null then 'RECEIVED' else 'PENDING' end) as status,
       o.sent as date_sent,
       a.date_received,
       a.date_started,
       a.date_done,
       coalesce(a.queue, s.queue) as queue,
       o.eta,
       case when o.tells then a.expires else coalesce(a.expires, s.expires) end as expires,
       coalesce(a.time_limit, s.time_limit) as time_limit,
       case when c.queue_wait is not null then greatest(interval '0', c.queue_wait) end as queue_wait,
       case when isfinite(a.date_done) and isfinite(a.date_started) then greatest(interval '0', a.date_done - a.date_started) end as run_time,
       a.traceback,
       a.recorded_at,
       o.sent_recorded as sent_recorded_at
  from celery_journal.task_attempt_row a
       left join celery_journal.task_attempt_row s
              on s.task_id = a.task_id and s.attempt = a.attempt and s.run = '' and a.run <> ''
       cross join lateral (
           select case when s.date_sent is null then a.sendings else s.sendings end as sendings,
                  least(a.date_received, a.date_started, a.date_done) as began) b
       -- Most were sent once; by a clock that is ahead of the worker's, the first is none before it. Once a row, by
       -- offset 0: else the planner writes it out wherever something depends on it, a hundred times.
       cross join lateral (
           select case when b.sendings is not null
                       then coalesce((select max(i) from generate_subscripts(b.sendings, 1) i
                                       where b.began is null or b.sendings[i][1] <= b.began), 1) end as i offset 0) p
       cross join lateral (  -- nothing is counted from a time beyond all times
           select q.*,
                  isfinite(a.date_started) and isfinite(a.started_recorded_at) and isfinite(q.sent)
                  and isfinite(q.sent_recorded) and isfinite(coalesce(q.eta, '1970-01-01')) as is_finite
             from (select case when p.i is null then coalesce(s.date_sent, a.date_sent) else b.sendings[p.i][1] end as sent,
                          case when p.i is null then coalesce(s.sent_recorded_at, a.sent_recorded_at) else b.sendings[p.i][2] end as sent_recorded,
                          -- Who has received one of several says all that its own message does.
                          p.i is not null and a.date_received is not null as tells,
                          case when p.i is not null and a.date_received is not null then a.eta else coalesce(a.eta, s.eta) end as eta) q) o
       cross join lateral (
           select case when o.is_finite then o.sent_recorded - o.sent end as sent_late,
                  case when o.is_finite then a.started_recorded_at - a.date_started end as started_late) l
       cross join lateral (
           select case when not o.is_finite or o.sent is null then null
                       when a.date_started < o.sent
                         or least(l.sent_late, l.started_late) < interval '-1 second'
                         or (least(l.sent_late, l.started_late) < interval '1 second'
                             and greatest(l.sent_late, l.started_late) > interval '10 seconds')
                       then a.started_recorded_at - greatest(o.sent_recorded, o.eta)
                       else a.date_started - greatest(o.sent, o.eta) end as queue_wait) c
 where a.run <> ''
    or a.run_rank > 0
    or a.end_rank >= 0
    or not exists (select from celery_journal.task_attempt_row r
                    where r.task_id = a.task_id and r.attempt = a.attempt and r.run <> ''
                      and (a.sendings is null
                           or least(r.date_received, r.date_started, r.date_done) >= a.sendings[array_upper(a.sendings, 1)][1]))
