-- Who stands in the way.

-- name: holders of an advisory lock
select a.pid, a.usename as login, a.application_name as application, a.state, a.xact_start as since, null::text as kind
  from pg_catalog.pg_locks l
       left join pg_catalog.pg_stat_activity a on a.pid = l.pid
       cross join (select hashtextextended(%(key)s, 0) as key) k
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
   and l.classid::bigint = (k.key >> 32) & 4294967295 and l.objid::bigint = k.key & 4294967295
   and l.pid <> pg_backend_pid()
 order by l.pid

-- name: holders of relations
-- Those who have locked a table or a view of the journal, and whoever is longest at it first. Of what they run, the verb and no more.
select l.pid, a.usename as login, a.application_name as application, a.state, a.xact_start as since,
       substring(upper(a.query) from '^\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|COPY|VACUUM|ANALYZE|CREATE|ALTER|DROP|LOCK)\M') as kind
  from (select distinct k.pid
          from pg_catalog.pg_locks k
               join pg_catalog.pg_class c on c.oid = k.relation
               join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'celery_journal' and k.granted and k.pid <> pg_backend_pid()
           and k.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())) l
       left join pg_catalog.pg_stat_activity a on a.pid = l.pid
 order by a.xact_start nulls last, l.pid
 limit 5

-- name: holders of snapshots
-- Those that read as of a moment before that transaction.
select a.pid, a.usename as login, a.application_name as application, a.state, a.xact_start as since, null::text as kind
  from pg_catalog.pg_stat_activity a
 where a.pid = any(%(pids)s::integer[])
 order by a.xact_start nulls last, a.pid
