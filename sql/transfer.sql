-- Taking the log out, and the views as tables.

-- name: horizon
-- Before the first transaction nothing can appear any more; whatever is recorded now is of one before the second.
select pg_snapshot_xmin(s)::text::bigint + a.added, pg_snapshot_xmax(s)::text::bigint + a.added
  from pg_current_snapshot() s, celery_journal.added_transactions() as a (added)

-- name: left out
select count(*) from celery_journal.event e where e.transaction >= %(horizon)s::text::xid8 and e.transaction < %(asked)s::text::xid8

-- name: places
select e.transaction::text::bigint, e.position, e.event_id, e.stream
  from celery_journal.event e
 where (e.transaction, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
   and e.transaction < %(horizon)s::text::xid8
 order by e.transaction, e.position
 limit %(limit)s

-- name: rows
-- Each looked up by its key: with the limit, the planner cannot choose to read the whole log for a few of them.
select e.*
  from unnest(%(event_ids)s::uuid[], %(streams)s::text[]) with ordinality as p (event_id, stream, place)
       cross join lateral (
           select * from celery_journal.event e
            where e.event_id = p.event_id and e.stream = p.stream
              and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
            limit 1) e
 order by p.place

-- name: places of streams
-- In one stretch of the log.
select e.position, e.event_id, e.stream
  from celery_journal.event e
 where e.stream = any(%(streams)s::text[])
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
   and e.transaction < %(horizon)s::text::xid8

-- name: keys of task_result
select t.task_id from celery_journal.task_result t where t.task_id > %(after)s order by t.task_id limit %(limit)s

-- name: keys of group_result
select g.group_id from celery_journal.group_result g where g.group_id > %(after)s order by g.group_id limit %(limit)s

-- name: keys of chord_counter
select c.group_id from celery_journal.chord_counter c where c.group_id > %(after)s order by c.group_id limit %(limit)s

-- name: keys of chord_part
select distinct p.group_id from celery_journal.chord_part p where p.group_id > %(after)s order by p.group_id limit %(limit)s

-- name: keys of worker
select w.worker from celery_journal.worker w where w.worker > %(after)s order by w.worker limit %(limit)s

-- name: sheet of task_result
select t.* from celery_journal.task_result t where t.task_id = any(%(keys)s) order by t.task_id

-- name: sheet of task_attempt
select a.* from celery_journal.task_attempt a where a.task_id = any(%(keys)s) order by a.task_id, a.attempt, a.run nulls first

-- name: sheet of group_result
select g.* from celery_journal.group_result g where g.group_id = any(%(keys)s) order by g.group_id

-- name: sheet of chord_counter
select c.* from celery_journal.chord_counter c where c.group_id = any(%(keys)s) order by c.group_id

-- name: sheet of chord_part
-- Without its position, which is a place in this log only.
select p.group_id, p.task_id, p.group_index, p.status, p.date_done, p.content_type, p.content_encoding, p.result, p.result_json
  from celery_journal.chord_part p
 where p.group_id = any(%(keys)s)
 order by p.group_id, p.group_index nulls last, p.position

-- name: sheet of worker
select w.* from celery_journal.worker w where w.worker = any(%(keys)s) order by w.worker
