-- Functions and views are replaced as a whole by every migration, so there is no history of them to migrate through.

-- The role of that kind (owner, writer, reader, auditor, importer) for this journal alone: roles belong to the whole server.
create or replace function celery_journal.role_name(kind text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
    select case when octet_length(n.name) <= 63 then n.name else n.prefix || left(md5(current_database()), 12) end
      from (select p.prefix, p.prefix || current_database() as name
              from (select 'celery_journal' || '_' || kind || '_' as prefix) p) n
$$;

-- The smallest event_id of a moment: 48 bits of milliseconds (UUID version 8, RFC 9562), the rest zero.
create or replace function celery_journal.first_event_id(moment timestamptz) returns uuid
language sql immutable strict parallel safe
return (lpad(to_hex(floor(extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Refuses every change of the log, through the parent and through each partition. The maintenance path is the
-- owner's: `set local celery_journal.maintenance = 'on'` in the same transaction. It records itself, with the login that took it, and
-- does not reach to TRUNCATE, of which a record would not be left.
create or replace function celery_journal.refuse_change() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if tg_op <> 'TRUNCATE'
       and current_setting('celery_journal.maintenance', true) = 'on'
       and pg_has_role(current_user, (select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid), 'usage')
    then
        insert into celery_journal.event (event_id, occurred_at, stream, kind, source, reason)
        values (overlay(gen_random_uuid()::text
                        placing left(celery_journal.first_event_id(clock_timestamp())::text, 13) || '-8' from 1 for 15)::uuid,
                clock_timestamp(), 'maintenance', 'operator-acted', 'database',
                lower(tg_op) || ' of ' || tg_table_name || ' by ' || session_user);
        return null;
    end if;
    raise exception 'the event log is append-only: % of % is refused', lower(tg_op), tg_table_name
          using errcode = 'restrict_violation',
                hint = 'record another event instead; retention and erasure have functions of their own';
end $$;

-- The same for each row, which is all that happens where a logical replication subscription brings a change. Under maintenance the
-- statement has been recorded.
create or replace function celery_journal.refuse_change_of_row() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('celery_journal.maintenance', true) = 'on'
       and current_setting('session_replication_role') = 'origin'
       and pg_has_role(current_user, (select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid), 'usage')
    then
        return case tg_op when 'DELETE' then old else new end;
    end if;
    raise exception 'the event log is append-only: % of % is refused', lower(tg_op), tg_table_name using errcode = 'restrict_violation';
end $$;

-- Always: not even a session that replicates goes past them. Partitions have that for rows from the log itself.
create or replace function celery_journal.protect(log_table regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    one record;
begin
    for one in
        select w.name, w.action
          from (values ('refuse_change', 'update or delete or truncate on %s for each statement'),
                       ('refuse_change_of_row', 'update or delete on %s for each row')) as w (name, action)
         where (w.name = 'refuse_change' or log_table = to_regclass('celery_journal.event'))
           and not exists (select from pg_catalog.pg_trigger t
                            where t.tgrelid = log_table and t.tgname = w.name and t.tgenabled = 'A'
                              and t.tgfoid = to_regprocedure(format('celery_journal.%I()', w.name)))
    loop
        execute format('create or replace trigger %I before ' || one.action || ' execute function celery_journal.%1$I()', one.name, log_table);
        execute format('alter table %s enable always trigger %I', log_table, one.name);
    end loop;
end $$;

-- Refuses what makes no sense, because in a log nothing can be mended afterwards; what stands in the log already stays there, and is shown
-- as it is. Each rule has the name of a constraint, which the error has too; journal/constraints.py has the same rules with words for people.
-- A trigger of each row, and no CHECK: PostgreSQL prepares those anew for every statement, by their length.
create or replace function celery_journal.refuse_nonsense() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    broken text := case
        when octet_length(new.stream) not between 1 and 2500 then 'event_has_a_stream'
        when new.kind = '' then 'event_has_a_kind'
        -- What an event_id and the clocks of all languages can hold; no infinity.
        when new.occurred_at < '1970-01-01 00:00:00+00' or new.occurred_at >= '10000-01-01 00:00:00+00' then 'event_is_of_our_years'
        -- Each of Celery's own states is that of one kind. A custom state is none of them, and kinds that have no state say what they like.
        when new.state is distinct from case new.kind
                 when 'task-succeeded' then 'SUCCESS' when 'task-started' then 'STARTED' when 'task-sent' then 'PENDING'
                 when 'task-received' then 'RECEIVED' when 'task-failed' then 'FAILURE' when 'task-retried' then 'RETRY'
                 when 'task-revoked' then 'REVOKED' when 'task-rejected' then 'REJECTED' else new.state end
          or (new.kind in ('task-progress', 'task-ignored')
              and coalesce(new.state in ('RECEIVED', 'STARTED', 'RETRY', 'REJECTED', 'REVOKED', 'FAILURE', 'SUCCESS'), true))
            then 'event_state_fits_its_kind'
        when new.kind = 'chord-part-returned' and new.task_id is null then 'event_part_names_its_member'
        when new.schema_version < 1 then 'event_schema_version_counts_from_one'
        when new.ordered_at <= new.occurred_at or new.ordered_at >= '10000-01-01 00:00:00+00' then 'event_order_follows_its_clock'
        when new.attempt < 0 then 'event_attempt_counts_from_zero'
        when new.size < 0 then 'event_size_counts_from_zero'
        when new.group_index < 0 then 'event_group_index_counts_from_zero'
        when new.pid < 1 then 'event_pid_is_of_a_process'
        when new.eta < '0001-01-01 00:00:00+00' or new.eta >= '10000-01-01 00:00:00+00'
          or new.expires < '0001-01-01 00:00:00+00' or new.expires >= '10000-01-01 00:00:00+00' then 'event_moments_have_four_digits'
        -- NaN is above infinity here.
        when new.time_limit < 0 or new.time_limit >= 'infinity' then 'event_time_limit_is_a_duration'
        when array_ndims(new.members) <> 1 or array_position(new.members, null) is not null then 'event_members_are_a_list'
    end;
begin
    if broken is not null then
        raise exception 'the event breaks the rule %, and is not recorded', broken
              using errcode = 'check_violation', constraint = broken, table = tg_table_name, schema = tg_table_schema,
                    hint = 'the rules are in the function celery_journal.refuse_nonsense()';
    end if;
    return new;
end $$;

-- Attaches it to the log, which hands it on to each partition, there already or to come; always, as `refuse_change`.
create or replace function celery_journal.keep_sense() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from pg_partition_tree('celery_journal.event') p
                        left join pg_catalog.pg_trigger t
                               on t.tgrelid = p.relid and t.tgname = 'refuse_nonsense' and t.tgenabled = 'A'
                              and t.tgfoid = to_regprocedure('celery_journal.refuse_nonsense()')
                    where t.oid is null) then
        return;
    end if;
    drop trigger if exists refuse_nonsense on celery_journal.event;
    create trigger refuse_nonsense before insert on celery_journal.event
        for each row execute function celery_journal.refuse_nonsense();
    alter table celery_journal.event enable always trigger refuse_nonsense;
end $$;

-- Creates the partition of the week that begins then, and returns its name, or null if there is one. A week for which the default
-- partition already holds events stays there. Attaching waits at most two seconds for the writers in flight.
create or replace function celery_journal.create_partition(first_day timestamptz) returns text
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '2s' set timezone = 'UTC' as $$
declare
    partition_name text := 'event_' || to_char(first_day at time zone 'UTC', 'YYYY_MM_DD');
begin
    if to_regclass('celery_journal.' || partition_name) is not null then
        return null;
    end if;
    execute format('create table celery_journal.%I (like celery_journal.event including all)', partition_name);
    execute format('revoke all on celery_journal.%I from public', partition_name);  -- whatever the default privileges are
    execute format(
        'alter table celery_journal.event attach partition celery_journal.%I for values from (%L) to (%L)',
        partition_name,
        celery_journal.first_event_id(first_day),
        celery_journal.first_event_id(first_day + interval '7 days'));
    perform celery_journal.protect(to_regclass('celery_journal.' || partition_name));
    return partition_name;
exception when check_violation or lock_not_available then
    return null;  -- the default partition takes this week's events
end $$;

-- Creates the partitions of this week and of the coming ones, and returns the names of the new ones. Not further than a
-- year and two months ahead: who reads the log without a time locks each.
create or replace function celery_journal.create_partitions(weeks_ahead integer default 8) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if weeks_ahead > 61 then
        raise exception 'partitions are created for at most 61 weeks ahead, and not for %', weeks_ahead
              using errcode = 'invalid_parameter_value';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('celery_journal.create_partitions', 0)) then
        return;  -- somebody else is at it
    end if;
    return query
        select p.name
          from generate_series(-1, weeks_ahead) as w (week)
               cross join lateral celery_journal.create_partition(
                   date_trunc('week', clock_timestamp(), 'UTC') + w.week * interval '168 hours') as p (name)
         where p.name is not null;
end $$;

-- Creates the partitions of the weeks in which these events were, if those are past, and returns the names of the new ones. Not further
-- back than two years: whoever reads the log without a time looks into each.
create or replace function celery_journal.create_past_partitions(event_ids uuid[]) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    this_week timestamptz := date_trunc('week', clock_timestamp(), 'UTC');
begin
    perform pg_advisory_xact_lock(hashtextextended('celery_journal.create_partitions', 0));
    return query
        select p.name
          from (select distinct date_trunc(
                           'week', to_timestamp(('x' || left(replace(i.id::text, '-', ''), 12))::bit(48)::bigint / 1000.0), 'UTC')
                  from unnest(event_ids) as i (id)) as w (week)
               cross join lateral celery_journal.create_partition(w.week) as p (name)
         where w.week < this_week and w.week >= this_week - interval '17472 hours' and p.name is not null;
end $$;

-- Gives a week whose events are in the default partition one of its own, moves them there as they are, and returns how many those were; null
-- where that week has one. The owner's alone, and recorded. Rows are moved beside readers and writers, who go on; for the moment of the
-- swap they wait, and it waits for them 30 milliseconds at a time, because whoever comes later queues behind it. A reader who had looked
-- up the partitions before would not find the rows that were moved, hence the lock of the whole log. The default partition is taken off
-- meanwhile, so that what came since can be moved too, and what is recorded of that has a place.
create or replace function celery_journal.move_week(first_day timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '30ms' as $$
declare
    this_week      timestamptz := date_trunc('week', clock_timestamp(), 'UTC');
    partition_name text := 'event_' || to_char(first_day at time zone 'UTC', 'YYYY_MM_DD');
    first_id       uuid := celery_journal.first_event_id(first_day);
    end_id         uuid := celery_journal.first_event_id(first_day + interval '168 hours');
    moved          bigint;
    late           bigint := 0;
    attempts       integer := 0;
begin
    if first_day <> date_trunc('week', first_day, 'UTC')
       or first_day not between this_week - interval '17472 hours' and this_week + interval '10248 hours' then
        raise exception 'weeks begin on a Monday by UTC, and get partitions from two years ago until 61 weeks ahead; % is none of them', first_day
              using errcode = 'invalid_parameter_value';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('celery_journal.create_partitions', 0));
    if to_regclass('celery_journal.' || partition_name) is not null then
        return null;
    end if;
    perform set_config('celery_journal.maintenance', 'on', true);
    execute format('create table celery_journal.%I (like celery_journal.event including all, '
                   'constraint of_one_week check (event_id >= %L and event_id < %L))', partition_name, first_id, end_id);
    execute format('with taken as (delete from celery_journal.event_default where event_id >= %L and event_id < %L returning *) '
                   'insert into celery_journal.%I select * from taken', first_id, end_id, partition_name);
    get diagnostics moved = row_count;
    loop
        begin
            lock table only celery_journal.event in access exclusive mode;
            lock table celery_journal.event_default in access exclusive mode;
            exit;
        exception when lock_not_available or deadlock_detected then
            attempts := attempts + 1;
            if attempts = 20 then
                raise;
            end if;
            perform pg_sleep(0.05);
        end;
    end loop;
    alter table celery_journal.event detach partition celery_journal.event_default;
    execute format('alter table celery_journal.event attach partition celery_journal.%I for values from (%L) to (%L)',
                   partition_name, first_id, end_id);
    perform celery_journal.protect(to_regclass('celery_journal.' || partition_name));
    if exists (select from celery_journal.event_default e where e.event_id >= first_id and e.event_id < end_id) then
        execute format('with taken as (delete from celery_journal.event_default where event_id >= %L and event_id < %L returning *) '
                       'insert into celery_journal.%I select * from taken', first_id, end_id, partition_name);
        get diagnostics late = row_count;
    end if;
    alter table celery_journal.event attach partition celery_journal.event_default default;
    execute format('alter table celery_journal.%I drop constraint of_one_week', partition_name);
    perform set_config('celery_journal.maintenance', 'off', true);
    insert into celery_journal.event (event_id, occurred_at, stream, kind, source, reason)
    values (overlay(gen_random_uuid()::text
                    placing left(celery_journal.first_event_id(clock_timestamp())::text, 13) || '-8' from 1 for 15)::uuid,
            clock_timestamp(), 'maintenance', 'operator-acted', 'database',
            format('%s events moved from event_default to %s by %s', moved + late, partition_name, session_user));
    return moved + late;
end $$;

-- What the log adds to the transaction ids of this cluster.
create or replace function celery_journal.added_transactions() returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select e.added from celery_journal.epoch e order by e.number desc limit 1
$$;

-- The transaction that is going on, as the log counts.
create or replace function celery_journal.this_transaction() returns xid8
language sql volatile set search_path = pg_catalog, pg_temp
return (pg_current_xact_id()::text::bigint + celery_journal.added_transactions())::text::xid8;

-- The horizon, as the log counts: nothing can appear any more of the transactions before it.
create or replace function celery_journal.horizon() returns xid8
language sql stable set search_path = pg_catalog, pg_temp
return (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + celery_journal.added_transactions())::text::xid8;

-- Whether the log comes from elsewhere: written last in another cluster; of transactions that this one has not had; or its places
-- are behind those that were given, because the sequence did not come along. All places are looked at only where it is to be
-- `thorough`, and else that of the last event: of this week and the last, so that those who begin to work with the log, be they many,
-- lock no other partitions; and of all time where these have none.
create or replace function celery_journal.is_restored(thorough boolean default false) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    generation       text;
    added            bigint;
    given            bigint;
    last_transaction xid8;
    last_position    bigint;
begin
    select e.generation, e.added into generation, added from celery_journal.epoch e order by e.number desc limit 1;
    select s.last_value into given from celery_journal.event_position s;
    if generation <> (select c.system_identifier::text from pg_control_system() c) then
        return true;
    end if;
    if thorough then
        if exists (select from celery_journal.event a where a.position > given) then
            return true;
        end if;
    end if;
    -- Planned for these ids alone.
    execute 'select l.transaction, l.position from celery_journal.event l where l.event_id >= $1 and l.event_id < $2 '
         || 'order by l.transaction desc, l.position desc limit 1'
       into last_transaction, last_position
      using celery_journal.first_event_id(clock_timestamp() - interval '168 hours'),
            celery_journal.first_event_id(clock_timestamp() + interval '1 hour');
    if last_position is null then
        select l.transaction, l.position into last_transaction, last_position
          from celery_journal.event l order by l.transaction desc, l.position desc limit 1;
    end if;
    return coalesce(last_transaction::text::bigint >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint + added
                    or last_position > given, false);
end $$;

-- Has a restored log count on, and returns whether it had to. Whoever writes is waited for, two seconds at most, and waits for the
-- moment that it takes: a place that somebody has already been given must not stand among those of the past.
create or replace function celery_journal.begin_epoch() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    last_transaction bigint;
    last_position    bigint;
    added            bigint;
begin
    lock table celery_journal.event in access exclusive mode;
    if not celery_journal.is_restored(true) then
        return false;  -- somebody else was faster
    end if;
    select max(e.transaction)::text::bigint, max(e.position) into last_transaction, last_position from celery_journal.event e;
    added := greatest(0, last_transaction + 1 - pg_snapshot_xmin(pg_current_snapshot())::text::bigint);
    perform setval('celery_journal.event_position', last_position)
       from celery_journal.event_position s
      where last_position > s.last_value;
    insert into celery_journal.epoch (number, generation, added)
    select (select max(e.number) + 1 from celery_journal.epoch e), c.system_identifier::text, added from pg_control_system() c;
    -- As long as nothing is to be added, an append shall not look for it.
    execute 'alter table celery_journal.event alter column transaction set default '
         || case when added = 0 then 'pg_current_xact_id()' else 'celery_journal.this_transaction()' end;
    return true;
end $$;

-- Appends many facts and returns the ids of the new ones. Places in the log are handed out in the order given, and rows inserted in the
-- order of their ids, so that two who append the same facts do not wait for each other in a circle. Nobody but this and the next
-- function chooses a place or a `recorded_at`: what comes from another log keeps the moment it was recorded there.
create or replace function celery_journal.restore_events(
    event_id uuid[], occurred_at timestamptz[], attempt integer[], schema_version smallint[], pid integer[],
    group_index integer[], size integer[], eta timestamptz[], expires timestamptz[], time_limit double precision[],
    members text[], stream text[], kind text[], state text[], name text[], worker text[], queue text[], root_id text[],
    parent_id text[], group_id text[], task_id text[], periodic_task_name text[], content_type text[],
    content_encoding text[], args_content_type text[], traceback text[], source text[], run text[], reason text[],
    args bytea[], kwargs bytea[], result bytea[], meta bytea[], body bytea[], ordered_at timestamptz[],
    recorded_at timestamptz[]) returns setof uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    return query
    with placed as materialized (
        select (select celery_journal.this_transaction()) as transaction, nextval('celery_journal.event_position') as position, g.*
          from unnest(
                  restore_events.event_id, restore_events.occurred_at, restore_events.attempt, restore_events.schema_version,
                  restore_events.pid, restore_events.group_index, restore_events.size, restore_events.eta,
                  restore_events.expires, restore_events.time_limit, restore_events.members, restore_events.stream,
                  restore_events.kind, restore_events.state, restore_events.name, restore_events.worker, restore_events.queue,
                  restore_events.root_id, restore_events.parent_id, restore_events.group_id, restore_events.task_id,
                  restore_events.periodic_task_name, restore_events.content_type, restore_events.content_encoding,
                  restore_events.args_content_type, restore_events.traceback, restore_events.source, restore_events.run,
                  restore_events.reason, restore_events.args, restore_events.kwargs, restore_events.result,
                  restore_events.meta, restore_events.body, restore_events.ordered_at,
                  restore_events.recorded_at)
               with ordinality as g (
                  event_id, occurred_at, attempt, schema_version, pid, group_index, size, eta, expires, time_limit, members,
                  stream, kind, state, name, worker, queue, root_id, parent_id, group_id, task_id, periodic_task_name,
                  content_type, content_encoding, args_content_type, traceback, source, run, reason, args, kwargs, result,
                  meta, body, ordered_at,
                  recorded_at, place)
         order by g.place),
    appended as (
    insert into celery_journal.event as e (
           transaction, position, recorded_at,
           event_id, occurred_at, attempt, schema_version, pid, group_index, size, eta, expires, time_limit, members, stream,
           kind, state, name, worker, queue, root_id, parent_id, group_id, task_id, periodic_task_name, content_type,
           content_encoding, args_content_type, traceback, source, run, reason, args, kwargs, result, meta, body, ordered_at)
    select n.transaction, n.position, coalesce(n.recorded_at, clock_timestamp()),
           n.event_id, n.occurred_at, n.attempt, n.schema_version, n.pid, n.group_index, n.size, n.eta, n.expires,
           n.time_limit, n.members::text[], n.stream, n.kind, n.state, n.name, n.worker, n.queue, n.root_id, n.parent_id,
           n.group_id, n.task_id, n.periodic_task_name, n.content_type, n.content_encoding, n.args_content_type, n.traceback,
           n.source, n.run, n.reason, n.args, n.kwargs, n.result, n.meta, n.body, n.ordered_at
      from placed n
     order by n.event_id, n.stream, n.place
    on conflict (event_id, stream) do nothing
    returning e.event_id)
    select a.event_id from appended a;
end $$;

create or replace function celery_journal.append_events(
    event_id uuid[], occurred_at timestamptz[], attempt integer[], schema_version smallint[], pid integer[],
    group_index integer[], size integer[], eta timestamptz[], expires timestamptz[], time_limit double precision[],
    members text[], stream text[], kind text[], state text[], name text[], worker text[], queue text[], root_id text[],
    parent_id text[], group_id text[], task_id text[], periodic_task_name text[], content_type text[],
    content_encoding text[], args_content_type text[], traceback text[], source text[], run text[], reason text[],
    args bytea[], kwargs bytea[], result bytea[], meta bytea[], body bytea[], ordered_at timestamptz[]) returns setof uuid
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select celery_journal.restore_events(
           append_events.event_id, append_events.occurred_at, append_events.attempt, append_events.schema_version,
           append_events.pid, append_events.group_index, append_events.size, append_events.eta, append_events.expires,
           append_events.time_limit, append_events.members, append_events.stream, append_events.kind, append_events.state,
           append_events.name, append_events.worker, append_events.queue, append_events.root_id, append_events.parent_id,
           append_events.group_id, append_events.task_id, append_events.periodic_task_name, append_events.content_type,
           append_events.content_encoding, append_events.args_content_type, append_events.traceback, append_events.source,
           append_events.run, append_events.reason, append_events.args, append_events.kwargs, append_events.result,
           append_events.meta, append_events.body, append_events.ordered_at, null)
$$;

-- The sendings of an attempt that was sent more than once: pairs of when, by the clock of the sender, and when that was recorded first.
create or replace function celery_journal.joined_sendings(known timestamptz[], told timestamptz[]) returns timestamptz[]
language sql immutable parallel safe
begin atomic
    select array_agg(array[s.sent, s.recorded] order by s.sent)
      from (select p.pairs[i.i][1] as sent, min(p.pairs[i.i][2]) as recorded
              from (values (known), (told)) as p (pairs)
                   cross join lateral generate_subscripts(p.pairs, 1) as i (i)
             group by 1) s;
end;

-- When the run began that has ended as the fact at `ended_by` says; else when the newest run of the attempt `newest` did.
create or replace function celery_journal.started_of(id text, number integer, ended_by bigint, newest integer) returns timestamptz
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce((select min(u.date_started)
                       from celery_journal.task_attempt_row u
                      where u.task_id = id and u.attempt = number and u.end_rank >= 0 and u.end_position = ended_by),
                    (select max(u.date_started) from celery_journal.task_attempt_row u where u.task_id = id and u.attempt = newest));
end $$;

-- The arguments of the newest sending before the run that has ended as the fact at `ended_by` says, and how they are encoded; null where
-- the log has none. What is planned for this alone locks no other partitions.
create or replace function celery_journal.asked_of(id text, number integer, ended_by bigint, ended_at timestamptz, forgotten bigint,
                                                   since timestamptz) returns bytea[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    began timestamptz := coalesce(
        (select min(least(u.date_received, u.date_started, u.date_done))
           from celery_journal.task_attempt_row u
          where u.task_id = id and u.attempt = number and u.end_rank >= 0 and u.end_position = ended_by), ended_at);
    told  bytea[];
begin
    execute $query$
        select array[e.args, e.kwargs, convert_to(e.args_content_type, 'UTF8')]
          from celery_journal.event e
         where e.stream = $1 and e.kind = 'task-sent' and e.attempt = $2 and e.args is not null and e.position > coalesce($3, 0)
           and e.occurred_at <= $4
           and e.event_id between $5 and $6
         order by e.occurred_at desc, e.position desc
         limit 1$query$
       into told
      using id, number, forgotten, began,
            celery_journal.first_event_id(greatest(least(since, clock_timestamp()) - interval '1 day', '1970-01-01 00:00+00')),
            celery_journal.first_event_id(greatest(least(began, '9999-12-30 00:00+00'), '1970-01-01 00:00+00') + interval '1 day');
    return told;
end $$;

-- JSON for people and for SQL; null when the bytes are not JSON that PostgreSQL can hold. Not for parallel plans: before
-- PostgreSQL 16 they cannot catch an exception.
create or replace function celery_journal.json_or_null(encoded bytea) returns jsonb
language plpgsql immutable strict parallel unsafe as $$
begin
    return pg_catalog.convert_from(encoded, 'UTF8')::pg_catalog.jsonb;
exception when others then
    return null;
end $$;

-- The tasks of which people have said last that they are so: `resolved` or `hidden`.
create or replace function celery_journal.marked(mark text) returns setof text
language sql stable rows 100
begin atomic
    select e.stream
      from (select distinct on (e.stream) e.stream, celery_journal.json_or_null(e.meta) ->> mark as told
              from celery_journal.event e
             where e.kind = 'operator-acted' and e.meta is not null and celery_journal.json_or_null(e.meta) ? mark
             order by e.stream, e.position desc) e
     where e.told = 'true';
end;

-- The tasks that were sent again: as which one that came of it has succeeded, however often those were sent again themselves (null as long
-- as none has), and whether what each was last sent again as has failed. Also those that may have been sent again, where what they
-- were sent as was heard of. All of them, or those of `these` and what came of them.
--
-- Judged by the views; of a copy that has left them, whose original is there, the log tells whether it has succeeded. Under its own id a task
-- was sent again with success where it has succeeded, and without where the run that was heard of last has failed: its row shows how an
-- earlier one ended, until another does.
create or replace function celery_journal.replayed(these text[] default null) returns table (task_id text, succeeded_as text, has_failed boolean)
language plpgsql stable rows 100 set search_path = pg_catalog, pg_temp set jit = off as $$
begin
    if not exists (select from celery_journal.event e where e.kind = 'task-replayed' or (e.kind = 'operator-acted' and e.task_id is not null)) then
        return;  -- as in most logs: the rest need not be planned
    end if;
    return query
    with recursive ever as materialized (
        select e.stream as task_id, coalesce(e.task_id, e.stream) as copy, e.position, e.kind = 'operator-acted' as is_doubted
          from celery_journal.event e
         where e.kind = 'task-replayed' or (e.kind = 'operator-acted' and e.task_id is not null)),
    wanted as (
        select w.task_id collate "C" as task_id from unnest(these) as w (task_id)
         union
        select e.copy from wanted w join ever e on e.task_id = w.task_id),
    told as materialized (
        select e.* from ever e where these is null or e.task_id in (select w.task_id from wanted w)),
    -- By arrays, which are looked up in the order of the index.
    known as materialized (
        select t.task_id, t.status, t.date_done is not null as has_ended
          from celery_journal.task_result t
         where t.task_id = any(array(select r.copy from told r))),
    gone as materialized (
        select r.task_id, r.copy from told r where r.copy not in (select k.task_id from known k)),
    succeeded as (
        select r.task_id, r.copy as succeeded_as
          from told r
               join known k on k.task_id = r.copy
         where k.status in ('SUCCESS', 'IGNORED')
         union
        select g.task_id, g.copy
          from gone g
         where g.task_id in (select t.task_id from celery_journal.task_result t where t.task_id = any(array(select o.task_id from gone o)))
           and g.copy in (select e.stream
                            from celery_journal.event e
                           where e.stream = any(array(select o.copy from gone o)) and e.kind in ('task-succeeded', 'task-ignored'))
         union
        select r.task_id, s.succeeded_as from succeeded s join told r on r.copy = s.task_id),
    last as materialized (
        select distinct on (r.task_id) r.task_id, r.copy, k.has_ended and k.status not in ('SUCCESS', 'IGNORED') as has_failed
          from told r
               left join known k on k.task_id = r.copy
         where k.task_id is not null or not r.is_doubted
         order by r.task_id, r.position desc),
    failed as (
        select l.task_id
          from last l
         where l.has_failed
           and case when l.copy <> l.task_id then l.copy not in (select n.task_id from last n)
                    else (select a.status in ('FAILURE', 'REVOKED')
                            from celery_journal.task_attempt a
                           where a.task_id = l.task_id
                           order by a.recorded_at desc
                           limit 1) end
         union
        select l.task_id from failed f join last l on l.copy = f.task_id)
    select r.task_id, min(r.succeeded_as), count(r.succeeded_as) = 0 and bool_or(r.has_failed)
      from (select l.task_id, null as succeeded_as, false as has_failed from last l
             union all
            select s.task_id, s.succeeded_as, false from succeeded s
             union all
            select f.task_id, null, true from failed f) r
     group by r.task_id;
end $$;

-- The tasks, likewise, that nobody needs to look at any more: people have said last that they are resolved; or else, as which they were sent again
-- with success.
create or replace function celery_journal.settled(these text[] default null) returns table (task_id text, succeeded_as text)
language sql stable rows 100
begin atomic
    select m.task_id, null from celery_journal.marked('resolved') m (task_id)
     union all
    select r.task_id, r.succeeded_as from celery_journal.replayed(these) r where r.succeeded_as is not null;
end;

-- Counts a returned part and says who sends the body: `claimed` (the caller, within the lease), `taken over` (the caller,
-- from one whose lease ran out and who may have sent it), `waiting`, `taken` (another holds the lease), `ended` (sent or
-- failed before) or `unknown` (no such chord).
-- Statement by statement, because each must see what was committed while the one before it waited for the lease's row.
create or replace function celery_journal.claim_chord(chord text, parts integer, claimant text, lease interval) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    tally           integer;
    expected        bigint;
    ended           boolean;
    after_forgotten bigint;
    claimed_before  timestamptz;
    claimed_by_whom text;
begin
    insert into celery_journal.chord_lease as l (group_id, returned) values (chord, parts)
    on conflict (group_id) do update set returned = l.returned + excluded.returned
    returning l.returned into tally;

    select c.size::bigint + cardinality(c.added), c.ended_rank >= 0, coalesce(c.forgotten_position, 0)
      into expected, ended, after_forgotten
      from celery_journal.chord_counter_row c
     where c.group_id = chord and c.started_rank >= 0;
    if not found then
        -- Celery also tells the size of groups that are no chords. The tally is not missed: whoever sets the size after the start
        -- counts the parts themselves, and so does the sweep.
        delete from celery_journal.chord_lease where group_id = chord;
        return 'unknown';
    end if;
    if ended then
        delete from celery_journal.chord_lease where group_id = chord;
        return 'ended';
    end if;
    if expected is null or (parts > 0 and tally < expected) then
        return 'waiting';
    end if;

    select count(*) into tally from celery_journal.chord_part_row p where p.group_id = chord and p.part_position > after_forgotten;
    if tally < expected then
        update celery_journal.chord_lease set returned = tally where group_id = chord;
        return 'waiting';
    end if;

    select l.claimed_until, l.claimed_by into claimed_before, claimed_by_whom from celery_journal.chord_lease l where l.group_id = chord;
    if claimed_by_whom = claimant then
        return 'claimed';  -- asked again, because the answer was lost
    end if;
    if claimed_before >= clock_timestamp() and claimed_before <= clock_timestamp() + interval '1 day' then
        return 'taken';
    end if;
    update celery_journal.chord_lease
       set claimed_by = claimant, login = session_user, claimed_until = clock_timestamp() + least(lease, interval '1 day')
     where group_id = chord;
    return case when claimed_before is null then 'claimed' else 'taken over' end;
end $$;

-- Removes the lease of a chord that has ended.
create or replace function celery_journal.release_chord(chord text) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    delete from celery_journal.chord_lease where group_id = chord;
$$;

-- The chords whose parts are all there, whose body is not sent, and which nobody has claimed: a crash may leave one so.
-- Those that nobody has tried yet come first, so that many that cannot be sent do not keep the others waiting.
create or replace function celery_journal.open_chords(at_most integer default 100) returns setof text
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select c.group_id
      from celery_journal.chord_counter_row c
           left join celery_journal.chord_lease l on l.group_id = c.group_id
     where c.ended_rank < 0
       and c.started_rank >= 0
       and c.size is not null
       and coalesce(l.claimed_until, '-infinity') not between clock_timestamp() and clock_timestamp() + interval '1 day'
       and c.size::bigint + cardinality(c.added) <= (select count(*) from celery_journal.chord_part_row p
                                                      where p.group_id = c.group_id and p.part_position > coalesce(c.forgotten_position, 0))
     order by l.claimed_until nulls first, c.date_created
     limit at_most
$$;

-- Says whether the sweep is the caller's: one worker of all sweeps, once in `pause`, and any other takes over when that one is
-- gone. Its lease is the one of the empty id, which no chord has, and lasts an hour at most, whatever is asked for.
create or replace function celery_journal.begin_sweep(claimant text, pause interval) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with swept as (
        insert into celery_journal.chord_lease as l (group_id, claimed_by, login, claimed_until)
        values ('', claimant, session_user, clock_timestamp() + least(pause, interval '1 hour'))
        on conflict (group_id) do update set claimed_by = excluded.claimed_by, login = excluded.login, claimed_until = excluded.claimed_until
         where l.claimed_until < clock_timestamp() or l.claimed_until > clock_timestamp() + interval '1 hour'
        returning 1)
    select exists (select from swept)
$$;

-- The same for the search for what is lost, whose lease is under an id that no chord has either.
create or replace function celery_journal.begin_lost_sweep(claimant text, pause interval) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with swept as (
        insert into celery_journal.chord_lease as l (group_id, claimed_by, login, claimed_until)
        values (chr(1) || 'lost', claimant, session_user, clock_timestamp() + least(pause, interval '1 hour'))
        on conflict (group_id) do update set claimed_by = excluded.claimed_by, login = excluded.login, claimed_until = excluded.claimed_until
         where l.claimed_until < clock_timestamp() or l.claimed_until > clock_timestamp() + interval '1 hour'
        returning 1)
    select exists (select from swept)
$$;

-- From when on the log may tell of the chords that are open: a day before the oldest.
create or replace function celery_journal.chords_open_since() returns timestamptz
language sql stable set search_path = pg_catalog, pg_temp as $$
    select greatest(coalesce(min(c.date_created), clock_timestamp()) - interval '1 day', '1970-01-01 00:00+00')
      from celery_journal.chord_counter_row c
     where c.ended_rank < 0
$$;

-- The members of open chords whose part never came though they ended long enough ago, or will never run because a task before
-- them in their chain did not succeed; and whose state tells (`told_by`). Such a part is lost between the result and the part, or
-- was never owed by somebody who knows of the chord. A revoke that was only asked for is an end as well: Celery has it that REVOKED
-- is one for whoever waits for the member, and every worker that heard of it, or that starts later and reads it, will discard the message,
-- whenever that comes. A start, or a retry that waits, takes the place of such a REVOKED.
-- The place of a member is the one in its own events; that in a header without groups where none is known.
-- Chords take their turn by chance, `at_most` a call. Tasks are looked up one by one: the planner, who cannot know how many
-- there are, would rather read them all, and compile for longer than the query runs.
-- Python nests no header deeper than 1,000, and no chain of parents is longer there; one that somebody made otherwise is not followed.
-- The log is looked into in a statement that is planned for the open chords: it locks no partition before them.
create or replace function celery_journal.stragglers(silent_for interval, at_most integer default 1000)
returns table (group_id text, task_id text, group_index integer, told_by text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    since timestamptz := celery_journal.chords_open_since();
begin
    return query execute $query$
    with recursive chord as materialized (
        select c.group_id, coalesce(c.forgotten_position, 0) as after_forgotten, celery_journal.json_or_null(c.sub_tasks) as header
          from (select o.* from celery_journal.chord_counter_row o
                 where o.ended_rank < 0 and least(o.date_created, o.recorded_at) < clock_timestamp() - $1 and o.sub_tasks is not null
                 order by random()
                 limit $2) c),
    -- A node is [[id, parent node], null] for a task, [[id, parent node], [nodes]] for a group.
    node as (
        select c.group_id, c.after_forgotten, n.node, n.node #> '{0,1}' as parent, 1 as depth, n.place
          from chord c, jsonb_array_elements(case jsonb_typeof(c.header) when 'array' then c.header else '[]' end)
                        with ordinality as n (node, place)
        union all
        select g.group_id, g.after_forgotten, n.node, coalesce(nullif(n.node #> '{0,1}', 'null'), g.parent), g.depth + 1, n.place
          from node g, jsonb_array_elements(g.node -> 1) with ordinality as n (node, place)
         where jsonb_typeof(g.node -> 1) = 'array' and g.depth < 1000),
    member as materialized (
        select m.*
          from (select n.group_id, n.after_forgotten, n.node #>> '{0,0}' as task_id, n.node, n.parent,
                       case when max(n.depth) over (partition by n.group_id) = 1 then n.place::integer - 1 end as place
                  from node n) m
         where jsonb_typeof(m.node -> 1) is distinct from 'array'
           and not exists (select from celery_journal.chord_part_row p
                            where p.group_id = m.group_id and p.task_id = m.task_id and p.part_position > m.after_forgotten)),
    line as (
        select m.group_id, m.task_id, m.place, m.task_id as ancestor, m.parent, 0 as distance
          from member m
         union all
        select l.group_id, l.task_id, l.place, l.parent #>> '{0,0}', l.parent #> '{0,1}', l.distance + 1
          from line l
         where jsonb_typeof(l.parent) = 'array' and l.distance < 1000)
    select distinct on (l.group_id, l.task_id)
           l.group_id, l.task_id,
           coalesce((select e.group_index from celery_journal.event e
                      where e.stream = l.task_id and e.group_id = l.group_id and e.group_index >= 0
                        and e.event_id >= celery_journal.first_event_id($3)
                      order by e.position limit 1),
                    l.place),
           l.ancestor
      from line l
           join celery_journal.task_result_row t on t.task_id = l.ancestor
     where least(t.date_done, t.recorded_at) < clock_timestamp() - $1
       and t.status in ('SUCCESS', 'FAILURE', 'REVOKED')
       and (t.status <> 'SUCCESS' or l.distance = 0)
     order by l.group_id, l.task_id, l.distance
    $query$ using silent_for, at_most, since;
end $$;

-- The open chords whose lease, if somebody has claimed them, ran out that long ago: either those whose parts are all there, and of
-- which nothing was heard for as long, or those that wait for some, with their headers. The log is looked into as for the stragglers.
create or replace function celery_journal.silent_chords(silent_for interval, complete boolean, at_most integer default 1000)
returns table (group_id text, body_task_id text, size integer, done integer, claimed_by text, heard_at timestamptz, after_forgotten bigint, header jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
    since timestamptz := celery_journal.chords_open_since();
begin
    return query execute $query$
    select c.group_id, c.asked_body_task_id, c.size, c.done, l.claimed_by, h.heard_at, c.after_forgotten,
           case when not $2 then celery_journal.json_or_null(c.sub_tasks) end
      from (select o.group_id, o.asked_body_task_id, o.sub_tasks, o.date_created,
                   case when o.size is not null then least(o.size::bigint + cardinality(o.added), 2147483647)::integer end as size,
                   coalesce(o.forgotten_position, 0) as after_forgotten,
                   (select count(*) from celery_journal.chord_part_row p
                     where p.group_id = o.group_id and p.part_position > coalesce(o.forgotten_position, 0))::integer as done
              from celery_journal.chord_counter_row o
             where o.ended_rank < 0 and o.started_rank >= 0) c
           left join celery_journal.chord_lease l on l.group_id = c.group_id
           cross join lateral (
               select max(e.recorded_at) as heard_at from celery_journal.event e where $2 and e.stream = c.group_id
                  and e.event_id >= celery_journal.first_event_id($4)) h
     where case when $2 then c.size <= c.done else c.sub_tasks is not null and (c.size > c.done or c.size is null) end
       and coalesce(l.claimed_until, '-infinity') < clock_timestamp() - $1
       and (not $2 or h.heard_at < clock_timestamp() - $1)
     order by c.date_created
     limit $3
    $query$ using silent_for, complete, at_most, since;
end $$;

-- The open chord whose result is that of the task.
create or replace function celery_journal.chord_of_body(body text) returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select c.group_id from celery_journal.chord_counter_row c where c.asked_body_task_id = body and c.ended_rank < 0 limit 1
$$;

-- Groups that were given a size and never became chords, before that moment: Celery does so where the body of a chord is a group.
create or replace function celery_journal.chords_never_started(before timestamptz) returns setof text
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select c.group_id
      from celery_journal.chord_counter_row c
     where c.started_rank < 0 and c.ended_rank < 0
       and case when c.date_created not between c.recorded_at - interval '10 years' and c.recorded_at + interval '1 day'
                then c.recorded_at else c.date_created end < before
       and not exists (select from celery_journal.chord_part_row p
                        where p.group_id = c.group_id and p.part_position > coalesce(c.forgotten_position, 0))
$$;

-- Removes what forgotten rows leave behind, and returns how many rows that were. Two steps, a call apart: a row is marked
-- with a transaction id that is newer than any whose position can stand before the forgetting, and removed when all of
-- those have ended. Rows that a writer holds are left for the next time. A forgotten task has no runs: they went when it was forgotten.
create or replace function celery_journal.purge_forgotten() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    horizon xid8 := celery_journal.horizon();
    total   bigint := 0;
begin
    with old as (select r.task_id as id, r.forgotten_position as position from celery_journal.task_result_row r
                  where r.forgotten_before <= horizon order by r.task_id for update skip locked),
         gone as (delete from celery_journal.task_result_row r using old where r.task_id = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.task_result_row r set forgotten_position = null, forgotten_before = null
                    from old where r.task_id = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.task_id as id from celery_journal.task_result_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.task_id for update skip locked)
    update celery_journal.task_result_row r set forgotten_before = celery_journal.this_transaction() from young where r.task_id = young.id;

    with old as (select r.group_id as id, r.forgotten_position as position from celery_journal.group_result_row r
                  where r.forgotten_before <= horizon order by r.group_id for update skip locked),
         gone as (delete from celery_journal.group_result_row r using old where r.group_id = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.group_result_row r set forgotten_position = null, forgotten_before = null
                    from old where r.group_id = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.group_id as id from celery_journal.group_result_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.group_id for update skip locked)
    update celery_journal.group_result_row r set forgotten_before = celery_journal.this_transaction() from young where r.group_id = young.id;

    with old as (select r.group_id as id, r.forgotten_position as position from celery_journal.chord_counter_row r
                  where r.forgotten_before <= horizon order by r.group_id for update skip locked),
         parts as (delete from celery_journal.chord_part_row p using old
                    where p.group_id = old.id and p.part_position <= old.position),
         gone as (delete from celery_journal.chord_counter_row r using old where r.group_id = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.chord_counter_row r set forgotten_position = null, forgotten_before = null
                    from old where r.group_id = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.group_id as id from celery_journal.chord_counter_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.group_id for update skip locked)
    update celery_journal.chord_counter_row r set forgotten_before = celery_journal.this_transaction() from young where r.group_id = young.id;

    with old as (select r.worker as id, r.forgotten_position as position from celery_journal.worker_row r
                  where r.forgotten_before <= horizon order by r.worker for update skip locked),
         gone as (delete from celery_journal.worker_row r using old where r.worker = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.worker_row r set forgotten_position = null, forgotten_before = null
                    from old where r.worker = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.worker as id from celery_journal.worker_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.worker for update skip locked)
    update celery_journal.worker_row r set forgotten_before = celery_journal.this_transaction() from young where r.worker = young.id;
    return total;
end $$;
