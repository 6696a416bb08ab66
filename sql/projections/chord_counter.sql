-- Each chord: its size (which may come after the first parts), its end, and its parts. A part touches chord_part only,
-- never the chord's own row, so that the members of a wide chord do not wait for each other's fsync.

-- name: parts
-- SUCCESS beats another state of the same part, the earlier fact beats the later: a redelivered part changes nothing.
insert into celery_journal.chord_part as t (
       group_id, task_id, group_index, part_rank, part_position, date_done, status, content_type, content_encoding, result)
select distinct on (e.stream, e.task_id, coalesce(e.group_index, -1))
       e.stream, e.task_id, coalesce(e.group_index, -1), (e.state = 'SUCCESS')::integer, e.position, e.occurred_at,
       e.state, e.content_type, e.content_encoding, e.result
  from new_event e
 where e.kind = 'chord-part-returned'
 order by e.stream, e.task_id, coalesce(e.group_index, -1), (e.state = 'SUCCESS') desc, e.position
on conflict (group_id, task_id, group_index) do update set
       part_rank = excluded.part_rank,
       part_position = excluded.part_position,
       date_done = excluded.date_done,
       status = excluded.status,
       content_type = excluded.content_type,
       content_encoding = excluded.content_encoding,
       result = excluded.result
 where (excluded.part_rank, -excluded.part_position) > (t.part_rank, -t.part_position)

-- name: lift
select e.stream as group_id,
       e.position,
       case when e.forgets then e.position end as forgotten_position,
       case when e.forgets then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       case when not e.forgets then e.occurred_at end as date_created,
       case when e.kind = 'chord-started' then e.occurred_at else '-infinity' end as started_at,
       case when e.kind = 'chord-started' then e.position else 0 end as started_position,
       case when e.kind = 'chord-started' then e.result end as sub_tasks,
       case when e.size is not null then e.occurred_at else '-infinity' end as size_at,
       case when e.size is not null then e.position else 0 end as size_position,
       e.size,
       case when e.kind = 'chord-size-set' and e.task_id is not null then array[e.task_id] else array[]::text[] end as added,
       case e.kind when 'chord-unlocked' then 1 when 'chord-failed' then 0 else -1 end as ended_rank,
       case when e.kind in ('chord-unlocked', 'chord-failed') then e.position else 0 end as ended_position,
       case when e.kind in ('chord-unlocked', 'chord-failed') then e.occurred_at end as date_done,
       case when e.kind in ('chord-unlocked', 'chord-failed') then e.task_id end as body_task_id
  from (select *, kind = 'group-expired' as forgets from new_event) e
 where e.kind in ('chord-started', 'chord-size-set', 'chord-unlocked', 'chord-failed', 'group-expired')

-- name: combine
select w.group_id,
       w.forgotten_position,
       case when w.forgotten_position is not null then pg_snapshot_xmax(pg_current_snapshot()) end as forgotten_xmax,
       w.date_created,
       coalesce(s.started_at, '-infinity') as started_at,
       coalesce(s.started_position, 0) as started_position,
       s.sub_tasks,
       coalesce(n.size_at, '-infinity') as size_at,
       coalesce(n.size_position, 0) as size_position,
       n.size,
       array(select distinct a.id from lifted x, unnest(x.added) as a(id)
              where x.group_id = w.group_id and x.position > coalesce(w.forgotten_position, 0) order by 1) as added,
       coalesce(e.ended_rank, -1) as ended_rank,
       coalesce(e.ended_position, 0) as ended_position,
       e.date_done,
       e.body_task_id
  from (select l.group_id,
               l.forgotten_position,
               min(l.date_created) as date_created,
               (max(array[l.moment, l.position]) filter (where l.started_position > 0))[2] as started,
               (max(array[l.moment, l.position]) filter (where l.size_position > 0))[2] as sized,
               (max(array[l.ended_rank, l.position]) filter (where l.ended_rank >= 0))[2] as ended
          from (select group_id, position, date_created, started_position, size_position, ended_rank, f.forgotten_position,
                       (extract(epoch from date_created) * 1000000)::bigint as moment
                  from lifted
                       left join (select group_id, max(forgotten_position) as forgotten_position
                                    from lifted where forgotten_position is not null group by group_id) f using (group_id)
                 where position >= coalesce(f.forgotten_position, 0)) l
         group by l.group_id, l.forgotten_position) w
       left join lifted s on s.position = w.started
       left join lifted n on n.position = w.sized
       left join lifted e on e.position = w.ended

-- name: merge
insert into celery_journal.chord_counter_row as t (
       group_id, forgotten_position, forgotten_xmax, date_created, started_at, started_position, sub_tasks,
       size_at, size_position, size, added, ended_rank, ended_position, date_done, body_task_id)
select group_id, forgotten_position, forgotten_xmax, date_created, started_at, started_position, sub_tasks,
       size_at, size_position, size, added, ended_rank, ended_position, date_done, body_task_id
  from folded
 order by group_id
on conflict (group_id) do update set
       forgotten_position = greatest(t.forgotten_position, excluded.forgotten_position),
       forgotten_xmax = coalesce(excluded.forgotten_xmax, t.forgotten_xmax),
       date_created = least(t.date_created, excluded.date_created),
       started_at = case when (excluded.started_at, excluded.started_position) > (t.started_at, t.started_position) then excluded.started_at else t.started_at end,
       started_position = case when (excluded.started_at, excluded.started_position) > (t.started_at, t.started_position) then excluded.started_position else t.started_position end,
       sub_tasks = case when (excluded.started_at, excluded.started_position) > (t.started_at, t.started_position) then excluded.sub_tasks else t.sub_tasks end,
       size_at = case when (excluded.size_at, excluded.size_position) > (t.size_at, t.size_position) then excluded.size_at else t.size_at end,
       size_position = case when (excluded.size_at, excluded.size_position) > (t.size_at, t.size_position) then excluded.size_position else t.size_position end,
       size = case when (excluded.size_at, excluded.size_position) > (t.size_at, t.size_position) then excluded.size else t.size end,
       added = array(select distinct a.id from unnest(t.added || excluded.added) as a(id) order by 1),
       ended_rank = case when (excluded.ended_rank, excluded.ended_position) > (t.ended_rank, t.ended_position) then excluded.ended_rank else t.ended_rank end,
       ended_position = case when (excluded.ended_rank, excluded.ended_position) > (t.ended_rank, t.ended_position) then excluded.ended_position else t.ended_position end,
       date_done = case when (excluded.ended_rank, excluded.ended_position) > (t.ended_rank, t.ended_position) then excluded.date_done else t.date_done end,
       body_task_id = case when (excluded.ended_rank, excluded.ended_position) > (t.ended_rank, t.ended_position) then excluded.body_task_id else t.body_task_id end
returning t.group_id as id, t.forgotten_position as forgotten

-- name: forget
delete from celery_journal.chord_counter_row where group_id = any(forgotten_ids)

-- name: key
group_id

-- name: tables
chord_counter_row chord_part

-- name: view
create or replace view celery_journal.chord_counter as
select c.group_id,
       convert_from(c.sub_tasks, 'UTF8') as sub_tasks,
       coalesce(c.size + cardinality(c.added), jsonb_array_length(celery_journal.json_or_null(c.sub_tasks))) as size,
       p.done,
       p.failed,
       greatest(coalesce(c.size + cardinality(c.added), jsonb_array_length(celery_journal.json_or_null(c.sub_tasks))) - p.done, 0) as count,
       c.date_created,
       c.date_done,
       case c.ended_rank when 1 then 'unlocked' when 0 then 'failed' else 'open' end as state,
       c.body_task_id
  from celery_journal.chord_counter_row c
       left join lateral (
           select count(*)::integer as done, (count(*) filter (where q.status <> 'SUCCESS'))::integer as failed
             from celery_journal.chord_part q
            where q.group_id = c.group_id and q.part_position > coalesce(c.forgotten_position, 0)) p on true
 where c.date_created is not null
