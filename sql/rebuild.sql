-- Building a projection beside the live one, and comparing two.

-- name: lock
-- One rebuild at a time. Held by the session, because a rebuild is many transactions; tried and not waited for, because
-- who waits in a query is an older reader, for whom the other rebuild would wait.
select pg_try_advisory_lock(hashtextextended('celery_journal.rebuild', 0))

-- name: unlock
select pg_advisory_unlock(hashtextextended('celery_journal.rebuild', 0))

-- name: attached
select from pg_catalog.pg_trigger where tgrelid = 'celery_journal.event'::regclass::oid and tgname = %(trigger)s

-- name: detach
-- Waits for the readers of the log too, even where there is no such trigger.
drop trigger if exists {trigger} on celery_journal.event

-- name: close function
-- In the transaction that creates it: PostgreSQL lets everyone execute a new function, and who may execute one for triggers may attach
-- it to a table of their own. It belongs to whom the tables belong to.
revoke all on function celery_journal.{trigger}() from public;
alter function celery_journal.{trigger}() owner to {owner}

-- name: drop function
drop function if exists celery_journal.{trigger}()

-- name: silence
-- The new tables are the live ones now, into which the first trigger folds.
create or replace function celery_journal.{trigger}() returns trigger language plpgsql as 'begin return null; end'

-- name: drop
drop table if exists {new}

-- name: empty
truncate {table}

-- name: set aside
alter table {table} rename to {aside}

-- name: left aside
-- What earlier rebuilds have set aside, and nothing depends on any more.
select c.relname as name
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'celery_journal' and c.relkind = 'r' and c.relname like '%%\_\_aside\_%%'
   and not exists (select from pg_catalog.pg_depend d
                    where d.deptype in ('n', 'a')
                      and (d.refclassid = 'pg_class'::regclass::oid and d.refobjid = c.oid
                           or d.refclassid = 'pg_type'::regclass::oid and d.refobjid in (c.reltype, (select t.typarray from pg_catalog.pg_type t where t.oid = c.reltype)))
                      and d.classid <> 'pg_attrdef'::regclass::oid and d.classid <> 'pg_constraint'::regclass::oid
                      and not (d.classid = 'pg_class'::regclass::oid
                               and exists (select from pg_catalog.pg_index i where i.indexrelid = d.objid and i.indrelid = c.oid)))

-- name: dependents
-- What reads the table itself and is none of ours: who it belongs to, whether that one could read it at all, and where it may look.
select replace(pg_describe_object(r.classid, r.objid, r.objsubid), 'rule _RETURN on ', '') as what, pg_get_userbyid(r.owner) as owner,
       has_table_privilege(r.owner, r.live, 'select') as reads
  from (select d.classid, d.objid, d.objsubid, c.oid as live, coalesce(w.relowner, p.proowner, u.relowner) as owner
          from pg_catalog.pg_class c
               join pg_catalog.pg_type t on t.oid = c.reltype
               join pg_catalog.pg_depend d
                 on d.deptype = 'n'
                and (d.refclassid = 'pg_class'::regclass::oid and d.refobjid = c.oid
                     or d.refclassid = 'pg_type'::regclass::oid and d.refobjid in (t.oid, t.typarray))
               left join pg_catalog.pg_rewrite e on d.classid = 'pg_rewrite'::regclass::oid and e.oid = d.objid
               left join pg_catalog.pg_class w on w.oid = e.ev_class
               left join pg_catalog.pg_proc p on d.classid = 'pg_proc'::regclass::oid and p.oid = d.objid
               left join pg_catalog.pg_class u on d.classid = 'pg_class'::regclass::oid and u.oid = d.objid
         where c.oid = %(table)s::regclass::oid
           and coalesce(w.relnamespace, p.pronamespace, u.relnamespace) is distinct from c.relnamespace) r
 where r.owner is not null
 order by 1

-- name: create
-- One transaction: whatever the default privileges are, nobody else may write into what becomes the live table.
create table {new} (like {live} including all);
revoke all on {new} from public

-- name: storage
-- What `like` does not copy: the storage parameters and the owner.
select array_to_string(c.reloptions, ', ') as options, quote_ident(pg_get_userbyid(c.relowner)) as owner
  from pg_catalog.pg_class c
 where c.oid = %(table)s::regclass::oid

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
-- Writers queue behind a lock that waits, so it does not wait long: not while it is waited for, and not while it is held.
set local lock_timeout = '25ms'

-- name: shorter lock timeout
set local lock_timeout = '10ms'

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
 where i.indrelid = %(table)s::regclass::oid

-- name: rename index
alter index celery_journal.{name} rename to {wanted}

-- name: columns
-- The columns to compare, and whether each is part of the key.
select a.attname as name, coalesce(a.attnum = any(i.indkey), false) as in_key
  from pg_catalog.pg_attribute a
       left join pg_catalog.pg_index i on i.indrelid = a.attrelid and i.indisprimary
 where a.attrelid = %(table)s::regclass::oid
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
