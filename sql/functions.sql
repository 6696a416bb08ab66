-- Functions and views are replaced as a whole by every migration, so there is no history of them to migrate through.

-- Refuses every change of the log, through the parent and through each partition. The maintenance path is the
-- owner's: `set local celery_journal.maintenance = 'on'` in the same transaction.
create or replace function celery_journal.refuse_change() returns trigger
language plpgsql as $$
begin
    if current_setting('celery_journal.maintenance', true) = 'on'
       and pg_has_role(current_user, (select c.relowner from pg_catalog.pg_class c where c.oid = tg_relid), 'usage')
    then
        return null;
    end if;
    raise exception 'the event log is append-only: % of % is refused', lower(tg_op), tg_table_name
          using errcode = 'restrict_violation',
                hint = 'record another event instead; retention and erasure have functions of their own';
end $$;

create or replace trigger refuse_change
before update or delete or truncate on celery_journal.event
for each statement execute function celery_journal.refuse_change();

create or replace trigger refuse_change
before update or delete or truncate on celery_journal.event_default
for each statement execute function celery_journal.refuse_change();

-- The smallest event_id of a moment: 48 bits of milliseconds (UUID version 8, RFC 9562), the rest zero.
create or replace function celery_journal.first_event_id(moment timestamptz) returns uuid
language sql immutable strict parallel safe
return (lpad(to_hex(floor(extract(epoch from moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

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
    execute format(
        'alter table celery_journal.event attach partition celery_journal.%I for values from (%L) to (%L)',
        partition_name,
        celery_journal.first_event_id(first_day),
        celery_journal.first_event_id(first_day + interval '7 days'));
    execute format(
        'create trigger refuse_change before update or delete or truncate on celery_journal.%I '
        'for each statement execute function celery_journal.refuse_change()', partition_name);
    return partition_name;
exception when check_violation or lock_not_available then
    return null;  -- the default partition takes this week's events
end $$;

-- Creates the partitions of this week and of the coming ones, and returns the names of the new ones.
create or replace function celery_journal.create_partitions(weeks_ahead integer default 8) returns setof text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
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

-- JSON for people and for SQL; null when the bytes are not JSON that PostgreSQL can hold. Not for parallel plans: before
-- PostgreSQL 16 they cannot catch an exception.
create or replace function celery_journal.json_or_null(encoded bytea) returns jsonb
language plpgsql immutable strict parallel unsafe as $$
begin
    return convert_from(encoded, 'UTF8')::jsonb;
exception when others then
    return null;
end $$;

-- The tasks of which people have said last that they are so: `resolved` or `hidden`.
create or replace function celery_journal.marked(mark text) returns setof text
language sql stable rows 100 as $$
    select e.stream
      from (select distinct on (e.stream) e.stream, celery_journal.json_or_null(e.meta) ->> mark as told
              from celery_journal.event e
             where e.kind = 'operator-acted' and e.meta is not null and celery_journal.json_or_null(e.meta) ? mark
             order by e.stream, e.position desc) e
     where e.told = 'true'
$$;

-- Counts a returned part and says who sends the body: `claimed` (the caller, within the lease), `taken over` (the caller,
-- from one whose lease ran out and who may have sent it), `waiting`, `taken` (another holds the lease), `ended` (sent or
-- failed before) or `unknown` (no such chord).
-- Statement by statement, because each must see what was committed while the one before it waited for the lease's row.
create or replace function celery_journal.claim_chord(chord text, parts integer, claimant text, lease interval) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    tally           integer;
    expected        integer;
    ended           boolean;
    after_forgotten bigint;
    claimed_before  timestamptz;
    claimed_by_whom text;
begin
    insert into celery_journal.chord_lease as l (group_id, returned) values (chord, parts)
    on conflict (group_id) do update set returned = l.returned + excluded.returned
    returning l.returned into tally;

    select c.size + cardinality(c.added), c.ended_rank >= 0, coalesce(c.forgotten_position, 0)
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
    if claimed_before >= clock_timestamp() then
        return 'taken';
    end if;
    update celery_journal.chord_lease
       set claimed_by = claimant, claimed_until = clock_timestamp() + lease
     where group_id = chord;
    return case when claimed_before is null then 'claimed' else 'taken over' end;
end $$;

-- Removes the lease of a chord that has ended.
create or replace function celery_journal.release_chord(chord text) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    delete from celery_journal.chord_lease where group_id = chord;
$$;

-- The chords whose parts are all there, whose body is not sent, and which nobody has claimed: a crash may leave one so.
create or replace function celery_journal.open_chords(at_most integer default 100) returns setof text
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select c.group_id
      from celery_journal.chord_counter_row c
     where c.ended_rank < 0
       and c.started_rank >= 0
       and c.size is not null
       and not exists (select from celery_journal.chord_lease l
                        where l.group_id = c.group_id and l.claimed_until > clock_timestamp())
       and c.size + cardinality(c.added) <= (select count(*) from celery_journal.chord_part_row p
                                              where p.group_id = c.group_id and p.part_position > coalesce(c.forgotten_position, 0))
     order by c.date_created
     limit at_most
$$;

-- Says whether the sweep is the caller's: one worker of all sweeps, once in `pause`, and any other takes over when that one is
-- gone. Its lease is the one of the empty id, which no chord has.
create or replace function celery_journal.begin_sweep(claimant text, pause interval) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with swept as (
        insert into celery_journal.chord_lease as l (group_id, claimed_by, claimed_until)
        values ('', claimant, clock_timestamp() + pause)
        on conflict (group_id) do update set claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until
         where l.claimed_until < clock_timestamp()
        returning 1)
    select exists (select from swept)
$$;

-- The same for the search for what is lost, whose lease is under an id that no chord has either.
create or replace function celery_journal.begin_lost_sweep(claimant text, pause interval) returns boolean
language sql security definer set search_path = pg_catalog, pg_temp as $$
    with swept as (
        insert into celery_journal.chord_lease as l (group_id, claimed_by, claimed_until)
        values (chr(1) || 'lost', claimant, clock_timestamp() + pause)
        on conflict (group_id) do update set claimed_by = excluded.claimed_by, claimed_until = excluded.claimed_until
         where l.claimed_until < clock_timestamp()
        returning 1)
    select exists (select from swept)
$$;

-- The members of open chords whose part never came though they ended long enough ago, or will never run because a task before
-- them in their chain did not succeed; and whose state tells (`told_by`). Such a part is lost between the result and the part, or
-- was never owed by somebody who knows of the chord. A revoke that was only asked for (class 3 of the outcomes) is no end: the
-- task may run all the same, and whoever gets its message returns its part.
-- The place of a member is the one in its own events; that in a header without groups where none is known.
-- Chords take their turn by chance, `at_most` a call. Tasks are looked up one by one: the planner, who cannot know how many
-- there are, would rather read them all, and compile for longer than the query runs.
create or replace function celery_journal.stragglers(silent_for interval, at_most integer default 1000)
returns table (group_id text, task_id text, group_index integer, told_by text)
language sql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
    with recursive chord as materialized (
        select c.group_id, coalesce(c.forgotten_position, 0) as after_forgotten, celery_journal.json_or_null(c.sub_tasks) as header
          from (select o.* from celery_journal.chord_counter_row o
                 where o.ended_rank < 0 and o.date_created < clock_timestamp() - silent_for and o.sub_tasks is not null
                 order by random()
                 limit at_most) c),
    -- A node is [[id, parent node], null] for a task, [[id, parent node], [nodes]] for a group.
    node as (
        select c.group_id, c.after_forgotten, n.node, n.node #> '{0,1}' as parent, 1 as depth, n.place
          from chord c, jsonb_array_elements(case jsonb_typeof(c.header) when 'array' then c.header else '[]' end)
                        with ordinality as n (node, place)
        union all
        select g.group_id, g.after_forgotten, n.node, coalesce(nullif(n.node #> '{0,1}', 'null'), g.parent), g.depth + 1, n.place
          from node g, jsonb_array_elements(g.node -> 1) with ordinality as n (node, place)
         where jsonb_typeof(g.node -> 1) = 'array'),
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
         where jsonb_typeof(l.parent) = 'array')
    select distinct on (l.group_id, l.task_id)
           l.group_id, l.task_id,
           coalesce((select e.group_index from celery_journal.event e
                      where e.stream = l.task_id and e.group_id = l.group_id and e.group_index is not null
                      order by e.position limit 1),
                    l.place),
           l.ancestor
      from line l
           join celery_journal.task_result_row t on t.task_id = l.ancestor
     where t.date_done < clock_timestamp() - silent_for
       and t.status in ('SUCCESS', 'FAILURE', 'REVOKED')
       and (t.status <> 'REVOKED' or t.outcome_rank % 16 <> 3)
       and (t.status <> 'SUCCESS' or l.distance = 0)
     order by l.group_id, l.task_id, l.distance
$$;

-- The open chords whose lease, if somebody has claimed them, ran out that long ago: either those whose parts are all there, and of
-- which nothing was heard for as long, or those that wait for some, with their headers.
create or replace function celery_journal.silent_chords(silent_for interval, complete boolean, at_most integer default 1000)
returns table (group_id text, body_task_id text, size integer, done integer, claimed_by text, heard_at timestamptz, after_forgotten bigint, header jsonb)
language sql security definer set search_path = pg_catalog, pg_temp set jit = off as $$
    select c.group_id, c.asked_body_task_id, c.size, c.done, l.claimed_by, h.heard_at, c.after_forgotten,
           case when not complete then celery_journal.json_or_null(c.sub_tasks) end
      from (select o.group_id, o.asked_body_task_id, o.sub_tasks, o.date_created, o.size + cardinality(o.added) as size,
                   coalesce(o.forgotten_position, 0) as after_forgotten,
                   (select count(*) from celery_journal.chord_part_row p
                     where p.group_id = o.group_id and p.part_position > coalesce(o.forgotten_position, 0))::integer as done
              from celery_journal.chord_counter_row o
             where o.ended_rank < 0 and o.started_rank >= 0) c
           left join celery_journal.chord_lease l on l.group_id = c.group_id
           cross join lateral (
               select max(e.recorded_at) as heard_at from celery_journal.event e where complete and e.stream = c.group_id) h
     where case when complete then c.size <= c.done else c.sub_tasks is not null and (c.size > c.done or c.size is null) end
       and coalesce(l.claimed_until, '-infinity') < clock_timestamp() - silent_for
       and (not complete or h.heard_at < clock_timestamp() - silent_for)
     order by c.date_created
     limit at_most
$$;

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
     where c.started_rank < 0 and c.ended_rank < 0 and c.date_created < before
       and not exists (select from celery_journal.chord_part_row p
                        where p.group_id = c.group_id and p.part_position > coalesce(c.forgotten_position, 0))
$$;

-- Removes what forgotten rows leave behind, and returns how many rows that were. Two steps, a call apart: a row is marked
-- with a transaction id that is newer than any whose position can stand before the forgetting, and removed when all of
-- those have ended. Rows that a writer holds are left for the next time. A forgotten task has no runs: they went when it was forgotten.
create or replace function celery_journal.purge_forgotten() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
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
    update celery_journal.task_result_row r set forgotten_before = pg_current_xact_id() from young where r.task_id = young.id;

    with old as (select r.group_id as id, r.forgotten_position as position from celery_journal.group_result_row r
                  where r.forgotten_before <= horizon order by r.group_id for update skip locked),
         gone as (delete from celery_journal.group_result_row r using old where r.group_id = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.group_result_row r set forgotten_position = null, forgotten_before = null
                    from old where r.group_id = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.group_id as id from celery_journal.group_result_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.group_id for update skip locked)
    update celery_journal.group_result_row r set forgotten_before = pg_current_xact_id() from young where r.group_id = young.id;

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
    update celery_journal.chord_counter_row r set forgotten_before = pg_current_xact_id() from young where r.group_id = young.id;

    with old as (select r.worker as id, r.forgotten_position as position from celery_journal.worker_row r
                  where r.forgotten_before <= horizon order by r.worker for update skip locked),
         gone as (delete from celery_journal.worker_row r using old where r.worker = old.id and r.date_created is null returning 1),
         kept as (update celery_journal.worker_row r set forgotten_position = null, forgotten_before = null
                    from old where r.worker = old.id and r.date_created is not null)
    select total + count(*) into total from gone;
    with young as (select r.worker as id from celery_journal.worker_row r
                    where r.forgotten_position is not null and r.forgotten_before is null
                    order by r.worker for update skip locked)
    update celery_journal.worker_row r set forgotten_before = pg_current_xact_id() from young where r.worker = young.id;
    return total;
end $$;
