-- Tasks that will not go on by themselves, for all that is known. Words are made of this in Python.

-- name: lock
-- Whoever marks does so alone. The lock ends with the transaction, as a pooler wants it.
select pg_advisory_xact_lock(hashtextextended('celery_journal.lost', 0))

-- name: try lock
select pg_try_advisory_xact_lock(hashtextextended('celery_journal.lost', 0))

-- name: begin sweep
select celery_journal.begin_lost_sweep(%(claimant)s, %(pause)s * interval '1 second')

-- name: oldest
-- Before it nothing in the log is looked at: a day before the oldest task that has neither ended nor been marked, and the oldest chord
-- that waits.
select celery_journal.first_event_id(greatest(least(
           (select min(t.date_created) from celery_journal.task_result t where t.date_done is null and t.lost_reason is null),
           (select c.date_created
              from celery_journal.silent_chords('0', false, 1) s
                   cross join lateral (select c.date_created from celery_journal.chord_counter c where c.group_id = s.group_id limit 1) c),
           clock_timestamp()) - interval '1 day', '1970-01-01 00:00+00')) as first_id

-- name: found
-- What has not ended, has not been marked, and of which nothing was heard for long enough. In the order of their ids.
--
-- `cause` is one of: never received (by a queue that has a live consumer), expired, cancelled, rejected, worker gone, worker restarted, end not
-- heard, over time. What a broker gives back, because its worker is gone and had not acknowledged it, waits like what was never received.
-- One odd fact, such as a time without an end, must not end the search. All ages are by the clock of the database. A restart of the database is a sign of life of every worker: none could be heard.
with life as materialized (
    select w.worker, w.alive, w.offline, w.online_since, w.source, w.queues, w.active, w.pid, w.pool, w.visibility_timeout,
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
       and t.recorded_at < clock_timestamp() - least(%(grace)s::double precision, 60) * interval '1 second'
       and t.task_id <> all(%(passed)s)),
-- What was received lately: of each worker what has ended last, so that a busy one hides no other; and all that is under way. Not
-- "worker =": the planner, who cannot know which worker has done little, may then read what all have done, to find its last.
taken as materialized (
    select r.*
      from life w
           cross join lateral (
               select t.task_id, t.queue, t.worker, t.date_sent, t.recorded_at
                 from celery_journal.task_result t
                where t.worker >= w.worker collate "default" and t.worker <= w.worker collate "default" and t.date_done is not null
                order by t.worker, t.date_done desc nulls first
                limit 200) r
     where w.last_seen > clock_timestamp() - interval '1 hour'
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
           join celery_journal.event e on e.stream = w.worker and e.pid <> w.pid and e.event_id >= %(first_id)s::uuid
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
                             join celery_journal.event e
                               on e.stream = p.worker and e.pid = p.pid and e.recorded_at > p.recorded_at and e.event_id >= %(first_id)s::uuid
                       where p.worker = w.worker) end as died_at
      from life w),
waiting as materialized (
    select o.*, c.consumers, c.idle_worker, c.is_derived, v.task_id as overtaken_by, v.date_sent as overtaker_sent,
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
    select o.*, c.consumers, c.idle_worker, c.is_derived, null, null, null
      from open o
           left join consumer c on c.queue = o.queue
     where o.worker is not null or o.status <> 'PENDING'),
-- The newest attempt of each, and the deliveries of its message.
attempt as (
    select s.*, n.attempt, n.eta, n.expires, n.sent_recorded_at, n.sent_at,
           -- A broker counts from the sending, whatever the clock of the sender says; and who waits for an eta says only then that
           -- the task has expired.
           coalesce(greatest(n.expires, case when isfinite(n.sent_at) then n.expires + (n.sent_recorded_at - n.sent_at) end, n.eta)
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
               -- Of what others have witnessed of a worker, a start says more than a receipt.
               (select distinct on (e.worker) null, e.worker, e.state, null::timestamptz, null::double precision, e.recorded_at, false
                 from celery_journal.event e
                where e.stream = a.task_id and e.kind = 'task-witnessed' and e.worker is not null
                  and e.attempt >= coalesce(a.attempt, 0)
                  and e.event_id >= %(first_id)s::uuid
                  and e.event_id >= celery_journal.first_event_id(least(greatest(a.date_created, '1970-01-02 00:00+00'), clock_timestamp()) - interval '1 day')
                  and (a.worker is null or a.status = 'RETRY')
                order by e.worker, e.state = 'RECEIVED', e.recorded_at desc)) r on true),
-- Whose worker is gone, and what it has told of the message: that it acknowledges it late, or that it has cancelled or rejected the run.
parted as (
    select r.*, d.worker as known_worker, d.source, d.active, d.pool, d.alive, d.offline, d.last_seen, d.online_since, d.patience, d.died_at,
           d.visibility_timeout, g.is_gone, m.said,
           r.date_started is null and r.run_status in ('PENDING', 'RECEIVED') as is_unstarted
      from run r
           left join death d on d.worker = r.run_worker
           cross join lateral (
               select case when d.worker is null then false
                           when not d.alive then greatest(d.died_at, r.recorded_at) < clock_timestamp() - d.patience
                           else coalesce(d.died_at > greatest(r.run_recorded_at, r.recorded_at)
                                         and d.died_at < clock_timestamp() - d.patience, false) end as is_gone) g
           left join lateral (
               select e.reason as said
                 from celery_journal.event e
                where (r.run_status in ('RETRY', 'REJECTED') or (g.is_gone and not r.ended))
                  and e.stream = r.task_id
                  and e.kind = case r.run_status when 'RETRY' then 'task-retried' when 'REJECTED' then 'task-rejected' else 'task-started' end
                  and e.attempt = r.attempt
                  and e.run is not distinct from r.run
                  and e.event_id >= %(first_id)s::uuid
                  and e.event_id >= celery_journal.first_event_id(least(greatest(r.date_created, '1970-01-02 00:00+00'), clock_timestamp()) - interval '1 day')
                order by e.position desc
                limit 1) m on true),
judged as (
    select d.*,
           case when d.run_worker is null then null
                -- What is in its place may be a workflow, whose last step has its id.
                when d.run_status = 'REPLACED' and coalesce(d.sent_at <= d.date_started, true)
                     and d.run_recorded_at = max(d.run_recorded_at) over (partition by d.task_id) then 'under way'
                when d.ended and d.run_status = 'RETRY' and d.said = %(cancelled)s then 'cancelled'
                when d.ended and d.run_status = 'RETRY' and d.said is not null then 'given back'
                -- The main process of its worker was about to fail it.
                when d.ended and d.run_status = 'REJECTED' and starts_with(d.said, %(rejected)s)
                then case when d.is_gone then 'rejected' else 'under way' end
                when d.ended then null
                when d.is_unstarted and d.has_expired and d.is_gone then 'expired'
                -- A worker that says that it goes has given back by then what it had not acknowledged.
                when d.is_unstarted and (d.is_gone or (not d.alive and d.offline)) then 'given back'
                -- One that only broadcasts has connected to its broker anew, which takes back what was not acknowledged. Captures that
                -- share the broadcast may be so much behind one another.
                when d.is_unstarted and d.alive and d.source = 'broadcast' and d.online_since > d.run_recorded_at + interval '3 seconds'
                then 'given back'
                when d.is_gone and d.said = %(late)s then 'given back'
                when d.is_gone and not d.alive then 'worker gone'
                when d.is_gone then 'worker restarted'
                -- The message may have been in its queue again, because the connection broke, and the broker says nothing of its end.
                when d.has_expired and d.is_unstarted then 'expired'
                when d.known_worker is null then 'unknown'
                -- A broadcast that is lost is lost for ever: it has ended, and nobody knows how.
                when d.alive and d.source = 'broadcast' and d.active = 0 and d.run_status = 'STARTED'
                     and greatest(d.run_recorded_at, d.recorded_at) < d.last_seen - d.patience
                     and greatest(d.run_recorded_at, d.recorded_at) < clock_timestamp() - %(grace)s * interval '1 second'
                then 'end not heard'
                -- These pools let a task run for as long as it likes.
                when d.alive and d.date_started is not null and d.time_limit is not null and coalesce(d.pool, '') not in ('solo', 'thread')
                     and greatest(d.run_recorded_at, d.date_started) < clock_timestamp() - (least(d.time_limit, 1e9) + %(grace)s) * interval '1 second'
                then 'over time'
                else 'under way' end as verdict
      from parted d),
-- One that is under way in any of its deliveries is not lost, and one that the broker has again waits.
answer as (
    select distinct on (j.task_id) j.*,
           bool_or(j.verdict in ('under way', 'unknown')) over task as may_go_on,
           bool_and(coalesce(j.verdict = 'given back', true)) over task or coalesce(bool_or(j.verdict = 'given back') over task, false) as waits,
           coalesce(bool_or(j.verdict = 'given back') over task, false) as is_given_back
      from judged j
    window task as (partition by j.task_id)
     order by j.task_id, j.verdict is null, j.verdict is distinct from 'given back', j.run_recorded_at desc nulls last)
select a.task_id, a.task_name as name, a.status as state, coalesce(a.attempt, a.retries, 0) as attempt, a.queue, a.group_id, a.date_sent, a.recorded_at,
       case when not a.waits then a.verdict when a.has_expired then 'expired' else 'never received' end as cause,
       a.run, case when not a.waits or a.is_given_back then a.run_worker end as worker,
       a.run_status, a.alive, a.offline, a.source, a.last_seen, a.online_since, a.date_started, a.time_limit,
       a.eta, a.expires, a.consumers, a.idle_worker, a.is_derived, a.overtaken_by, a.is_given_back,
       clock_timestamp() as now
  from answer a
 where a.may_go_on is not true
   and case when a.waits
            then (a.sent_recorded_at is not null or a.is_given_back)
                 and (a.status <> 'RETRY' or a.attempt > a.retries or a.is_given_back)
                 -- What RabbitMQ delays comes into its queue when it is due, behind all that was sent until then.
                 and (a.has_expired or a.idle_worker is not null
                      or (a.overtaken_by is not null and a.consumers > 0 and a.overtaker_sent > coalesce(a.eta, '-infinity')))
                 -- Some brokers give back only after a while what a worker had that has not said goodbye.
                 and greatest(a.recorded_at, a.eta,
                              case when a.is_given_back
                                   then a.died_at + case when a.offline then 0 else coalesce(a.visibility_timeout, 0) end * interval '1 second' end)
                     < clock_timestamp() - %(grace)s * interval '1 second'
            else true end
 order by a.task_id
 limit %(limit)s

-- name: marked
-- What was marked and of which nothing was heard since. Not where the worker that has it was only silent, and is there again.
select t.task_id, t.task_name as name, t.status as state, coalesce(r.attempt, t.retries, 0) as attempt, r.run, t.queue, t.group_id, t.worker,
       t.date_sent, t.recorded_at, t.lost_reason, w.alive, w.online_since, w.last_seen,
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
        or r.date_started < clock_timestamp() - least(r.time_limit, 1e9) * interval '1 second')
   and t.task_id <> all(%(passed)s)
 order by t.date_created, t.task_id
 limit %(limit)s

-- name: last news
-- In one stretch of the log: when the tasks were last told of, by those who send and run them. That they are lost is no news of them.
select e.stream, max(e.recorded_at) as heard_at
  from celery_journal.event e
 where e.stream = any(%(task_ids)s)
   and e.kind in ('task-sent', 'task-received', 'task-started', 'task-progress', 'task-retried', 'task-rejected', 'task-revoked',
                  'task-ignored', 'task-failed', 'task-succeeded', 'task-replaced')
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
 group by e.stream

-- name: settled
-- Those of the tasks that nobody needs to look at any more, with the task that one was sent again as and has succeeded; null where it is resolved.
select s.task_id, s.succeeded_as
  from celery_journal.settled(%(task_ids)s) s
 where s.task_id = any(%(task_ids)s)
 order by s.succeeded_as

-- name: given back
-- In one stretch of the log: those whose last delivery the broker has again, as far as is known: their worker is gone, and had not acknowledged it.
select r.task_id, r.worker, r.queue
  from (select distinct on (a.task_id) a.*
          from celery_journal.task_attempt a
         where a.task_id = any(%(task_ids)s)
         order by a.task_id, a.attempt desc, a.recorded_at desc) r
       join celery_journal.worker w on w.worker = r.worker
       left join lateral (
           select e.reason as said
             from celery_journal.event e
            where e.stream = r.task_id
              and e.kind = case when r.status = 'RETRY' then 'task-retried' else 'task-started' end
              and e.attempt = r.attempt
              and e.run is not distinct from r.run
              and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
            order by e.position desc
            limit 1) m on true
 where case r.status
            when 'RETRY' then m.said <> %(cancelled)s
            when 'RECEIVED' then w.alive is not true or w.online_since > r.recorded_at
            when 'STARTED' then m.said = %(late)s and (w.alive is not true or w.online_since > r.recorded_at) end

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
-- A node is [[id, parent node], null] for a task, [[id, parent node], [nodes]] for a group. No canvas is a thousand deep; a forged
-- header may be.
node as (
    select c.group_id, n.node, n.node #> '{0,1}' as parent, 1 as depth
      from chord c, jsonb_array_elements(case jsonb_typeof(c.header) when 'array' then c.header else '[]' end) as n (node)
     union all
    select g.group_id, n.node, coalesce(nullif(n.node #> '{0,1}', 'null'), g.parent), g.depth + 1
      from node g, jsonb_array_elements(g.node -> 1) as n (node)
     where jsonb_typeof(g.node -> 1) = 'array' and g.depth < 1000),
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
     where jsonb_typeof(l.parent) = 'array' and l.distance < 1000),
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
       cross join lateral (
           select max(e.recorded_at) as heard_at
             from celery_journal.event e
            where e.stream = c.group_id and e.event_id >= %(first_id)s::uuid) h
       left join celery_journal.task_result t on t.task_id = c.body_task_id
 where t.date_done is null and (t.lost_reason is null or not %(unmarked)s)
   and (c.unsent = '{}'
        or (coalesce(h.heard_at, '-infinity') < clock_timestamp() - %(grace)s * interval '1 second'
            and (c.size is null or c.group_id in (select k.group_id from tracked k))))
 order by c.group_id
