-- What celery-journal doctor looks at.

-- name: durability
select current_setting('fsync') as fsync, current_setting('synchronous_commit') as synchronous_commit

-- name: missing partitions
-- Of this week and the next, by UTC, as create_partitions() makes them.
select 'event_' || to_char(w.week at time zone 'UTC', 'YYYY_MM_DD') as name
  from generate_series(date_trunc('week', clock_timestamp(), 'UTC'), date_trunc('week', clock_timestamp(), 'UTC') + interval '168 hours',
                       interval '168 hours') as w (week)
 where to_regclass('celery_journal.event_' || to_char(w.week at time zone 'UTC', 'YYYY_MM_DD')) is null

-- name: default partition
-- By week, as their ids have it; null for the weeks that get no partition. Those that are the nearest first.
select w.week as first_day, count(*) as events, min(w.occurred_at) as first, max(w.occurred_at) as last
  from (select e.occurred_at, case when d.week >= t.week - interval '17472 hours' and d.week <= t.week + interval '10248 hours' then d.week end as week
          from celery_journal.event_default e
               cross join (select date_trunc('week', clock_timestamp(), 'UTC') as week) t
               cross join lateral (
                   select date_trunc('week', to_timestamp(('x' || left(replace(e.event_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0), 'UTC') as week) d) w
 group by w.week
 order by abs(extract(epoch from w.week - clock_timestamp())) nulls last

-- name: move week
select celery_journal.move_week(%(first_day)s) as events

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

-- name: places
select celery_journal.is_restored(true) as behind

-- name: subscriptions
select s.name, clock_timestamp() - s.updated_at as age,
       (select count(*) from (select from celery_journal.event e
                               where (e.transaction, e.position) > (s.transaction, s.position)
                               limit %(most)s) n) as behind
  from celery_journal.subscription s
 order by s.name

-- name: waited in vain
-- Of a time, by name: tasks whose results are ignored, and that somebody has waited for all the same, with the last of them.
select t.task_name as name, (array_agg(t.task_id order by e.position desc))[1] as task_id
  from celery_journal.event e
       join celery_journal.task_result t on t.task_id = e.stream
 where e.kind = 'operator-acted' and e.meta is not null and celery_journal.json_or_null(e.meta) ? 'waited'
   and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
   and e.event_id < celery_journal.first_event_id(%(until)s::timestamptz)
 group by t.task_name
 order by t.task_name

-- name: groups without results
-- Of the groups that were saved last, those with members that have ended without a result, by the names of these.
select t.task_name as name, count(distinct g.group_id) as groups
  from (select g.group_id, g.members from celery_journal.group_result g where g.members is not null order by g.date_saved desc limit 1000) g
       cross join lateral unnest(g.members) as m (task_id)
       join celery_journal.task_result t on t.task_id = m.task_id
 where t.status = 'IGNORED'
 group by t.task_name
 order by t.task_name

-- name: broken indexes
select c.relname as name
  from pg_catalog.pg_index i
       join pg_catalog.pg_class c on c.oid = i.indexrelid
 where c.relnamespace = 'celery_journal'::regnamespace::oid and not (i.indisvalid and i.indisready)
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

-- name: chords that were not sent
-- The latest that are open, or have failed.
select c.group_id from celery_journal.chord_counter c where c.state <> 'unlocked' order by c.date_created desc limit 1000

-- name: oldest open chord
select c.group_id, clock_timestamp() - c.date_created as age from celery_journal.chord_counter c where c.state = 'open'
 union all
select null, null
 order by age desc nulls last
 limit 1

-- name: longest wait
-- How long a worker has had a message, or will have it until its eta, at most, in the last week.
select max(coalesce(a.date_done,
                    case when a.status in ('RECEIVED', 'STARTED')
                         then greatest(a.recorded_at, case when isfinite(a.eta) then a.eta end) end) - a.date_received) as longest
  from celery_journal.task_attempt a
 where a.date_received > clock_timestamp() - interval '168 hours'

-- name: payloads
select t.task_id, t.result, t.content_type, t.content_encoding, t.args, t.kwargs, t.args_content_type
  from celery_journal.task_result t
 where t.task_id > %(after)s
 order by t.task_id
 limit %(page)s

-- name: triggers
-- Those of the log that are missing or not enabled as they should be; by table.
select t.relid::regclass::text as name, w.name as trigger, g.tgenabled is null as missing
  from pg_catalog.pg_partition_tree('celery_journal.event') t
       cross join (values ('fold', 'O'), ('refuse_change', 'A'), ('refuse_change_of_row', 'A'), ('refuse_nonsense', 'A')) as w (name, enabled)
       left join pg_catalog.pg_trigger g on g.tgrelid = t.relid and g.tgname = w.name
 where (w.name <> 'fold' or t.level = 0) and (g.tgenabled is null or g.tgenabled::text <> w.enabled)
 order by 1, 2

-- name: leftovers
-- Of a rebuild that was killed: its trigger on the log, which costs every append, and its tables. While one runs they are its own.
select l.name, l.is_trigger,
       exists (select from pg_catalog.pg_locks k
                where k.locktype = 'advisory' and k.granted and k.objsubid = 1
                  and k.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
                  and k.classid::bigint = (r.key >> 32) & 4294967295 and k.objid::bigint = r.key & 4294967295) as runs
  from (select g.tgname::text as name, true as is_trigger
          from pg_catalog.pg_trigger g
         where g.tgrelid = to_regclass('celery_journal.event')::oid and g.tgname like 'rebuild\_%%'
        union all
        select c.relname::text, false
          from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'celery_journal' and c.relkind = 'r' and c.relname ~ '__(rebuild|old|aside_[0-9a-f]+)$') l
       cross join (select hashtextextended('celery_journal.rebuild', 0) as key) r
 order by 1

-- name: replica settings
-- Who is set to replicate, for whom the fold is silent.
select coalesce(r.rolname, 'every login') as who, coalesce(d.datname, 'every database') as database
  from pg_catalog.pg_db_role_setting s
       left join pg_catalog.pg_roles r on r.oid = s.setrole
       left join pg_catalog.pg_database d on d.oid = s.setdatabase
 where (s.setdatabase = 0 or d.datname = current_database())
   and exists (select from unnest(s.setconfig) as c (setting) where c.setting in ('session_replication_role=replica', 'session_replication_role=local'))
 union all
select 'every session', current_database() where current_setting('session_replication_role') = 'replica'

-- name: replicated into
-- Tables of the log that a logical replication subscription writes to: no statement trigger folds what it brings.
select r.srrelid::regclass::text as name
  from pg_catalog.pg_subscription_rel r
 where r.srrelid in (select t.relid::oid from pg_catalog.pg_partition_tree('celery_journal.event') t)
 order by 1

-- name: open functions
select p.oid::regprocedure::text as name
  from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'celery_journal' and has_function_privilege('public', p.oid, 'execute')
 order by 1

-- name: open tables
-- That everybody may do more with than read.
select c.oid::regclass::text as name
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'celery_journal'
   and exists (select from aclexplode(c.relacl) a where a.grantee = 0 and a.privilege_type <> 'SELECT')
 order by 1

-- name: foreign triggers
-- Attached to something else than the log.
select g.tgrelid::regclass::text as name, g.tgname::text as trigger
  from pg_catalog.pg_trigger g
       join pg_catalog.pg_proc p on p.oid = g.tgfoid
       join pg_catalog.pg_namespace n on n.oid = p.pronamespace
       join pg_catalog.pg_class c on c.oid = g.tgrelid
 where n.nspname = 'celery_journal' and c.relnamespace <> n.oid
 order by 1, 2

-- name: forgers
-- Roles besides the owner and superusers that may choose their facts' places.
select r.rolname as name
  from pg_catalog.pg_roles r
       cross join (select c.oid, c.relowner from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                    where n.nspname = 'celery_journal' and c.relname = 'event') e
 where not r.rolsuper and r.rolname !~ '^pg_' and not pg_has_role(r.oid, e.relowner, 'member')
   and has_column_privilege(r.oid, e.oid, 'position', 'insert')
 order by 1

-- name: sweep leases
select case l.group_id when '' then 'chords' else 'lost tasks' end as sweep, l.claimed_by, l.login,
       l.claimed_until - clock_timestamp() as remaining
  from celery_journal.chord_lease l
 where l.group_id in ('', chr(1) || 'lost') and l.claimed_until > clock_timestamp()
 order by 1

-- name: login
select current_user as name, r.rolsuper as is_super, pg_has_role(current_user, c.relowner, 'member') as owns
  from pg_catalog.pg_roles r
       cross join pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where r.rolname = current_user and n.nspname = 'celery_journal' and c.relname = 'event'
