-- Each worker, by its host name: since when it is online, and when it was last heard of, by the clock of the database, so
-- that a worker whose clock is wrong is not taken for dead. The last is the last in the log, and no clock has a say in that.

-- name: kinds
'worker-online', 'worker-heartbeat', 'worker-offline'

-- name: forgetting kinds
'worker-forgotten'

-- name: lift
-- Whatever is heard after worker-offline means that it is back, or never was away.
select e.stream as worker,
       e.recorded_at as date_created,
       e.occurred_at as first_at,
       case when e.kind = 'worker-online' then 0 else -1 end as online_rank,
       e.recorded_at as online_at,
       e.position as online_position,
       0 as seen_rank,
       e.recorded_at as last_seen,
       e.position as seen_position,
       e.kind = 'worker-offline' as is_offline,
       e.occurred_at,
       e.pid,
       e.source,
       e.meta,
       case when t.are_told then e.position else 0 end as tasks_position,
       case when t.are_told and jsonb_typeof(m.meta -> 'tasks') = 'array'
            then array(select n.name from jsonb_array_elements_text(m.meta -> 'tasks') with ordinality as n (name, number)
                        where n.name is not null order by n.number)
       end as tasks
  from new_event e
       cross join lateral (select celery_journal.json_or_null(e.meta) as meta) m
       cross join lateral (select coalesce(jsonb_typeof(m.meta) = 'object' and m.meta ? 'tasks', false) as are_told) t
 where e.kind in ({kinds})

-- name: combine
select w.worker,
       w.date_created,
       w.first_at,
       o.online_rank,
       o.online_at,
       o.online_position,
       s.seen_rank,
       s.last_seen,
       s.seen_position,
       s.is_offline,
       s.occurred_at,
       s.pid,
       s.source,
       s.meta,
       t.tasks_position,
       t.tasks
  from (select worker,
               min(date_created) as date_created,
               min(first_at) as first_at,
               (max(array[online_rank, online_position, number]))[3] as online,
               (max(array[seen_position, number]))[2] as seen,
               (max(array[tasks_position, number]))[2] as told
          from lifted
         group by worker) w
       join lifted o on o.number = w.online
       join lifted s on s.number = w.seen
       join lifted t on t.number = w.told

-- name: merge
insert into celery_journal.worker_row as t (
       worker, date_created, first_at, online_rank, online_at, online_position,
       seen_rank, last_seen, seen_position, is_offline, occurred_at, pid, source, meta, tasks_position, tasks)
select worker, date_created, first_at, online_rank, online_at, online_position,
       seen_rank, last_seen, seen_position, is_offline, occurred_at, pid, source, meta, tasks_position, tasks
  from folded
 order by worker
on conflict (worker) do update set
       date_created = least(t.date_created, excluded.date_created),
       first_at = least(t.first_at, excluded.first_at),
       online_rank = case when (excluded.online_rank, excluded.online_position) > (t.online_rank, t.online_position) then excluded.online_rank else t.online_rank end,
       online_at = case when (excluded.online_rank, excluded.online_position) > (t.online_rank, t.online_position) then excluded.online_at else t.online_at end,
       online_position = case when (excluded.online_rank, excluded.online_position) > (t.online_rank, t.online_position) then excluded.online_position else t.online_position end,
       seen_rank = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.seen_rank else t.seen_rank end,
       last_seen = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.last_seen else t.last_seen end,
       seen_position = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.seen_position else t.seen_position end,
       is_offline = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.is_offline else t.is_offline end,
       occurred_at = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.occurred_at else t.occurred_at end,
       pid = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.pid else t.pid end,
       source = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.source else t.source end,
       meta = case when (excluded.seen_rank, excluded.seen_position) > (t.seen_rank, t.seen_position) then excluded.meta else t.meta end,
       tasks_position = greatest(t.tasks_position, excluded.tasks_position),
       tasks = case when excluded.tasks_position > t.tasks_position then excluded.tasks else t.tasks end

-- name: key
worker

-- name: tables
worker_row

-- name: first of rows
-- All other dates of a worker are by the clock of the database, and ids are not.
min(t.first_at)

-- name: view
-- A worker is alive as long as it has missed fewer than four of its heartbeats. Of what a broadcast says only a clock that is
-- ahead is known for sure: it may have waited on its way. Whoever broadcasts may say anything of itself, and must not hide others.
create or replace view celery_journal.worker as
select w.worker,
       not w.is_offline and w.last_seen > clock_timestamp() - 4 * coalesce(n.freq, 10) * interval '1 second' as alive,
       w.is_offline as offline,
       w.date_created as first_seen,
       case when w.online_rank >= 0 then w.online_at end as online_since,
       w.last_seen,
       case when not isfinite(w.occurred_at) or not isfinite(w.last_seen) then null
            when w.source = 'broadcast' then greatest(w.occurred_at - w.last_seen, interval '0')
            else w.occurred_at - w.last_seen
       end as clock_offset,
       w.pid,
       m.meta ->> 'software' as software,
       m.meta ->> 'version' as version,
       m.meta ->> 'system' as system,
       m.meta ->> 'pool' as pool,
       n.concurrency,
       (select array_agg(q.queue order by q.queue)
          from jsonb_array_elements_text(case jsonb_typeof(m.meta -> 'queues') when 'array' then m.meta -> 'queues' else '[]' end) as q (queue)) as queues,
       n.freq,
       n.active,
       n.processed,
       w.source,
       -- Seconds after which its broker gives to another what it has; none where the broker notices by itself that it is gone.
       n.visibility_timeout,
       -- The names that it has registered; none where it has not told since it came: what an earlier one of that name had, it need not have.
       case when w.online_rank < 0 or w.tasks_position >= w.online_position then w.tasks end as tasks
  from celery_journal.worker_row w
       cross join lateral (select celery_journal.json_or_null(w.meta) as meta) m
       cross join lateral (
           select case when m.meta ->> 'concurrency' ~ '^\d{1,9}$' then (m.meta ->> 'concurrency')::integer end as concurrency,
                  case when m.meta ->> 'active' ~ '^\d{1,9}$' then (m.meta ->> 'active')::integer end as active,
                  case when m.meta ->> 'processed' ~ '^\d{1,18}$' then (m.meta ->> 'processed')::bigint end as processed,
                  case when m.meta ->> 'freq' ~ '^\d{1,6}(\.\d{1,20})?$' then (m.meta ->> 'freq')::double precision end as freq,
                  case when m.meta ->> 'visibility_timeout' ~ '^\d{1,9}(\.\d{1,20})?$' then (m.meta ->> 'visibility_timeout')::double precision end as visibility_timeout) n
 where w.date_created is not null
