-- Tasks that will not go on by themselves, for all that is known. Words are made of this in Python.

-- name: lock
-- Whoever marks does so alone. The lock ends with the transaction, as a pooler wants it.
select pg_advisory_xact_lock(hashtextextended('celery_journal.lost', 0))

-- name: try lock
select pg_try_advisory_xact_lock(hashtextextended('celery_journal.lost', 0))

-- name: begin sweep
select celery_journal.begin_lost_sweep(%(claimant)s, %(pause)s * interval '1 second')

-- name: plan
-- The planner takes this for long and would compile it, which takes longer than it runs.
select set_config('jit', 'off', true)

-- name: found
-- What has not ended, has not been marked, and of which nothing was heard for long enough. In the order of their ids.
--
-- `cause` is one of: never received (by a queue that has a live consumer), expired, worker gone, worker restarted, end not heard,
-- over time.
-- All ages are by the clock of the database. A restart of the database is a sign of life of every worker: none could be heard.
with life as materialized (
    select w.worker, w.alive, w.offline, w.online_since, w.source, w.queues, w.active, w.pid, w.pool,
           -- Of whom only the broadcast tells, nobody hears while no capture is there, or none has caught up.
           greatest(w.last_seen, pg_postmaster_start_time(),
                    case when w.source = 'broadcast'
                         then coalesce((select min(c.online_since) from celery_journal.worker c
                                         where c.software = 'celery-journal capture' and c.alive), clock_timestamp()) end) as heard_at,
           w.last_seen,
           least(%(grace)s::double precision, greatest(60, 6 * coalesce(w.freq, 10))) * interval '1 second' as patience
      from celery_journal.worker w),
open as materialized (
    select t.task_id, t.task_name, t.status, t.worker, t.retries, t.queue, t.group_id, t.date_created, t.date_sent, t.recorded_at
      from celery_journal.task_result t
     where t.date_done is null and t.lost_reason is null
       and t.recorded_at < clock_timestamp() - least(%(grace)s::double precision, 60) * interval '1 second'),
-- What was received lately: that which has ended last, and all that is under way.
taken as materialized (
    select r.*
      from (select t.task_id, t.queue, t.worker, t.date_sent, t.recorded_at
              from celery_journal.task_result t
             where t.date_done is not null
             order by t.date_done desc nulls first
             limit 1000) r
     where r.worker is not null
     union all
    select t.task_id, t.queue, t.worker, t.date_sent, t.recorded_at
      from celery_journal.task_result t
     where t.date_done is null and t.worker is not null),
-- For each queue the received task that was sent last: whatever was sent before it should have been received as well.
overtaker as materialized (
    select k.queue, k.task_id, k.date_sent,
           (select max(a.sent_recorded_at) from celery_journal.task_attempt a where a.task_id = k.task_id) as recorded_at
      from (select distinct on (queue) queue, task_id, date_sent
              from taken where queue is not null and date_sent is not null order by queue, date_sent desc) k),
-- Which queues it consumes, a worker that only broadcasts does not say: those from which it has received something since it came.
consumed as materialized (
    select w.worker, q.queue, false as is_derived
      from life w cross join lateral unnest(w.queues) as q (queue)
     where w.alive
     union all
    select w.worker, k.queue, true
      from life w
           join taken k on k.worker = w.worker and (w.online_since is null or k.recorded_at > w.online_since)
     where w.alive and w.queues is null and k.queue is not null
     group by w.worker, k.queue),
-- A worker is idle when it runs nothing, has come long enough ago, and has not received anything a moment ago either: a heartbeat
-- may fall into the pause between two short tasks.
consumer as materialized (
    select q.queue, count(*) as consumers,
           coalesce(min(w.worker) filter (where i.idle and not q.is_derived), min(w.worker) filter (where i.idle)) as idle_worker,
           bool_and(q.is_derived) as is_derived
      from consumed q
           join life w on w.worker = q.worker
           cross join lateral (
               select w.active = 0
                      and (w.online_since is null or w.online_since < clock_timestamp() - w.patience)
                      and not exists (select from taken k
                                       where k.worker = w.worker
                                         and k.recorded_at > clock_timestamp() - least(w.patience, interval '30 seconds')) as idle) i
     group by q.queue),
-- A broadcast of `worker-online` may be of the old process, which has only connected to its broker again. The new one began with
-- its first sign of life after the last one of another process.
earlier as materialized (
    select w.worker, w.pid, max(e.recorded_at) as recorded_at
      from life w
           join celery_journal.event e on e.stream = w.worker and e.pid <> w.pid
     where w.source = 'broadcast' and w.alive
       and exists (select from open o where o.worker = w.worker and o.recorded_at < w.online_since)
       and e.kind in ('worker-online', 'worker-heartbeat', 'worker-offline')
     group by w.worker, w.pid),
death as materialized (
    select w.*,
           case when not w.alive then w.heard_at
                when w.source is distinct from 'broadcast' then w.online_since
                else (select min(e.recorded_at)
                        from earlier p
                             join celery_journal.event e on e.stream = p.worker and e.pid = p.pid and e.recorded_at > p.recorded_at
                       where p.worker = w.worker) end as died_at
      from life w),
waiting as materialized (
    select o.*, c.consumers, c.idle_worker, c.is_derived, v.task_id as overtaken_by,
           o.date_sent is not null and (c.idle_worker is not null or (c.consumers > 0 and v.task_id is not null)) as is_due
      from open o
           left join consumer c on c.queue = o.queue
           left join overtaker v on v.queue = o.queue and v.date_sent > o.date_sent and v.recorded_at > o.recorded_at
     where o.status = 'PENDING' and o.worker is null),
-- Of all that waits in a queue, only what a consumer should have taken is looked at closely; the oldest of what a worker that has
-- died since may have received without saying so, which others have witnessed; and what has expired. Each task once.
suspect as materialized (
    select w.* from waiting w where w.is_due is true
     union
    (select w.*
       from waiting w
      where exists (select from death d where w.queue = any(d.queues) and d.died_at > w.recorded_at)
      order by w.date_sent
      limit 1000)
     union
    select w.*
      from waiting w
           cross join lateral (
               select from celery_journal.task_attempt a
                where a.task_id = w.task_id and a.expires < clock_timestamp() - %(grace)s * interval '1 second' limit 1) e
     union all
    select o.*, c.consumers, c.idle_worker, c.is_derived, null, null
      from open o
           left join consumer c on c.queue = o.queue
     where o.worker is not null or o.status <> 'PENDING'),
-- The newest attempt of each, and the deliveries of its message.
attempt as (
    select s.*, n.attempt, n.eta, n.expires, n.sent_recorded_at,
           -- A broker counts from the sending, whatever the clock of the sender says; and who waits for an eta says only then that
           -- the task has expired.
           coalesce(greatest(n.expires, n.expires + (n.sent_recorded_at - n.sent_at), n.eta)
                    < clock_timestamp() - %(grace)s * interval '1 second' and n.expires is not null, false) as has_expired
      from suspect s
           left join lateral (
               select a.attempt, max(a.eta) as eta, max(a.expires) as expires, max(a.sent_recorded_at) as sent_recorded_at,
                      max(a.date_sent) as sent_at
                 from celery_journal.task_attempt a
                where a.task_id = s.task_id
                group by a.attempt
                order by a.attempt desc
                limit 1) n on true),
run as (
    select a.*, r.run, r.run_worker, r.run_status, r.date_started, r.time_limit, r.run_recorded_at, r.ended
      from attempt a
           left join lateral (
               select u.run, u.worker as run_worker, u.status as run_status, u.date_started, u.time_limit, u.recorded_at as run_recorded_at,
                      u.status not in ('PENDING', 'RECEIVED', 'STARTED') as ended
                 from celery_journal.task_attempt u
                where u.task_id = a.task_id and u.attempt = a.attempt and u.worker is not null
                union all
               -- All that is known of this one is a report of its progress.
               select null, a.worker, a.status, null, null, a.recorded_at, false
                where a.worker is not null and a.status not in ('RETRY', 'REJECTED')
                  and not exists (select from celery_journal.task_attempt u
                                   where u.task_id = a.task_id and u.attempt = a.attempt and u.worker is not null)
                union all
               select null, e.worker, e.state, null, null, e.recorded_at, false
                 from celery_journal.event e
                where e.stream = a.task_id and e.kind = 'task-witnessed' and e.worker is not null
                  and e.attempt >= coalesce(a.attempt, 0)
                  and e.event_id >= celery_journal.first_event_id(a.date_created - interval '1 day')
                  and (a.worker is null or a.status = 'RETRY')) r on true),
judged as (
    select r.*, d.alive, d.offline, d.last_seen, d.online_since,
           case when r.run_worker is null or r.ended then null
                -- What a worker that went offline had only received is in its queue again.
                when not d.alive and d.offline and r.run_status = 'RECEIVED' and r.consumers is null and not r.has_expired then 'queued'
                when not d.alive and greatest(d.died_at, r.recorded_at) < clock_timestamp() - d.patience then 'worker gone'
                when d.alive and d.died_at > greatest(r.run_recorded_at, r.recorded_at)
                     and d.died_at < clock_timestamp() - d.patience then 'worker restarted'
                -- The message may have been in its queue again, because the connection broke, and the broker says nothing of its end.
                when r.has_expired and r.date_started is null and r.run_status in ('PENDING', 'RECEIVED') then 'expired'
                when d.worker is null then 'unknown'
                -- A broadcast that is lost is lost for ever: it has ended, and nobody knows how.
                when d.alive and d.source = 'broadcast' and d.active = 0 and r.run_status = 'STARTED'
                     and greatest(r.run_recorded_at, r.recorded_at) < d.last_seen - d.patience
                     and greatest(r.run_recorded_at, r.recorded_at) < clock_timestamp() - %(grace)s * interval '1 second'
                then 'end not heard'
                -- These pools let a task run for as long as it likes.
                when d.alive and r.date_started is not null and r.time_limit is not null and coalesce(d.pool, '') not in ('solo', 'thread')
                     and greatest(r.run_recorded_at, r.date_started) < clock_timestamp() - (r.time_limit + %(grace)s) * interval '1 second'
                then 'over time'
                else 'under way' end as verdict
      from run r
           left join death d on d.worker = r.run_worker),
-- One that is under way in any of its deliveries is not lost.
answer as (
    select distinct on (j.task_id) j.*,
           bool_or(j.verdict is not null
                   and j.verdict not in ('worker gone', 'worker restarted', 'expired', 'end not heard', 'over time')) over task as may_go_on,
           bool_and(j.verdict is null) over task as waits
      from judged j
    window task as (partition by j.task_id)
     order by j.task_id, j.verdict is null, j.run_recorded_at desc nulls last)
select a.task_id, a.task_name as name, a.status as state, coalesce(a.attempt, a.retries, 0) as attempt, a.queue, a.group_id, a.date_sent, a.recorded_at,
       case when not a.waits then a.verdict when a.has_expired then 'expired' else 'never received' end as cause,
       a.run, case when not a.waits then a.run_worker end as worker, a.run_status, a.offline, a.last_seen, a.online_since, a.date_started, a.time_limit,
       a.eta, a.expires, a.consumers, a.idle_worker, a.is_derived, a.overtaken_by,
       clock_timestamp() as now
  from answer a
 where not a.may_go_on
   and case when a.waits
            then a.sent_recorded_at is not null
                 and (a.status <> 'RETRY' or a.attempt > a.retries)
                 and (a.has_expired or a.idle_worker is not null or a.overtaken_by is not null)
                 and greatest(a.recorded_at, a.eta) < clock_timestamp() - %(grace)s * interval '1 second'
            else true end
 order by a.task_id
 limit %(limit)s

-- name: marked
-- What was marked and of which nothing was heard since. Not where the worker that has it was only silent, and is there again.
select t.task_id, t.task_name as name, t.status as state, coalesce(r.attempt, t.retries, 0) as attempt, r.run, t.queue, t.group_id, t.worker,
       t.date_sent, t.recorded_at, t.lost_reason,
       case when t.task_name is null and t.worker is null then celery_journal.chord_of_body(t.task_id) end as body_of
  from celery_journal.task_result t
       left join lateral (
           select a.attempt, a.run, a.worker, a.status, a.date_started, a.time_limit, a.eta, a.expires, a.recorded_at
             from celery_journal.task_attempt a
            where a.task_id = t.task_id
            order by a.attempt desc, a.recorded_at desc
            limit 1) r on true
       left join celery_journal.worker w on w.worker = r.worker
 where t.date_done is null and t.lost_reason is not null
   and (w.alive is not true
        or r.status not in ('RECEIVED', 'STARTED')
        or w.online_since > r.recorded_at
        or (r.status = 'RECEIVED' and r.expires < clock_timestamp() and (r.eta is null or r.eta < clock_timestamp()))
        or (r.status = 'STARTED' and w.source = 'broadcast' and w.active = 0 and w.last_seen > r.recorded_at)
        or r.date_started + r.time_limit * interval '1 second' < clock_timestamp())
 order by t.date_created, t.task_id
 limit %(limit)s

-- name: now
select clock_timestamp()

-- name: still open
-- Those of which nothing was heard since they were found.
select t.task_id
  from celery_journal.task_result t
       join unnest(%(task_ids)s::text[], %(heard_at)s::timestamptz[]) as f (task_id, recorded_at) on f.task_id = t.task_id
 where t.date_done is null and t.recorded_at <= f.recorded_at

-- name: has ended
select t.task_id from celery_journal.task_result t where t.task_id = any(%(task_ids)s) and t.date_done is not null

-- name: complete chords
select s.group_id, s.body_task_id, s.size, s.done, s.claimed_by, s.heard_at, clock_timestamp() as now
  from celery_journal.silent_chords(%(grace)s * interval '1 second', true, %(limit)s) s
       left join celery_journal.task_result t on t.task_id = s.body_task_id
 where t.date_done is null and (t.lost_reason is null or not %(unmarked)s)

-- name: waiting chords
-- Chords of which every member that has not returned is lost itself, comes after one that is in its chain, or was never sent.
--
-- Of a member that nobody has heard of is known that it was not sent where the size of the chord was never told, which Celery does
-- before it sends the last of the header; or where it is known of another when it was sent.
with recursive chord as materialized (
    select s.*
      from celery_journal.silent_chords('0', false, %(limit)s) s
     -- Of most the first or the last is under way, which is soon found out.
     where not exists (select from unnest(array[s.header #>> '{0,0,0}', s.header #>> '{-1,0,0}']) as m (task_id)
                                   cross join lateral (
                                       select from celery_journal.task_result t
                                        where t.task_id = m.task_id and t.date_done is null and not t.task_id = any(%(lost)s)
                                        limit 1) t)),
-- A node is [[id, parent node], null] for a task, [[id, parent node], [nodes]] for a group.
node as (
    select c.group_id, n.node, n.node #> '{0,1}' as parent
      from chord c, jsonb_array_elements(case jsonb_typeof(c.header) when 'array' then c.header else '[]' end) as n (node)
     union all
    select g.group_id, n.node, coalesce(nullif(n.node #> '{0,1}', 'null'), g.parent)
      from node g, jsonb_array_elements(g.node -> 1) as n (node)
     where jsonb_typeof(g.node -> 1) = 'array'),
member as materialized (
    select n.group_id, n.node #>> '{0,0}' as task_id, n.parent,
           exists (select from celery_journal.chord_part p where p.group_id = n.group_id and p.task_id = n.node #>> '{0,0}') as has_returned
      from node n
     where jsonb_typeof(n.node -> 1) is distinct from 'array'),
-- What comes before a member is a task, or the group that is the header of a chord whose body the next one is.
line as (
    select m.group_id, m.task_id, m.has_returned, 0 as distance, m.task_id as ancestor, m.parent, null::jsonb as nodes from member m
     union all
    select l.group_id, l.task_id, l.has_returned, l.distance + 1, l.parent #>> '{0,0}', l.parent #> '{0,1}', nullif(l.parent -> 1, 'null')
      from line l
     where jsonb_typeof(l.parent) = 'array'),
missing as materialized (
    select l.group_id, l.task_id, min(l.ancestor) filter (where l.ancestor = any(%(lost)s)) as lost,
           (array_agg(l.ancestor order by l.distance desc))[1] as first, jsonb_agg(l.nodes) as nodes, array_agg(l.ancestor) as line
      from line l
     where not l.has_returned
     group by l.group_id, l.task_id),
-- Looked up one by one: the planner, who cannot know how few there are, would rather read all tasks.
judged as (
    select m.group_id, m.lost, case when m.lost is null then m.first end as unsent,
           m.lost is null
           and exists (
               select from unnest(m.line || array(select n #>> '{}' from jsonb_path_query(m.nodes, '$[*][*][0][0]') as n)) as a (id)
                           cross join lateral (select from celery_journal.task_result t where t.task_id = a.id limit 1) t
                union all
               select from unnest(m.line) as a (id)
                           cross join lateral (select from celery_journal.chord_counter c where c.group_id = a.id limit 1) c
                where m.nodes <> '[null]') as may_go_on
      from missing m),
hopeless as materialized (
    select c.group_id, c.body_task_id, c.size, c.done, count(*)::integer as waits,
           array_remove(array_agg(j.lost order by j.lost), null) as lost,
           array_remove(array_agg(distinct j.unsent), null) as unsent
      from chord c
           join judged j on j.group_id = c.group_id
     group by c.group_id, c.body_task_id, c.size, c.done
    having not bool_or(j.may_go_on) and (c.size is null or count(*) >= c.size - c.done)),
-- Of some that nothing comes before is known when they were sent.
tracked as materialized (
    select distinct c.group_id
      from hopeless c
           join line l on l.group_id = c.group_id
           cross join lateral (
               select from celery_journal.task_result t where t.task_id = l.ancestor and t.date_sent is not null limit 1) t
     where c.size is not null and c.unsent <> '{}' and jsonb_typeof(l.parent) is distinct from 'array' and l.nodes is null)
select c.group_id, c.body_task_id, c.size, c.done, h.heard_at, c.waits, c.lost, c.unsent, clock_timestamp() as now
  from hopeless c
       cross join lateral (select max(e.recorded_at) as heard_at from celery_journal.event e where e.stream = c.group_id) h
       left join celery_journal.task_result t on t.task_id = c.body_task_id
 where t.date_done is null and (t.lost_reason is null or not %(unmarked)s)
   and (c.unsent = '{}'
        or (coalesce(h.heard_at, '-infinity') < clock_timestamp() - %(grace)s * interval '1 second'
            and (c.size is null or c.group_id in (select k.group_id from tracked k))))
 order by c.group_id
