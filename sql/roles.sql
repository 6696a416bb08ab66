-- The roles of one journal. Run it as a superuser, or as a login that may create roles and owns the schema, after
-- `celery-journal migrate`; it may be run again, and should be after each. Roles belong to the whole server, so their names say the schema and the database:
--
--   <schema>_owner_<database>     owns the schema; no login. Migrations and rebuilds: set role.
--   <schema>_writer_<database>    the result backend: INSERT and SELECT on the log, no more. The views follow by trigger.
--   <schema>_reader_<database>    SELECT, for people and dashboards.
--   <schema>_auditor_<database>   the same, and on what the views are made of: verifies, and subscribes under checkpoints of its own.
--   <schema>_importer_<database>  what a writer may, and record the past: `celery-journal import`.
--
-- Of a database whose name is too long, the last part is a hash. Give people and workers a role by membership:
-- grant <schema>_writer_<database> to app_user;

do $$
declare
    kinds     text[] := array['owner', 'writer', 'reader', 'auditor', 'importer'];
    kind      text;
    owner     text := celery_journal.role_name('owner');
    writer    text := celery_journal.role_name('writer');
    reader    text := celery_journal.role_name('reader');
    auditor   text := celery_journal.role_name('auditor');
    importer  text := celery_journal.role_name('importer');
    who       text := format('Of the schema %s in the database %s.', 'celery_journal', current_database());
    is_super  boolean := (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user);
    may_make  boolean;
    former    text := pg_get_userbyid((select n.nspowner from pg_catalog.pg_namespace n where n.nspname = 'celery_journal'));
    columns   text;
    object    record;
begin
    foreach kind in array kinds loop
        if not exists (select from pg_catalog.pg_roles r where r.rolname = celery_journal.role_name(kind)) then
            execute format('create role %I nologin', celery_journal.role_name(kind));
            execute format('comment on role %I is %L', celery_journal.role_name(kind), who);
        elsif (select shobj_description(r.oid, 'pg_authid') from pg_catalog.pg_roles r
                where r.rolname = celery_journal.role_name(kind)) is distinct from who then
            raise exception 'the role % is not of this journal; rename it, and run this again', celery_journal.role_name(kind);
        end if;
    end loop;

    -- Who gives away what is theirs has to belong to whom it goes to, and that one has to be allowed to have it.
    may_make := has_database_privilege(owner, current_database(), 'create');
    if not is_super and former <> owner then
        execute format('grant %I to %I', owner, current_user);
        execute format('grant create on database %I to %I', current_database(), owner);
    end if;
    if former <> owner then
        execute format('alter schema celery_journal owner to %I', owner);
    end if;
    for object in
        select c.oid::regclass as name, case c.relkind when 'v' then 'view' else 'table' end as kind
          from pg_catalog.pg_class c
         where c.relnamespace = 'celery_journal'::regnamespace::oid and c.relkind in ('r', 'p', 'v')
           and pg_get_userbyid(c.relowner) <> owner
    loop
        execute format('alter %s %s owner to %I', object.kind, object.name, owner);
    end loop;
    for object in
        select p.oid::regprocedure as name
          from pg_catalog.pg_proc p
         where p.pronamespace = 'celery_journal'::regnamespace::oid and pg_get_userbyid(p.proowner) <> owner
    loop
        execute format('alter function %s owner to %I', object.name, owner);
    end loop;
    if not is_super and former <> owner and not may_make then
        execute format('revoke create on database %I from %I', current_database(), owner);
    end if;

    -- Until version 4 the roles were one set for all journals of a server.
    if former = 'celery_' || 'journal_owner' then
        foreach kind in array array['owner', 'writer', 'reader'] loop
            for object in
                select pg_get_userbyid(m.member) as member
                  from pg_catalog.pg_auth_members m
                 where pg_get_userbyid(m.roleid) = 'celery_' || 'journal_' || kind
            loop
                execute format('grant %I to %I', celery_journal.role_name(kind), object.member);
                raise notice '% has the role % now', object.member, celery_journal.role_name(kind);
            end loop;
            execute format('revoke all on all tables in schema celery_journal from %I', 'celery_' || 'journal_' || kind);
            execute format('revoke all on all sequences in schema celery_journal from %I', 'celery_' || 'journal_' || kind);
            execute format('revoke all on all functions in schema celery_journal from %I', 'celery_' || 'journal_' || kind);
            execute format('revoke all on schema celery_journal from %I', 'celery_' || 'journal_' || kind);
        end loop;
        raise notice 'the roles of earlier versions have no right here any more; when no other database needs them, drop them';
    end if;

    revoke all on schema celery_journal from public;
    revoke all on all functions in schema celery_journal from public;
    revoke all on all tables in schema celery_journal from public;
    revoke all on all sequences in schema celery_journal from public;
    execute format('grant usage on schema celery_journal to %I, %I, %I, %I', writer, reader, auditor, importer);
    execute format(
        'grant select on celery_journal.event, celery_journal.task_result, celery_journal.group_result, celery_journal.chord_counter,
                         celery_journal.chord_part, celery_journal.task_attempt, celery_journal.worker,
                         celery_journal.subscription, celery_journal.migration to %I, %I, %I, %I', writer, reader, auditor, importer);
    execute format('grant select on all tables in schema celery_journal to %I', auditor);
    execute format('grant insert, update on celery_journal.subscription to %I, %I, %I', writer, auditor, importer);

    -- All but those that only the database may give. Before version 5 the whole row was the writer's.
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
      into columns
      from pg_catalog.pg_attribute a
     where a.attrelid = 'celery_journal.event'::regclass::oid and a.attnum > 0 and not a.attisdropped
       and a.attname not in ('transaction', 'position', 'recorded_at', 'recorded_by');
    execute format('revoke insert on celery_journal.event from %I, %I', writer, importer);
    execute format('grant insert (%s) on celery_journal.event to %I, %I', columns, writer, importer);
    execute format('grant usage on sequence celery_journal.event_position to %I, %I', writer, importer);
    execute format(
        'grant execute on function celery_journal.append_events, celery_journal.claim_chord, celery_journal.release_chord,
                                   celery_journal.create_partitions, celery_journal.create_past_partitions,
                                   celery_journal.purge_forgotten, celery_journal.chords_never_started, celery_journal.open_chords,
                                   celery_journal.begin_sweep, celery_journal.begin_lost_sweep, celery_journal.stragglers
            to %I, %I', writer, importer);
    execute format('grant execute on function celery_journal.restore_events to %I', importer);
    execute format(
        'grant execute on function celery_journal.json_or_null, celery_journal.marked, celery_journal.replayed,
                                   celery_journal.settled, celery_journal.first_event_id,
                                   celery_journal.silent_chords, celery_journal.chord_of_body, celery_journal.role_name,
                                   celery_journal.added_transactions, celery_journal.this_transaction, celery_journal.horizon,
                                   celery_journal.is_restored, celery_journal.begin_epoch, celery_journal.joined_sendings,
                                   celery_journal.started_of, celery_journal.asked_of
            to %I, %I, %I, %I', writer, reader, auditor, importer);
    -- Who may not grant it is only warned by PostgreSQL, and told here by what is missing then.
    execute format('grant temporary on database %I to %I', current_database(), auditor);
    if not has_database_privilege(auditor, current_database(), 'temporary') then
        raise warning 'auditors cannot verify, because they may not make temporary tables; the owner of the database shall run: '
                      'grant temporary on database % to %', quote_ident(current_database()), quote_ident(auditor);
    end if;
end $$;
