-- What somebody means who types an id, or the beginning of one.

-- name: whole
-- Those of the ids that the views know as they are: of tasks, groups, chords, the bodies of chords, and workers.
select i.id
  from unnest(%(ids)s::text[]) as i (id)
 where exists (select from celery_journal.task_result t where t.task_id = i.id)
    or exists (select from celery_journal.task_result t where t.group_id = i.id)
    or exists (select from celery_journal.group_result g where g.group_id = i.id)
    or exists (select from celery_journal.chord_counter c where c.group_id = i.id)
    or exists (select from celery_journal.chord_counter c where c.body_task_id = i.id)
    or exists (select from celery_journal.worker w where w.worker = i.id)

-- name: beginning
-- The first tasks, saved groups and chords whose ids begin so. Keys are collated by their bytes: it is a range of each index.
(select t.task_id as id from celery_journal.task_result t where starts_with(t.task_id, %(beginning)s) order by t.task_id limit %(most)s)
 union
(select g.group_id from celery_journal.group_result g where starts_with(g.group_id, %(beginning)s) order by g.group_id limit %(most)s)
 union
(select c.group_id from celery_journal.chord_counter c where starts_with(c.group_id, %(beginning)s) order by c.group_id limit %(most)s)
 order by id
 limit %(most)s

-- name: known task_name
-- The names that there are, one after another: from each the index leads to the next, past all tasks of that name.
with recursive known as (
    (select t.task_name as name from celery_journal.task_result t order by t.task_name limit 1)
     union all
    select (select t.task_name from celery_journal.task_result t where t.task_name > k.name order by t.task_name limit 1)
      from known k
     where k.name is not null)
select k.name from known k where k.name is not null limit %(limit)s

-- name: known worker
with recursive known as (
    (select t.worker as name from celery_journal.task_result t order by t.worker limit 1)
     union all
    select (select t.worker from celery_journal.task_result t where t.worker > k.name order by t.worker limit 1)
      from known k
     where k.name is not null)
select k.name from known k where k.name is not null limit %(limit)s
