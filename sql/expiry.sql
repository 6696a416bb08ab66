-- What is old enough to leave the views. A limit that is null is never reached.
-- An age is counted in seconds: a day of an interval has 23 or 25 hours where the session's clock changes.

-- name: expired tasks
-- By when they ended, as their workers say it. A clock that is more than a day ahead of the database, or ten years behind, is not
-- believed: then by when it was recorded.
select t.task_id
  from celery_journal.task_result t
 where (t.date_done < greatest(%(results)s::timestamptz, %(failures)s::timestamptz) or t.date_done > now() + interval '1 day')
   and case when t.date_done not between t.recorded_at - interval '10 years' and t.recorded_at + interval '1 day'
            then t.recorded_at else t.date_done end < case t.status when 'FAILURE' then %(failures)s::timestamptz else %(results)s::timestamptz end
 order by t.task_id
 limit %(limit)s

-- name: expired groups
-- Saved groups and finished chords of one id go together; one whose chord is open stays. Clocks are believed as those of tasks are.
with abandoned as materialized (select celery_journal.chords_never_started(%(chords)s::timestamptz) as group_id),
old_group as materialized (
    select g.group_id
      from celery_journal.group_result g
     where (g.date_saved < %(results)s::timestamptz or g.date_saved > now() + interval '1 day')
       and case when g.date_saved not between g.recorded_at - interval '10 years' and g.recorded_at + interval '1 day'
                then g.recorded_at else g.date_saved end < %(results)s::timestamptz),
old_chord as materialized (
    select c.group_id
      from celery_journal.chord_counter c
     where case when c.date_done not between c.recorded_at - interval '10 years' and c.recorded_at + interval '1 day'
                then c.recorded_at else c.date_done end < %(chords)s::timestamptz
     union
    select a.group_id from abandoned a)
select i.group_id
  from (select g.group_id from old_group g union select c.group_id from old_chord c) i
 where not exists (select from celery_journal.chord_counter c
                    where c.group_id = i.group_id and c.group_id not in (select o.group_id from old_chord o))
   and not exists (select from celery_journal.group_result g
                    where g.group_id = i.group_id and g.group_id not in (select o.group_id from old_group o))
 order by i.group_id
 limit %(limit)s

-- name: moment
select clock_timestamp() - extract(epoch from %(age)s::interval) * interval '1 second'

-- name: silent workers
select w.worker
  from celery_journal.worker w
 where w.last_seen < clock_timestamp() - extract(epoch from %(silence)s::interval) * interval '1 second'
 order by w.worker
 limit %(limit)s

-- name: purge
select celery_journal.purge_forgotten()
