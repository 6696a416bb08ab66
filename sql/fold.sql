-- name: trigger
-- Folds what one statement has appended into the views, in that statement, so that a reader always sees its own write.
create or replace function celery_journal.fold() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $fold$
declare
    events        integer;
    tasks         boolean;
    groups        boolean;
    parts         boolean;
    chords        boolean;
    forgotten_ids text[];
begin
    select count(*),
           bool_or(e.kind like 'task-%'),
           bool_or(e.kind like 'group-%'),
           bool_or(e.kind = 'chord-part-returned'),
           bool_or(e.kind = 'group-expired' or e.kind like 'chord-%' and e.kind <> 'chord-part-returned')
      into events, tasks, groups, parts, chords
      from new_event e;
/* steps */
    return null;
end $fold$

-- name: attach
create or replace trigger fold
after insert on celery_journal.event referencing new table as new_event
for each statement execute function celery_journal.fold()

-- name: step
-- For one event there is nothing to combine. A stream that was ever forgotten is folded anew from the log, because what
-- an earlier fact had hidden may stand after the forgetting; its row is locked by then, and stays so.
    if {when} then
        if events = 1 then
            with lifted as (
{lift}
            ), folded as (select * from lifted), merged as (
{merge}
            ) select array_agg(id) filter (where forgotten is not null) into forgotten_ids from merged;
        else
            with lifted as materialized (
{lift}
            ), folded as (
{combine}
            ), merged as (
{merge}
            ) select array_agg(id) filter (where forgotten is not null) into forgotten_ids from merged;
        end if;
        if forgotten_ids is not null then
            {forget};
            with new_event as (select * from celery_journal.event where stream = any(forgotten_ids)),
            lifted as materialized (
{lift}
            ), folded as (
{combine}
            ), merged as (
{merge}
            ) select null into forgotten_ids;
        end if;
    end if;

-- name: parts step
    if parts then
{parts};
    end if;

-- name: history
-- The same fold over a stretch of the log.
with new_event as (select * from celery_journal.event {of_the_log}),
lifted as materialized (
{lift}
), folded as (
{combine}
), merged as (
{merge}
) select count(*) from merged

-- name: history of parts
with new_event as (select * from celery_journal.event {of_the_log})
{parts}

-- name: refold
-- Whatever was ever forgotten is folded anew from its whole stream: chunk by chunk it could not be known what hides what.
with forgotten as (delete from {table} where forgotten_position is not null returning {key} as id),
new_event as (select e.* from celery_journal.event e join forgotten f on e.stream = f.id),
lifted as materialized (
{lift}
), folded as (
{combine}
), merged as (
{merge}
) select count(*) from merged
