-- What the demo asks, and what it tries.

-- name: server
select current_setting('server_version')

-- name: size of the log
-- The bytes are those of every partition with its indexes, the empty ones of the coming weeks included.
select count(*) as events,
       count(distinct e.stream) as streams,
       (select pg_size_pretty(sum(pg_total_relation_size(t.relid)))
          from pg_catalog.pg_partition_tree('celery_journal.event') t
         where t.isleaf) as size
  from celery_journal.event e

-- name: kinds
select e.kind, count(*) as events
  from celery_journal.event e
 group by e.kind
 order by min(e.position)

-- name: change
update celery_journal.event
   set state = 'SUCCESS'
 where stream = %(stream)s

-- name: delete
delete from celery_journal.event
 where stream = %(stream)s

-- name: empty the views
truncate celery_journal.task_result_row, celery_journal.task_attempt_row, celery_journal.group_result_row,
         celery_journal.chord_counter_row, celery_journal.chord_part_row, celery_journal.worker_row

-- name: fingerprints
-- Of everything there is to read in the log and in each view: how many rows, and a hash of them all.
select 'event, the log' as view, count(*) as rows, left(md5(string_agg(e::text, e'\n' order by e.event_id)), 16) as fingerprint
  from celery_journal.event e
 union all
select 'task_result', count(*), left(md5(string_agg(t::text, e'\n' order by t.task_id)), 16)
  from celery_journal.task_result t
 union all
select 'task_attempt', count(*), left(md5(string_agg(a::text, e'\n' order by a.task_id, a.attempt, a.run)), 16)
  from celery_journal.task_attempt a
 union all
select 'group_result', count(*), left(md5(string_agg(g::text, e'\n' order by g.group_id)), 16)
  from celery_journal.group_result g
 union all
select 'chord_counter', count(*), left(md5(string_agg(c::text, e'\n' order by c.group_id)), 16)
  from celery_journal.chord_counter c
 union all
select 'chord_part', count(*), left(md5(string_agg(p::text, e'\n' order by p.group_id, p.task_id, p.group_index)), 16)
  from celery_journal.chord_part p
 union all
select 'worker', count(*), left(md5(string_agg(row(w.worker, w.first_seen, w.online_since, w.last_seen, w.offline, w.pid)::text, e'\n' order by w.worker)), 16)
  from celery_journal.worker w
