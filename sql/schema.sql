-- What the migrations ask the database.

-- name: database
select datname from pg_catalog.pg_database where datname = %(name)s

-- name: lock
-- Migrators wait for each other; the lock ends with the transaction.
select pg_advisory_xact_lock(hashtextextended('celery_journal.migrate', 0))

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

-- name: has events
select exists (select from celery_journal.event)

-- name: create partitions
select celery_journal.create_partitions()

-- name: create past partitions
select celery_journal.create_past_partitions(%(event_ids)s)

-- name: backend
-- A pooler answers with the process id of whatever server connection it has lent, and not with the one it gave us.
select pg_backend_pid()
