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
begin
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
        {clear};
        {refold};{parts anew}
    end if;
    forgotten_ids := '{}';

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
lifted as materialized ({lift part}), folded as ({combine part})

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

-- name: merge many
with lifted as materialized ({lift}), folded as ({combine})
{merge}

-- name: merge many and ask
-- Which of the rows were ever forgotten is known of each that is merged, where nothing else is to be looked at.
with lifted as materialized ({lift}), folded as ({combine}), merged as ({merge}
returning t.{key}, t.forgotten_position)
select coalesce(array_agg(m.{key} order by m.{key}), '{}') from merged m where m.forgotten_position is not null

-- name: since forgotten
(select e.*
   from celery_journal.event e
        join {table} t on t.{key} = e.stream and e.position > t.forgotten_position
  where e.stream = any({forgotten ids}))

-- name: refold
with new_event as {since forgotten}, lifted as materialized ({lift}), folded as ({combine})
{merge}

-- name: lock forgotten
select {key}
  from {table}
 where forgotten_position is not null and {key} > %(after)s
 order by {key}
 limit %(limit)s
   for update
