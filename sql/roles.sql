-- The roles of a journal. Run it as a superuser or as the owner of the database, after `celery-journal migrate`; it may be
-- run again. Give people and workers a role by membership: grant celery_journal_writer to app_user;
--
--   celery_journal_owner   owns the schema; no login. Migrations and rebuilds: set role celery_journal_owner.
--   celery_journal_writer  the result backend: INSERT and SELECT on the log, no more. The views follow by trigger.
--   celery_journal_reader  SELECT, for people, dashboards and audits.

do $$
declare
    role_name text;
    object    record;
begin
    foreach role_name in array array['celery_journal_owner', 'celery_journal_writer', 'celery_journal_reader'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = role_name) then
            execute format('create role %I nologin', role_name);
        end if;
    end loop;

    alter schema celery_journal owner to celery_journal_owner;
    for object in
        select c.oid::regclass as name, c.relkind as kind
          from pg_catalog.pg_class c
         where c.relnamespace = 'celery_journal'::regnamespace and c.relkind in ('r', 'p', 'v')
    loop
        execute format('alter %s %s owner to celery_journal_owner', case object.kind when 'v' then 'view' else 'table' end, object.name);
    end loop;
    for object in
        select p.oid::regprocedure as name
          from pg_catalog.pg_proc p
         where p.pronamespace = 'celery_journal'::regnamespace
    loop
        execute format('alter function %s owner to celery_journal_owner', object.name);
    end loop;
end $$;

revoke all on schema celery_journal from public;
revoke all on all functions in schema celery_journal from public;

grant usage on schema celery_journal to celery_journal_writer, celery_journal_reader;
grant select on celery_journal.event, celery_journal.task_result, celery_journal.group_result, celery_journal.chord_counter,
                celery_journal.chord_part, celery_journal.task_attempt, celery_journal.worker, celery_journal.subscription, celery_journal.migration
   to celery_journal_writer, celery_journal_reader;
grant insert on celery_journal.event to celery_journal_writer;
grant insert, update on celery_journal.subscription to celery_journal_writer;
grant usage on sequence celery_journal.event_position to celery_journal_writer;
grant execute on function celery_journal.claim_chord, celery_journal.release_chord, celery_journal.create_partitions,
                          celery_journal.create_past_partitions,
                          celery_journal.purge_forgotten, celery_journal.chords_never_started, celery_journal.open_chords,
                          celery_journal.begin_sweep, celery_journal.begin_lost_sweep, celery_journal.stragglers
   to celery_journal_writer;
grant execute on function celery_journal.json_or_null, celery_journal.marked, celery_journal.first_event_id, celery_journal.silent_chords,
                          celery_journal.chord_of_body
   to celery_journal_writer, celery_journal_reader;
