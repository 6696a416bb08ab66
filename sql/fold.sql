-- What is made of the texts of a projection: `lift` (what one event means to a row), `combine` (many lifted events to one
-- row a key) and `merge` (the join of that row with the one in the table).

-- name: trigger
-- Folds what one statement has appended into the views, in that statement, so that a reader always sees its own write.
create or replace function celery_journal.fold() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_nestloop = off  -- the planner cannot know how many rows a batch has, and a nested loop over a large one never ends
set jit = off              -- before PostgreSQL 18 a plan that has to use one all the same looks dear enough to compile
as $fold$
declare
    events        integer;
    kind          text;
    told          text[];  -- the kinds of a batch
    forgotten     bigint;
    forgotten_ids text[] := '{}';
    first_id      uuid;
    last_id       uuid;
begin
    if tg_table_schema <> 'celery_journal' or tg_table_name <> 'event' then
        raise exception 'this trigger is for the log alone, and not for %.%', tg_table_schema, tg_table_name
              using errcode = 'insufficient_privilege';
    end if;
    if not exists (select from celery_journal.epoch e, pg_control_system() c
                    where e.generation = c.system_identifier::text
                      and e.number = (select max(l.number) from celery_journal.epoch l)) then
        raise exception 'the log was restored from another cluster, and does not count on yet'
              using errcode = 'object_not_in_prerequisite_state', hint = 'run: celery-journal migrate';
    end if;
    select count(*), min(e.kind) into events, kind from new_event e;
    if events > 1 then
        told := array(select distinct e.kind from new_event e);
    end if;
{steps}
    return null;
end $fold$

-- name: attach
create or replace trigger fold
after insert on celery_journal.event referencing new table as new_event
for each statement execute function celery_journal.fold()

-- name: attach unless attached
-- Who writes is waited for, and waits until the end of the transaction, but where there is something to change.
do $$
begin
    if not exists (select from pg_catalog.pg_trigger t
                    where t.tgrelid = 'celery_journal.event'::regclass::oid and t.tgname = 'fold' and t.tgenabled = 'O'
                      and t.tgtype = 4 and t.tgnewtable = 'new_event' and t.tgfoid = to_regprocedure('celery_journal.fold()')::oid) then
        {attach};
    end if;
end $$

-- name: step
-- One event needs no order and no grouping. A stream that was ever forgotten is folded anew from the log, because what an
-- earlier fact had hidden may stand after the forgetting; its row is locked by then.
    if events = 1 and kind in ({kinds}) then
        {merge one} into forgotten;
        if forgotten is null then
{own part}            return null;
        end if;
        select array[e.stream] into forgotten_ids from new_event e;
    elsif told && array[{forgetting kinds}{part kinds}] or (events = 1 and kind in ({forgetting kinds})) then
        {forget};
        {merge many};
        forgotten_ids := array(select t.{key} from {table} t
                                where t.forgotten_position is not null
                                  and t.{key} in (select e.stream from new_event e
                                                   where e.kind in ({kinds}, {forgetting kinds}{part kinds}))
                                order by t.{key} for update);
{batch parts}    elsif told && array[{kinds}] then
        {merge many and ask} into forgotten_ids;
{own batch parts}    end if;
    if forgotten_ids <> '{}' then
        -- The rows are locked, and all that counts of them has been folded into them: they tell from when on it is. What is planned
        -- for this alone locks no other partitions.
        select case when {first of rows} is not null
                    then celery_journal.first_event_id(greatest({first of rows} - interval '1 day', '1970-01-01 00:00+00')) end,
               {last of rows} into first_id, last_id
          from {table} t where t.{key} = any(forgotten_ids);
        {clear};
        if first_id is not null then
            execute $refold${refold from}$refold$ using forgotten_ids, first_id, last_id;
        end if;{parts anew}
    end if;
    forgotten_ids := '{}';

-- name: first of rows
min(t.date_created)

-- name: last of rows
-- Most rows do not tell until when.
'ffffffff-ffff-ffff-ffff-ffffffffffff'

-- name: parts step
-- A part waits for its chord's row only where the chord was ever forgotten; then before it, as everyone does.
    if events = 1 and kind = 'chord-part-returned' then
        forgotten_ids := array(select t.{key} from {table} t
                                where t.forgotten_position is not null and t.{key} = (select e.stream from new_event e)
                                for update);
        {parts};
        if forgotten_ids = '{}' then
            return null;
        end if;
    end if;

-- name: own part
            {merge one part};

-- name: parts
-- Of a projection whose parts are told by the same events as its rows, in the same way; others have a text of their own.
with {folded parts}
{merge part}

-- name: folded parts
{lifted parts}, folded as ({combine part})

-- name: refold parts
with new_event as {since forgotten}, {folded parts}
{merge part}

-- name: batch parts
        {parts};

-- name: own batch parts
        {parts};

-- name: parts anew
        {clear parts};
        {refold parts};

-- name: own parts anew
        {clear parts};
        if first_id is not null then
            execute $refold${refold parts from}$refold$ using forgotten_ids, first_id, last_id;
        end if;

-- name: forget
-- Locks every row of a batch that forgets anything, in the order of the merge: two passes in two orders could deadlock.
insert into {table} as t ({key}, forgotten_position)
select e.stream, max(e.position) filter (where e.kind in ({forgetting kinds}))
  from new_event e
 where e.kind in ({kinds}, {forgetting kinds})
   and exists (select 1 from new_event f where f.kind in ({forgetting kinds}))
 group by e.stream
 order by e.stream
on conflict ({key}) do update set
       forgotten_position = greatest(t.forgotten_position, excluded.forgotten_position),
       forgotten_before = null
 where excluded.forgotten_position is not null

-- name: lifted
-- Numbered, because a place in the log is not always one event's: a log that was restored without its sequence has some twice.
lifted as materialized (select row_number() over () as number, l.* from ({lift}) l)

-- name: lifted parts
lifted as materialized (select row_number() over () as number, l.* from ({lift part}) l)

-- name: merge many
with {lifted}, folded as ({combine})
{merge}

-- name: merge many and ask
-- Which of the rows were ever forgotten is known of each that is merged, where nothing else is to be looked at.
with {lifted}, folded as ({combine}), merged as ({merge}
returning t.{key}, t.forgotten_position)
select coalesce(array_agg(m.{key} order by m.{key}), '{}') from merged m where m.forgotten_position is not null

-- name: since forgotten
(select e.*
   from celery_journal.event e
        join {table} t on t.{key} = e.stream and e.position > t.forgotten_position
  where e.stream = any({forgotten ids}))

-- name: since forgotten from
-- The same, in a statement of its own, between two ids.
(select e.*
   from celery_journal.event e
        join {table} t on t.{key} = e.stream and e.position > t.forgotten_position
  where e.stream = any($1) and e.event_id between $2 and $3)

-- name: refold
with new_event as {since forgotten}, {lifted}, folded as ({combine})
{merge}

-- name: lock forgotten
select {key}
  from {table}
 where forgotten_position is not null and {key} > %(after)s
 order by {key}
 limit %(limit)s
   for update
