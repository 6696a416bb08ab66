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
       args, kwargs, result, meta, body, ordered_at)
select %(event_id)s::uuid, %(occurred_at)s::timestamptz, %(attempt)s::integer, %(schema_version)s::smallint,
       %(pid)s::integer, %(group_index)s::integer, %(size)s::integer,
       %(eta)s::timestamptz, %(expires)s::timestamptz, %(time_limit)s::double precision, %(members)s::text[],
       %(stream)s::text, %(kind)s::text, %(state)s::text, %(name)s::text, %(worker)s::text, %(queue)s::text,
       %(root_id)s::text, %(parent_id)s::text, %(group_id)s::text, %(task_id)s::text, %(periodic_task_name)s::text,
       %(content_type)s::text, %(content_encoding)s::text, %(args_content_type)s::text, %(traceback)s::text,
       %(source)s::text, %(run)s::text, %(reason)s::text,
       %(args)b::bytea, %(kwargs)b::bytea, %(result)b::bytea, %(meta)b::bytea, %(body)b::bytea, %(ordered_at)s::timestamptz
  from (select case when %(relaxed)s::boolean then set_config('synchronous_commit', 'off', true) end) as durability
on conflict (event_id, stream) do nothing
returning event_id, not pg_try_advisory_xact_lock(hashtextextended('celery_journal.' || %(audience)s::text, pg_backend_pid() %% 64)) as listening

-- name: append many
-- By a function: places in the log are the database's to give, in the order given here.
select new.event_id
  from (select case when %(relaxed)s::boolean then set_config('synchronous_commit', 'off', true) end) as durability
       cross join lateral celery_journal.append_events(
           %(event_id)s::uuid[], %(occurred_at)s::timestamptz[], %(attempt)s::integer[], %(schema_version)s::smallint[],
           %(pid)s::integer[], %(group_index)s::integer[], %(size)s::integer[], %(eta)s::timestamptz[],
           %(expires)s::timestamptz[], %(time_limit)s::double precision[], %(members)s::text[], %(stream)s::text[],
           %(kind)s::text[], %(state)s::text[], %(name)s::text[], %(worker)s::text[], %(queue)s::text[], %(root_id)s::text[],
           %(parent_id)s::text[], %(group_id)s::text[], %(task_id)s::text[], %(periodic_task_name)s::text[],
           %(content_type)s::text[], %(content_encoding)s::text[], %(args_content_type)s::text[], %(traceback)s::text[],
           %(source)s::text[], %(run)s::text[], %(reason)s::text[], %(args)b::bytea[], %(kwargs)b::bytea[],
           %(result)b::bytea[], %(meta)b::bytea[], %(body)b::bytea[], %(ordered_at)s::timestamptz[]) as new (event_id)

-- name: restore many
-- For the import alone: with the moments at which another log recorded them.
select new.event_id
  from (select case when %(relaxed)s::boolean then set_config('synchronous_commit', 'off', true) end) as durability
       cross join lateral celery_journal.restore_events(
           %(event_id)s::uuid[], %(occurred_at)s::timestamptz[], %(attempt)s::integer[], %(schema_version)s::smallint[],
           %(pid)s::integer[], %(group_index)s::integer[], %(size)s::integer[], %(eta)s::timestamptz[],
           %(expires)s::timestamptz[], %(time_limit)s::double precision[], %(members)s::text[], %(stream)s::text[],
           %(kind)s::text[], %(state)s::text[], %(name)s::text[], %(worker)s::text[], %(queue)s::text[], %(root_id)s::text[],
           %(parent_id)s::text[], %(group_id)s::text[], %(task_id)s::text[], %(periodic_task_name)s::text[],
           %(content_type)s::text[], %(content_encoding)s::text[], %(args_content_type)s::text[], %(traceback)s::text[],
           %(source)s::text[], %(run)s::text[], %(reason)s::text[], %(args)b::bytea[], %(kwargs)b::bytea[],
           %(result)b::bytea[], %(meta)b::bytea[], %(body)b::bytea[], %(ordered_at)s::timestamptz[],
           %(recorded_at)s::timestamptz[]) as new (event_id)

-- name: lock stream
-- Not a lock that every writer takes: only those who must not tell the same twice.
select pg_advisory_xact_lock(hashtextextended('celery_journal.' || %(stream)s::text, 0))

-- name: asked lately
-- Whether somebody was recorded lately to want the task revoked, by a clock that is not days off.
select exists (select from celery_journal.event e
                where e.stream = %(stream)s
                  and e.kind = 'task-revoked'
                  and e.worker is null
                  and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
                  and e.event_id < celery_journal.first_event_id(%(until)s::timestamptz)
                  and e.recorded_at > clock_timestamp() - %(seconds)s * interval '1 second')

-- name: deliveries
-- In one stretch of the log, the runs of a task that were received, and those that the backend has told the end of: a worker's main
-- process tells that they were received, with others, and perhaps later.
select distinct e.run, e.kind = 'task-received' as is_received
  from celery_journal.event e
 where e.stream = %(stream)s
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
   and e.run is not null
   and (e.kind = 'task-received'
        or (e.source = 'backend' and e.kind in ('task-succeeded', 'task-failed', 'task-revoked')))

-- name: recorded
-- What stands in the log under these ids.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.event_id = any(%(event_ids)s::uuid[])

-- name: boundaries
-- The ids that part the log into stretches of ten weekly partitions, the newest in one. Only the catalog is asked, and no
-- partition stays locked. The lowest partition begins no stretch: below it is what the default partition has.
select array(select p.first_id
               from (select b.first_id, row_number() over (order by b.first_id desc) as place, count(*) over () as partitions
                       from pg_catalog.pg_inherits i
                            join pg_catalog.pg_class c on c.oid = i.inhrelid
                            cross join lateral (
                                select substring(pg_get_expr(c.relpartbound, c.oid) from $$FROM \('([^']+)'$$)::uuid as first_id) b
                      where i.inhparent = 'celery_journal.event'::regclass and b.first_id is not null) p
              where mod(p.place, 10) = 0 and p.place < p.partitions
              order by p.first_id) as boundaries, celery_journal.horizon()::text::bigint as horizon

-- name: known
-- In one stretch of the log.
select s.stream
  from unnest(%(streams)s::text[]) as s (stream)
 where exists (select from celery_journal.event e
                where e.stream = s.stream and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
                  and (not %(tasks)s or e.kind like 'task-%%'))

-- name: read stream
-- In one stretch of the log.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.stream = %(stream)s
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
 order by e.transaction, e.position

-- name: read transitions
-- In one stretch of the log. Those of transactions since the horizon of an earlier reading: whatever ended before it was seen there.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.stream = any(%(streams)s)
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
   and e.kind = any(%(kinds)s)
   and e.transaction >= %(since)s::text::xid8
 order by e.transaction, e.position

-- name: read all
-- Behind the horizon: positions are handed out before the commit, so an event with a smaller place may still appear
-- as long as a transaction that began before it is open.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where (e.transaction, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
   and e.transaction < %(horizon)s::text::xid8
 order by e.transaction, e.position
 limit %(limit)s

-- name: begin subscription
insert into celery_journal.subscription (name, transaction, position)
values (%(name)s, %(transaction)s::text::xid8, %(position)s)
on conflict (name) do nothing

-- name: load checkpoint
-- Locked until the end of the transaction: the next subscriber of that name waits, then goes on from there. None where it is another login's.
select s.transaction::text::bigint as transaction, s.position, s.state
  from celery_journal.subscription s
 where s.name = %(name)s
   for update

-- name: save checkpoint
-- One of an earlier version has no owner yet.
insert into celery_journal.subscription as s (name, transaction, position)
values (%(name)s, %(transaction)s::text::xid8, %(position)s)
on conflict (name) do update set
       owner = coalesce(s.owner, excluded.owner),
       transaction = excluded.transaction,
       position = excluded.position,
       updated_at = clock_timestamp()

-- name: move checkpoint
-- From where its subscriber believes that it is. It may be there already, if the answer to a first attempt was lost.
update celery_journal.subscription s
   set owner = coalesce(s.owner, current_user),
       transaction = %(transaction)s::text::xid8,
       position = %(position)s,
       state = %(state)b,
       updated_at = clock_timestamp()
 where s.name = %(name)s
   and (row(s.transaction, s.position, s.state)
            is not distinct from row(%(transaction_before)s::text::xid8, %(position_before)s::bigint, %(state_before)b::bytea)
        or row(s.transaction, s.position, s.state)
            is not distinct from row(%(transaction)s::text::xid8, %(position)s::bigint, %(state)b::bytea))

-- name: take subscription
-- Until the session ends, which is when its process does, or soon after nothing can be heard of it any more: the server asks.
select pg_try_advisory_lock(hashtextextended('celery_journal.subscription.' || %(name)s::text, 0))
  from (select set_config('tcp_keepalives_idle', '20', false), set_config('tcp_keepalives_interval', '5', false),
               set_config('tcp_keepalives_count', '2', false)) as asking
