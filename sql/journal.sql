-- Appending to the log and reading it.

-- name: append
-- One event, folded into the views by the trigger. A fact that is recorded already is left alone, and not returned.
-- A relaxed fact does not wait for the disk: a crash of the server may lose the last fraction of a second of them.
-- `listening` says whether anybody waits for such news. If not, the lock stays ours until the commit, and whoever wants to
-- listen has to wait for that, and then finds what it brought.
insert into celery_journal.event (
       event_id, occurred_at, attempt, schema_version, pid, group_index, size, eta, expires, time_limit, members,
       stream, kind, state, name, worker, queue, root_id, parent_id, group_id, task_id, periodic_task_name,
       content_type, content_encoding, args_content_type, traceback, source, run, reason,
       args, kwargs, result, meta, body)
select %(event_id)s::uuid, %(occurred_at)s::timestamptz, %(attempt)s::integer, %(schema_version)s::smallint,
       %(pid)s::integer, %(group_index)s::integer, %(size)s::integer,
       %(eta)s::timestamptz, %(expires)s::timestamptz, %(time_limit)s::double precision, %(members)s::text[],
       %(stream)s::text, %(kind)s::text, %(state)s::text, %(name)s::text, %(worker)s::text, %(queue)s::text,
       %(root_id)s::text, %(parent_id)s::text, %(group_id)s::text, %(task_id)s::text, %(periodic_task_name)s::text,
       %(content_type)s::text, %(content_encoding)s::text, %(args_content_type)s::text, %(traceback)s::text,
       %(source)s::text, %(run)s::text, %(reason)s::text,
       %(args)b::bytea, %(kwargs)b::bytea, %(result)b::bytea, %(meta)b::bytea, %(body)b::bytea
  from (select case when %(relaxed)s::boolean then set_config('synchronous_commit', 'off', true) end) as durability
on conflict (event_id, stream) do nothing
returning event_id, not pg_try_advisory_xact_lock(hashtextextended('celery_journal.' || %(audience)s::text, pg_backend_pid() %% 64)) as listening

-- name: append many
-- Places in the log are handed out in the order given, and rows inserted in the order of their ids, so that two who append
-- the same facts do not wait for each other in a circle. What comes from another log keeps the moment it was recorded there.
with placed as materialized (
    select pg_current_xact_id() as transaction, nextval('celery_journal.event_position') as position, e.*
      from (select case when %(relaxed)s::boolean then set_config('synchronous_commit', 'off', true) end) as durability,
           unnest(%(event_id)s::uuid[], %(occurred_at)s::timestamptz[], %(attempt)s::integer[], %(schema_version)s::smallint[],
                  %(pid)s::integer[], %(group_index)s::integer[], %(size)s::integer[],
                  %(eta)s::timestamptz[], %(expires)s::timestamptz[], %(time_limit)s::double precision[], %(members)s::text[],
                  %(stream)s::text[], %(kind)s::text[], %(state)s::text[], %(name)s::text[], %(worker)s::text[],
                  %(queue)s::text[], %(root_id)s::text[], %(parent_id)s::text[], %(group_id)s::text[], %(task_id)s::text[],
                  %(periodic_task_name)s::text[], %(content_type)s::text[], %(content_encoding)s::text[],
                  %(args_content_type)s::text[], %(traceback)s::text[], %(source)s::text[], %(run)s::text[], %(reason)s::text[],
                  %(args)b::bytea[], %(kwargs)b::bytea[], %(result)b::bytea[], %(meta)b::bytea[], %(body)b::bytea[], %(recorded_at)s::timestamptz[])
           with ordinality as e (
                  event_id, occurred_at, attempt, schema_version, pid, group_index, size, eta, expires, time_limit, members,
                  stream, kind, state, name, worker, queue, root_id, parent_id, group_id, task_id, periodic_task_name,
                  content_type, content_encoding, args_content_type, traceback, source, run, reason,
                  args, kwargs, result, meta, body, recorded_at, place)
     order by e.place)
insert into celery_journal.event (
       transaction, position, event_id, occurred_at, recorded_at, attempt, schema_version, pid, group_index, size, eta, expires, time_limit, members,
       stream, kind, state, name, worker, queue, root_id, parent_id, group_id, task_id, periodic_task_name,
       content_type, content_encoding, args_content_type, traceback, source, run, reason,
       args, kwargs, result, meta, body)
select p.transaction, p.position, p.event_id, p.occurred_at, coalesce(p.recorded_at, clock_timestamp()), p.attempt, p.schema_version, p.pid, p.group_index, p.size,
       p.eta, p.expires, p.time_limit, p.members::text[], p.stream, p.kind, p.state, p.name, p.worker, p.queue, p.root_id, p.parent_id, p.group_id, p.task_id,
       p.periodic_task_name, p.content_type, p.content_encoding, p.args_content_type, p.traceback,
       p.source, p.run, p.reason,
       p.args, p.kwargs, p.result, p.meta, p.body
  from placed p
 order by p.event_id, p.stream, p.place
on conflict (event_id, stream) do nothing
returning event_id

-- name: lock stream
-- Not a lock that every writer takes: only those who must not tell the same twice.
select pg_advisory_xact_lock(hashtextextended('celery_journal.' || %(stream)s::text, 0))

-- name: asked lately
-- Whether somebody was recorded lately to want the task revoked.
select exists (select from celery_journal.event e
                where e.stream = %(stream)s
                  and e.kind = 'task-revoked'
                  and e.worker is null
                  and e.recorded_at > clock_timestamp() - %(seconds)s * interval '1 second')

-- name: received later
-- Whether a run has ended of which it is not recorded yet that it was received: a worker's main process tells that, with others.
select exists (select from celery_journal.event e
                where e.stream = %(stream)s
                  and e.run is not null
                  and e.source = 'backend'
                  and e.kind in ('task-succeeded', 'task-failed', 'task-revoked')
                  and not exists (select from celery_journal.event r
                                   where r.stream = %(stream)s and r.run = e.run and r.kind = 'task-received'))

-- name: recorded
-- What stands in the log under these ids.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.event_id = any(%(event_ids)s::uuid[])

-- name: known
select s.stream
  from unnest(%(streams)s::text[]) as s (stream)
 where exists (select from celery_journal.event e where e.stream = s.stream)

-- name: read stream
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.stream = %(stream)s
 order by e.transaction, e.position

-- name: read transitions
-- Those of transactions since the horizon of an earlier reading, and the horizon of this one: whatever ended before it is seen
-- here. One row without an event where there is none.
select h.horizon, e.*, e.transaction::text::bigint as transaction
  from (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as horizon) h
       left join celery_journal.event e
              on e.stream = any(%(streams)s)
             and e.kind = any(%(kinds)s)
             and e.transaction >= %(since)s::text::xid8
 order by e.transaction, e.position

-- name: read all
-- Behind the horizon: positions are handed out before the commit, so an event with a smaller place may still appear
-- as long as a transaction that began before it is open.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where (e.transaction, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
   and e.transaction < pg_snapshot_xmin(pg_current_snapshot())
 order by e.transaction, e.position
 limit %(limit)s

-- name: generation
-- A restore into another cluster restarts transaction ids; the cluster's identifier tells.
select system_identifier::text as generation from pg_control_system()

-- name: begin subscription
insert into celery_journal.subscription (name, generation, transaction, position)
values (%(name)s, %(generation)s, '0', 0)
on conflict (name) do nothing

-- name: load checkpoint
-- Locked until the end of the transaction: the next subscriber of that name waits, then goes on from there.
select s.generation, s.transaction::text::bigint as transaction, s.position
  from celery_journal.subscription s
 where s.name = %(name)s
   for update

-- name: save checkpoint
insert into celery_journal.subscription as s (name, generation, transaction, position)
values (%(name)s, %(generation)s, %(transaction)s::text::xid8, %(position)s)
on conflict (name) do update set
       generation = excluded.generation,
       transaction = excluded.transaction,
       position = excluded.position,
       updated_at = clock_timestamp()
