-- What is old enough to leave the views.

-- name: expired tasks
select t.task_id
  from celery_journal.task_result t
 where t.date_done < %(before)s
 order by t.task_id
 limit %(limit)s

-- name: expired groups
-- Saved groups and finished chords of one id go together; one whose chord is open stays.
select i.group_id
  from (select g.group_id from celery_journal.group_result g where g.date_saved < %(before)s
        union
        select c.group_id from celery_journal.chord_counter c where c.date_done < %(before)s) i
 where not exists (select from celery_journal.chord_counter c
                    where c.group_id = i.group_id and (c.date_done is null or c.date_done >= %(before)s))
 order by i.group_id
 limit %(limit)s

-- name: purge
select celery_journal.purge_forgotten()
