-- What the log knows already when Celery's broadcast tells of it.

-- name: journalling workers
-- The workers that journal by themselves, by their main process and until when that is known. A name and a process id may be
-- somebody else's later, in a container for one, so it ends some heartbeats after the last; by the clock of the worker, which is
-- that of its broadcast.
select w.worker,
       w.pid,
       extract(epoch from w.last_seen + w.clock_offset + greatest(4 * coalesce(w.freq, 10), 60) * interval '1 second')::double precision as until
  from celery_journal.worker w
 where w.worker = any(%(workers)s::text[])
   and w.source <> 'broadcast'
   and w.pid is not null

-- name: told
-- What is known of these tasks, by whomever's word. Of the partitions of the log only those of around that time are looked at.
select e.event_id, e.stream, e.kind, e.state, e.attempt, e.worker, e.run, e.source, e.occurred_at
  from celery_journal.event e
 where e.stream = any(%(streams)s::text[])
   and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
   and e.event_id < celery_journal.first_event_id(%(until)s::timestamptz)
   and e.state is not null

-- name: ever told
-- The same, however long ago: a task with an eta may have been received last month.
select e.event_id, e.stream, e.kind, e.state, e.attempt, e.worker, e.run, e.source, e.occurred_at
  from celery_journal.event e
 where e.stream = any(%(streams)s::text[])
   and e.state is not null
