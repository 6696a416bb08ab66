-- What the log knows already when Celery's broadcast tells of it.

-- name: has started lately
select clock_timestamp() - pg_postmaster_start_time() < %(seconds)s * interval '1 second'

-- name: workers
-- The newest process of each worker, whether it journals by itself, when it was last heard of by its own clock, which is that of its
-- broadcast, how far that is ahead, and for how many seconds that is believed: some heartbeats.
select w.worker,
       w.pid,
       coalesce(w.source <> 'broadcast', false) as journals,
       extract(epoch from w.last_seen + w.clock_offset)::double precision as seen,
       extract(epoch from w.clock_offset)::double precision as clock_offset,
       greatest(4 * coalesce(w.freq, 10), 60)::double precision as patience
  from celery_journal.worker w
 where w.worker = any(%(workers)s::text[])
   and w.pid is not null

-- name: signs of life
-- The same of every process that has journalled under these names in that time, of which the view shows only the newest.
-- A limit, because those who only broadcast are heard of every other second.
select w.worker,
       s.pid,
       extract(epoch from max(s.occurred_at))::double precision as seen,
       extract(epoch from max(s.occurred_at - s.recorded_at))::double precision as clock_offset,
       60::double precision as patience
  from unnest(%(workers)s::text[]) as w (worker)
       cross join lateral (
           select e.pid, e.occurred_at, e.recorded_at, e.source
             from celery_journal.event e
            where e.stream = w.worker
              and e.kind in ('worker-online', 'worker-heartbeat', 'worker-offline')
              and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
              and e.event_id < celery_journal.first_event_id(%(until)s::timestamptz)
            order by e.position desc
            limit 10000) s
 where s.pid is not null
   and s.source <> 'broadcast'
 group by w.worker, s.pid

-- name: told
-- What is known of these tasks, by whomever's word. Of the partitions of the log only those of around that time are looked at.
select e.event_id, e.stream, e.kind, e.state, e.attempt, e.worker, e.run, e.source, e.occurred_at
  from celery_journal.event e
 where e.stream = any(%(streams)s::text[])
   and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
   and e.event_id < celery_journal.first_event_id(%(until)s::timestamptz)
   and e.state is not null

-- name: ever told
-- The same in one stretch of the log, of all: a task with an eta may have been received last month.
select e.event_id, e.stream, e.kind, e.state, e.attempt, e.worker, e.run, e.source, e.occurred_at
  from celery_journal.event e
 where e.stream = any(%(streams)s::text[])
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
   and e.state is not null
