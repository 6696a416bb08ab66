-- What is old enough to leave the views. A limit that is null is never reached.

-- name: expired tasks
select t.task_id
  from celery_journal.task_result t
 where t.date_done < greatest(%(results)s::timestamptz, %(failures)s::timestamptz)
   and t.date_done < case t.status when 'FAILURE' then %(failures)s::timestamptz else %(results)s::timestamptz end
 order by t.task_id
 limit %(limit)s

-- name: expired groups
-- Saved groups and finished chords of one id go together; one whose chord is open stays.
with abandoned as materialized (select celery_journal.chords_never_started(%(chords)s::timestamptz) as group_id)
select i.group_id
  from (select g.group_id from celery_journal.group_result g where g.date_saved < %(results)s::timestamptz
        union
        select c.group_id from celery_journal.chord_counter c where c.date_done < %(chords)s::timestamptz
        union
        select a.group_id from abandoned a) i
 where not exists (select from celery_journal.chord_counter c
                    where c.group_id = i.group_id and coalesce(c.date_done < %(chords)s::timestamptz, false) is false
                      and c.group_id not in (select a.group_id from abandoned a))
   and not exists (select from celery_journal.group_result g
                    where g.group_id = i.group_id and coalesce(g.date_saved < %(results)s::timestamptz, false) is false)
 order by i.group_id
 limit %(limit)s

-- name: moment
select clock_timestamp() - %(age)s::interval

-- name: silent workers
select w.worker
  from celery_journal.worker w
 where w.last_seen < clock_timestamp() - %(silence)s::interval
 order by w.worker
 limit %(limit)s

-- name: purge
select celery_journal.purge_forgotten()
