-- What the migrations ask the database.

-- name: lock
-- Migrators wait for each other; the lock ends with the transaction.
select pg_try_advisory_xact_lock(hashtextextended('celery_journal.migrate', 0))

-- name: trusted path
-- What anybody may have planted in other schemas is not found, whatever its types.
select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)

-- name: path
select pg_catalog.current_setting('search_path')

-- name: take path
select pg_catalog.set_config('search_path', %(path)s, false)

-- name: lock timeout
-- Writers queue behind a lock that waits, so it does not wait long.
set local lock_timeout = '30ms'

-- name: create
create schema if not exists celery_journal

-- name: exists
select to_regclass('celery_journal.migration') is not null
  from pg_catalog.pg_namespace
 where nspname = 'celery_journal' and has_schema_privilege(oid, 'usage')

-- name: version
select max(version) from celery_journal.migration

-- name: record
insert into celery_journal.migration (version, name) values (%(version)s, %(name)s)

-- name: settle
-- Whatever a migration adds is its owner's, and nobody else's: PostgreSQL lets everyone execute a new function, and default privileges
-- may let everyone do more. Each part of the log refuses changes.
do $$
declare
    owner  text := (select quote_ident(pg_get_userbyid(n.nspowner)) from pg_catalog.pg_namespace n where n.nspname = 'celery_journal');
    object record;
begin
    for object in
        select p.oid::regprocedure as name, p.proowner = n.nspowner as is_settled,
               has_function_privilege('public', p.oid, 'execute') as is_public
          from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'celery_journal'
    loop
        if object.is_public then
            execute format('revoke all on function %s from public', object.name);
        end if;
        if not object.is_settled then
            execute format('alter function %s owner to %s', object.name, owner);
        end if;
    end loop;
    for object in
        select c.oid::regclass as name, case c.relkind when 'v' then 'view' else 'table' end as kind
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'celery_journal' and c.relkind in ('r', 'p', 'v') and c.relowner <> n.nspowner
    loop
        execute format('alter %s %s owner to %s', object.kind, object.name, owner);
    end loop;
    if exists (select from pg_catalog.pg_namespace n, aclexplode(n.nspacl) a
                where n.nspname = 'celery_journal' and a.grantee = 0 and a.privilege_type = 'CREATE') then
        revoke create on schema celery_journal from public;
    end if;
    for object in
        select c.oid::regclass as name, string_agg(distinct a.privilege_type, ', ') as rights
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace cross join aclexplode(c.relacl) a
         where n.nspname = 'celery_journal' and a.grantee = 0 and a.privilege_type <> 'SELECT'
         group by c.oid
    loop
        execute format('revoke %s on %s from public', object.rights, object.name);
    end loop;
    perform celery_journal.keep_sense();
    for object in select t.relid as name from pg_catalog.pg_partition_tree('celery_journal.event') t loop
        perform celery_journal.protect(object.name);
    end loop;
end $$

-- name: role name
select celery_journal.role_name(%(kind)s::text)

-- name: has events
select exists (select from celery_journal.event)

-- name: create partitions
select celery_journal.create_partitions()

-- name: create past partitions
select celery_journal.create_past_partitions(%(event_ids)s)

-- name: backend
-- A pooler answers with the process id of whatever server connection it has lent, and not with the one it gave us.
select b.pid operator(pg_catalog.<>) %(given)s::pg_catalog.int4 from pg_catalog.pg_backend_pid() as b (pid)

-- name: introduce
-- The same; and a session that is ours alone is told how we write, and finds nothing of what anybody may have planted in other schemas.
-- One that is lent is left as it is.
select b.pid operator(pg_catalog.<>) %(given)s::pg_catalog.int4,
       case when b.pid operator(pg_catalog.=) %(given)s::pg_catalog.int4
            then (select pg_catalog.count(pg_catalog.set_config(s.name, s.value, %(only_here)s))
                    from rows from (pg_catalog.unnest(%(names)s::pg_catalog.text[]), pg_catalog.unnest(%(values)s::pg_catalog.text[]))
                         as s (name, value)) end
  from pg_catalog.pg_backend_pid() as b (pid)

-- name: begin
begin isolation level read committed

-- name: tell session
-- Until the end of the transaction: the session is lent, and somebody else's afterwards.
select pg_catalog.count(pg_catalog.set_config(s.name, s.value, %(only_here)s))
  from rows from (pg_catalog.unnest(%(names)s::pg_catalog.text[]), pg_catalog.unnest(%(values)s::pg_catalog.text[])) as s (name, value)

-- name: commit
commit

-- name: is restored
select celery_journal.is_restored(%(thorough)s)

-- name: begin epoch
select celery_journal.begin_epoch()

-- name: horizon
-- In a query of its own, so that the planner of the next one knows it.
select celery_journal.horizon()::text::bigint as horizon, celery_journal.is_restored() as restored

-- name: missing rights
-- What the login lacks of what a worker needs, and who it is; nothing where there is no schema yet. All that its sweeps need, too: they
-- say what fails in the log of the worker at best, where nobody looks. Of another version is asked only what there is of it.
select array_remove(array[
           case when not has_schema_privilege(n.oid, 'usage') then 'use it' end,
           (select 'insert into event' from pg_catalog.pg_class c
             where c.relnamespace = n.oid and c.relname = 'event'
               and exists (select from pg_catalog.pg_attribute a
                            where a.attrelid = c.oid and not a.attisdropped and a.attname = any(%(columns)s::name[])
                              and not has_column_privilege(c.oid, a.attnum, 'insert'))),
           (select 'use the sequence event_position' from pg_catalog.pg_class c
             where c.relnamespace = n.oid and c.relname = 'event_position' and c.relkind = 'S' and not has_sequence_privilege(c.oid, 'usage'))
       ], null) || array(
           select 'read ' || c.relname from pg_catalog.pg_class c
            where c.relnamespace = n.oid and not has_table_privilege(c.oid, 'select')
              and c.relname in ('chord_counter', 'chord_part', 'event', 'group_result', 'migration', 'task_attempt', 'task_result', 'worker')
            order by c.relname
       ) || array(
           select 'execute ' || p.proname from pg_catalog.pg_proc p
            where p.pronamespace = n.oid and not has_function_privilege(p.oid, 'execute')
              and p.proname in ('added_transactions', 'append_events', 'asked_of', 'begin_epoch', 'begin_lost_sweep', 'begin_sweep', 'chord_of_body',
                                'chords_never_started', 'claim_chord', 'create_partitions', 'first_event_id', 'horizon', 'is_restored',
                                'joined_sendings', 'json_or_null', 'open_chords', 'purge_forgotten', 'release_chord', 'silent_chords',
                                'started_of', 'stragglers', 'this_transaction')
            order by p.proname
       ), current_user::text
  from pg_catalog.pg_namespace n
 where n.nspname = 'celery_journal'
