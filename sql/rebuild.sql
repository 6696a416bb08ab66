-- Building a projection beside the live one, and comparing two.

-- name: lock
-- One rebuild at a time. Held by the session, because a rebuild is many transactions; tried and not waited for, because
-- who waits in a query is an older reader, for whom the other rebuild would wait.
select pg_try_advisory_lock(hashtextextended('celery_journal.rebuild', 0))

-- name: unlock
select pg_advisory_unlock(hashtextextended('celery_journal.rebuild', 0))

-- name: attached
select from pg_catalog.pg_trigger where tgrelid = 'celery_journal.event'::regclass and tgname = %(trigger)s

-- name: detach
-- Waits for the readers of the log too, even where there is no such trigger.
drop trigger if exists {trigger} on celery_journal.event

-- name: drop function
drop function if exists celery_journal.{trigger}()

-- name: silence
-- The new tables are the live ones now, into which the first trigger folds.
create or replace function celery_journal.{trigger}() returns trigger language plpgsql as 'begin return null; end'

-- name: drop
drop table if exists {new}

-- name: create
create table {new} (like {live} including all)

-- name: storage
-- What `like` does not copy: the storage parameters and the owner.
select array_to_string(c.reloptions, ', ') as options, pg_get_userbyid(c.relowner) as owner
  from pg_catalog.pg_class c
 where c.oid = %(table)s::regclass

-- name: privileges
-- The statements that give the new table the live one's grants and comment, which `like` does not copy either.
select format('grant %%s%%s on %%s to %%s%%s', a.privilege_type, a.of_column, %(new)s::text,
              case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end,
              case when a.is_grantable then ' with grant option' end)
  from pg_catalog.pg_class c
       cross join lateral (
           select x.*, '' as of_column from aclexplode(c.relacl) x
           union all
           select x.*, format(' (%%I)', n.attname) from pg_catalog.pg_attribute n, aclexplode(n.attacl) x where n.attrelid = c.oid) a
 where c.oid = %(table)s::regclass and a.grantee <> c.relowner
union all
select format('comment on table %%s is %%L', %(new)s::text, obj_description(%(table)s::regclass))
 where obj_description(%(table)s::regclass) is not null

-- name: transaction
select pg_current_xact_id()::text

-- name: older readers
-- Who still reads as of a moment before that transaction, and would find the new tables empty.
select a.pid
  from pg_catalog.pg_stat_activity a
 where a.datname = current_database()
   and a.backend_type = 'client backend'
   and a.pid <> pg_backend_pid()
   and age(a.backend_xmin) > age(%(transaction)s::text::xid8::xid)

-- name: extent
-- The last event there is; whatever comes later is folded by the trigger.
select e.event_id, (select sum(greatest(c.reltuples, 0))::bigint
                      from pg_catalog.pg_partition_tree('celery_journal.event') t
                           join pg_catalog.pg_class c on c.oid = t.relid and t.isleaf) as estimate
  from celery_journal.event e
 order by e.event_id desc
 limit 1

-- name: next chunk
-- The last of the next events, by id, which is by time: the events of one task are mostly neighbours.
select c.event_id, c.events
  from (select e.event_id, row_number() over (order by e.event_id) as events
          from (select event_id from celery_journal.event
                 where event_id > %(after)s and event_id <= %(last)s
                 order by event_id limit %(chunk)s) e) c
 order by c.event_id desc
 limit 1

-- name: set storage
alter table {new} set ({options})

-- name: set owner
alter table {new} owner to {owner}

-- name: plan for many
-- As the trigger's function has it, and for the same reasons.
set local enable_nestloop = off;
set local jit = off

-- name: lock timeout
-- Writers queue behind a lock that waits, so it does not wait long.
set local lock_timeout = '500ms'

-- name: stop writers
-- For the moment of the swap, or of attaching the trigger. Writers in flight are waited for, and readers go on.
lock table celery_journal.event in share row exclusive mode

-- name: rename
alter table {live} rename to {old name};
alter table {new} rename to {live name}

-- name: indexes
-- The indexes of two tables of the same shape, by what they index.
select c.relname as name, i.indisunique::text || substring(pg_get_indexdef(i.indexrelid) from ' USING .*') as definition
  from pg_catalog.pg_index i
       join pg_catalog.pg_class c on c.oid = i.indexrelid
 where i.indrelid = %(table)s::regclass

-- name: rename index
alter index celery_journal.{name} rename to {wanted}

-- name: columns
-- The columns to compare, and whether each is part of the key.
select a.attname as name, coalesce(a.attnum = any(i.indkey), false) as in_key
  from pg_catalog.pg_attribute a
       left join pg_catalog.pg_index i on i.indrelid = a.attrelid and i.indisprimary
 where a.attrelid = %(table)s::regclass
   and a.attnum > 0
   and not a.attisdropped
   and a.attname not in ('forgotten_position', 'forgotten_before')
 order by a.attnum

-- name: temporary
create temporary table {name} (like {live} including all) on commit drop

-- name: count
-- How many rows there are to compare. A forgotten row counts as none.
with live as (select {key} from {live} where {live alive}),
     folded as (select {key} from {temporary} where {folded alive})
select count(*) from live full join folded using ({key})

-- name: differences
with live as (select {columns} from {live} where {live alive}),
     folded as (select {columns} from {temporary} where {folded alive})
select to_jsonb(live), to_jsonb(folded)
  from live full join folded using ({key})
 where row({live columns}) is distinct from row({folded columns})
 order by {key}
