-- rebuild: group_result, chord_counter, worker
-- What a clock that was set back, or that cannot be true, must not decide.

-- By the clock of the database, the last of what was told.
alter table celery_journal.group_result_row add column recorded_at timestamptz;
alter table celery_journal.chord_counter_row add column recorded_at timestamptz;

-- By the clock of the worker, the first of what was told, as far as it is known.
alter table celery_journal.worker_row add column first_at timestamptz;
update celery_journal.worker_row set first_at = '-infinity' where date_created is not null;

-- Set where an emitter's clock went back: the registers of a stream then go by its own sequence, and not by `occurred_at`.
alter table celery_journal.event
    add column ordered_at timestamptz;

-- They take one more column; what has other parameters is another function.
do $$
declare
    old regprocedure;
begin
    for old in
        select p.oid
          from pg_catalog.pg_proc p
               join pg_catalog.pg_namespace n on n.oid = p.pronamespace
         where n.nspname = 'celery_journal' and p.proname in ('append_events', 'restore_events')
    loop
        execute format('drop function %s', old);
    end loop;
end $$;
