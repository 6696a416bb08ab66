-- What celery-journal doctor looks at.

-- name: durability
select current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit

-- name: missing partitions
-- Of this week and the next, by UTC, as create_partitions() makes them.
select 'event_' || to_char(w.week at time zone 'UTC', 'YYYY_MM_DD') as name
  from generate_series(date_trunc('week', clock_timestamp(), 'UTC'), date_trunc('week', clock_timestamp(), 'UTC') + interval '7 days',
                       interval '7 days') as w (week)
 where to_regclass('celery_journal.event_' || to_char(w.week at time zone 'UTC', 'YYYY_MM_DD')) is null

-- name: default partition
select count(*) as events, min(e.occurred_at) as first, max(e.occurred_at) as last from celery_journal.event_default e

-- name: oldest transactions
-- Those that have written something, or may: the log is read in order only before the first of them. Of any database.
select a.pid, coalesce(nullif(a.application_name, ''), a.usename) as who, a.state, a.datname as database, clock_timestamp() - a.xact_start as age
  from pg_catalog.pg_stat_activity a
 where a.backend_xid is not null and a.pid <> pg_backend_pid()
 union all
select null, p.gid, 'prepared', p.database, clock_timestamp() - p.prepared
  from pg_catalog.pg_prepared_xacts p
 order by age desc nulls last
 limit 1

-- name: subscriptions
select s.name, clock_timestamp() - s.updated_at as age,
       (select count(*) from (select from celery_journal.event e
                               where (e.transaction, e.position) > (s.transaction, s.position)
                               limit %(most)s) n) as behind
  from celery_journal.subscription s
 order by s.name

-- name: broken indexes
select c.relname as name
  from pg_catalog.pg_index i
       join pg_catalog.pg_class c on c.oid = i.indexrelid
 where c.relnamespace = 'celery_journal'::regnamespace and not (i.indisvalid and i.indisready)
 order by c.relname

-- name: bloated tables
select s.relname as name, s.n_dead_tup as dead, s.n_live_tup as live,
       clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum) as vacuumed
  from pg_catalog.pg_stat_user_tables s
 where s.schemaname = 'celery_journal' and s.n_dead_tup > 10000 and s.n_dead_tup > s.n_live_tup
 order by s.n_dead_tup desc

-- name: future events
select count(*) filter (where e.lead > %(tolerance)s::interval) as events, count(*) as looked_at, max(e.lead) as lead
  from (select e.occurred_at - e.recorded_at as lead from celery_journal.event e order by e.transaction desc, e.position desc limit 10000) e

-- name: longest chord
-- Of those that the view still has, the open ones included.
select c.group_id, coalesce(c.date_done, clock_timestamp()) - c.date_created as longest
  from celery_journal.chord_counter c
 union all
select null, null
 order by longest desc nulls last
 limit 1

-- name: oldest open chord
select c.group_id, clock_timestamp() - c.date_created as age from celery_journal.chord_counter c where c.state = 'open'
 union all
select null, null
 order by age desc nulls last
 limit 1

-- name: longest wait
-- How long a worker had a message, at most, in the last week.
select max(coalesce(a.date_done, case when a.status in ('RECEIVED', 'STARTED') then a.recorded_at end) - a.date_received) as longest
  from celery_journal.task_attempt a
 where a.date_received > clock_timestamp() - interval '7 days'

-- name: payloads
select t.task_id, t.result, t.content_type, t.content_encoding, t.args, t.kwargs, t.args_content_type
  from celery_journal.task_result t
 where t.task_id > %(after)s
 order by t.task_id
 limit %(page)s
