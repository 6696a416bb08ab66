-- The last saved state of each group: one register, and the members that the moment of completion is read from.

-- name: kinds
'group-saved'

-- name: forgetting kinds
'group-deleted', 'group-expired'

-- name: lift
select e.stream as group_id,
       e.occurred_at as date_created,
       0 as saved_rank,
       coalesce(e.ordered_at, e.occurred_at) as saved_at,
       e.position as saved_position,
       e.members,
       e.content_type,
       e.content_encoding,
       e.result,
       e.recorded_at
  from new_event e
 where e.kind in ({kinds})

-- name: combine
select w.group_id,
       w.date_created,
       s.saved_rank,
       s.saved_at,
       s.saved_position,
       s.members,
       s.content_type,
       s.content_encoding,
       s.result,
       w.recorded_at
  from (select group_id,
               min(date_created) as date_created,
               max(recorded_at) as recorded_at,
               (max(array[(extract(epoch from saved_at) * 1000000)::bigint, saved_position, number]))[3] as saved
          from lifted
         group by group_id) w
       join lifted s on s.number = w.saved

-- name: merge
insert into celery_journal.group_result_row as t (
       group_id, date_created, saved_rank, saved_at, saved_position, members, content_type, content_encoding, result, recorded_at)
select group_id, date_created, saved_rank, saved_at, saved_position, members, content_type, content_encoding, result, recorded_at
  from folded
 order by group_id
on conflict (group_id) do update set
       date_created = least(t.date_created, excluded.date_created),
       saved_rank = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.saved_rank else t.saved_rank end,
       saved_at = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.saved_at else t.saved_at end,
       saved_position = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.saved_position else t.saved_position end,
       members = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.members else t.members end,
       content_type = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.content_type else t.content_type end,
       content_encoding = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.content_encoding else t.content_encoding end,
       result = case when (excluded.saved_rank, excluded.saved_at, excluded.saved_position) > (t.saved_rank, t.saved_at, t.saved_position) then excluded.result else t.result end,
       recorded_at = greatest(t.recorded_at, excluded.recorded_at)

-- name: key
group_id

-- name: tables
group_result_row

-- name: view
-- date_done is the moment the last member became ready; it is read from the members, so that no fold spans two streams.
create or replace view celery_journal.group_result as
select g.group_id,
       g.date_created,
       g.saved_at as date_saved,
       (select case when count(t.date_done) = (select count(distinct m) from unnest(g.members) as m) then max(t.date_done) end
          from celery_journal.task_result_row t
         where t.task_id = any(g.members)) as date_done,
       array_remove(g.members, null) as members,
       g.content_type,
       g.content_encoding,
       g.result,
       celery_journal.json_or_null(g.result) as result_json,
       g.recorded_at
  from celery_journal.group_result_row g
 where g.date_created is not null
