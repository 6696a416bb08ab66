-- The last saved state of each group: one register, and the members that the moment of completion is read from.

-- name: lift
select e.stream as group_id,
       e.position,
       case when e.forgets then e.position end as forgotten_position,
       case when e.forgets then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       case when not e.forgets then e.occurred_at end as date_created,
       case when e.forgets then '-infinity' else e.occurred_at end as saved_at,
       case when e.forgets then 0 else e.position end as saved_position,
       e.members,
       e.content_type,
       e.content_encoding,
       e.result
  from (select *, kind in ('group-deleted', 'group-expired') as forgets from new_event) e
 where e.kind in ('group-saved', 'group-deleted', 'group-expired')

-- name: combine
select w.group_id,
       w.forgotten_position,
       case when w.forgotten_position is not null then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       w.date_created,
       coalesce(s.saved_at, '-infinity') as saved_at,
       coalesce(s.saved_position, 0) as saved_position,
       s.members,
       s.content_type,
       s.content_encoding,
       s.result
  from (select l.group_id,
               l.forgotten_position,
               min(l.date_created) as date_created,
               (max(array[(extract(epoch from l.date_created) * 1000000)::bigint, l.position])
                filter (where l.date_created is not null))[2] as saved
          from (select group_id, position, date_created, f.forgotten_position
                  from lifted
                       left join (select group_id, max(forgotten_position) as forgotten_position
                                    from lifted where forgotten_position is not null group by group_id) f using (group_id)
                 where position >= coalesce(f.forgotten_position, 0)) l
         group by l.group_id, l.forgotten_position) w
       left join lifted s on s.position = w.saved

-- name: merge
insert into celery_journal.group_result_row as t (
       group_id, forgotten_position, forgotten_xmax, date_created, saved_at, saved_position,
       members, content_type, content_encoding, result)
select group_id, forgotten_position, forgotten_xmax, date_created, saved_at, saved_position,
       members, content_type, content_encoding, result
  from folded
 order by group_id
on conflict (group_id) do update set
       forgotten_position = greatest(t.forgotten_position, excluded.forgotten_position),
       forgotten_xmax = coalesce(excluded.forgotten_xmax, t.forgotten_xmax),
       date_created = least(t.date_created, excluded.date_created),
       saved_at = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.saved_at else t.saved_at end,
       saved_position = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.saved_position else t.saved_position end,
       members = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.members else t.members end,
       content_type = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.content_type else t.content_type end,
       content_encoding = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.content_encoding else t.content_encoding end,
       result = case when (excluded.saved_at, excluded.saved_position) > (t.saved_at, t.saved_position) then excluded.result else t.result end
returning t.group_id as id, t.forgotten_position as forgotten

-- name: forget
delete from celery_journal.group_result_row where group_id = any(forgotten_ids)

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
       (select case when count(t.date_done) = cardinality(g.members) then max(t.date_done) end
          from celery_journal.task_result_row t
         where t.task_id = any(g.members)) as date_done,
       g.members,
       g.content_type,
       g.content_encoding,
       g.result,
       celery_journal.json_or_null(g.result) as result_json
  from celery_journal.group_result_row g
 where g.date_created is not null
