-- Each chord: its size (which may come after the first parts), its end, and its parts. A part touches chord_part_row only,
-- never the chord's own row, so that the members of a wide chord do not wait for each other's fsync.

-- name: kinds
'chord-started', 'chord-size-set', 'chord-unlocked', 'chord-failed'

-- name: forgetting kinds
'group-expired'

-- name: part kinds
, 'chord-part-returned'

-- name: clear parts
delete from celery_journal.chord_part_row where group_id = any({forgotten ids})

-- name: parts
-- SUCCESS beats another state of the same part, the earlier fact beats the later: a redelivered part changes nothing.
insert into celery_journal.chord_part_row as t (
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
-- Rank 0 writes a register, -1 leaves it. Of two ends, unlocked beats failed.
select e.stream as group_id,
       e.occurred_at as date_created,
       e.position,
       case when e.kind = 'chord-started' then 0 else -1 end as started_rank,
       coalesce(e.ordered_at, e.occurred_at) as started_at,
       e.position as started_position,
       case when e.kind = 'chord-started' then e.result end as sub_tasks,
       case when e.kind = 'chord-started' then e.task_id end as asked_body_task_id,
       case when e.size is not null then 0 else -1 end as size_rank,
       coalesce(e.ordered_at, e.occurred_at) as size_at,
       e.position as size_position,
       e.size,
       case when e.kind = 'chord-size-set' and e.task_id is not null then array[e.task_id] else array[]::text[] end as added,
       case e.kind when 'chord-unlocked' then 1 when 'chord-failed' then 0 else -1 end as ended_rank,
       coalesce(e.ordered_at, e.occurred_at) as ended_at,
       e.position as ended_position,
       case when e.kind in ('chord-unlocked', 'chord-failed') then e.occurred_at end as date_done,
       case when e.kind in ('chord-unlocked', 'chord-failed') then e.task_id end as body_task_id,
       e.recorded_at
  from new_event e
 where e.kind in ({kinds})

-- name: combine
select w.group_id,
       w.date_created,
       s.started_rank,
       s.started_at,
       s.started_position,
       s.sub_tasks,
       s.asked_body_task_id,
       n.size_rank,
       n.size_at,
       n.size_position,
       n.size,
       array(select distinct a.id from lifted x, unnest(x.added) as a(id) where x.group_id = w.group_id order by 1) as added,
       e.ended_rank,
       e.ended_at,
       e.ended_position,
       e.date_done,
       e.body_task_id,
       w.recorded_at
  from (select group_id,
               min(date_created) as date_created,
               max(recorded_at) as recorded_at,
               (max(array[started_rank, moment, position, number]))[4] as started,
               (max(array[size_rank, moment, position, number]))[4] as sized,
               (max(array[ended_rank, moment, position, number]))[4] as ended
          from (select *, (extract(epoch from started_at) * 1000000)::bigint as moment from lifted) l
         group by group_id) w
       join lifted s on s.number = w.started
       join lifted n on n.number = w.sized
       join lifted e on e.number = w.ended

-- name: merge
insert into celery_journal.chord_counter_row as t (
       group_id, date_created, started_rank, started_at, started_position, sub_tasks, asked_body_task_id,
       size_rank, size_at, size_position, size, added,
       ended_rank, ended_at, ended_position, date_done, body_task_id, recorded_at)
select group_id, date_created, started_rank, started_at, started_position, sub_tasks, asked_body_task_id,
       size_rank, size_at, size_position, size, added,
       ended_rank, ended_at, ended_position, date_done, body_task_id, recorded_at
  from folded
 order by group_id
on conflict (group_id) do update set
       date_created = least(t.date_created, excluded.date_created),
       started_rank = case when (excluded.started_rank, excluded.started_at, excluded.started_position) > (t.started_rank, t.started_at, t.started_position) then excluded.started_rank else t.started_rank end,
       started_at = case when (excluded.started_rank, excluded.started_at, excluded.started_position) > (t.started_rank, t.started_at, t.started_position) then excluded.started_at else t.started_at end,
       started_position = case when (excluded.started_rank, excluded.started_at, excluded.started_position) > (t.started_rank, t.started_at, t.started_position) then excluded.started_position else t.started_position end,
       sub_tasks = case when (excluded.started_rank, excluded.started_at, excluded.started_position) > (t.started_rank, t.started_at, t.started_position) then excluded.sub_tasks else t.sub_tasks end,
       asked_body_task_id = case when (excluded.started_rank, excluded.started_at, excluded.started_position) > (t.started_rank, t.started_at, t.started_position) then excluded.asked_body_task_id else t.asked_body_task_id end,
       size_rank = case when (excluded.size_rank, excluded.size_at, excluded.size_position) > (t.size_rank, t.size_at, t.size_position) then excluded.size_rank else t.size_rank end,
       size_at = case when (excluded.size_rank, excluded.size_at, excluded.size_position) > (t.size_rank, t.size_at, t.size_position) then excluded.size_at else t.size_at end,
       size_position = case when (excluded.size_rank, excluded.size_at, excluded.size_position) > (t.size_rank, t.size_at, t.size_position) then excluded.size_position else t.size_position end,
       size = case when (excluded.size_rank, excluded.size_at, excluded.size_position) > (t.size_rank, t.size_at, t.size_position) then excluded.size else t.size end,
       ended_rank = case when (excluded.ended_rank, excluded.ended_at, excluded.ended_position) > (t.ended_rank, t.ended_at, t.ended_position) then excluded.ended_rank else t.ended_rank end,
       ended_at = case when (excluded.ended_rank, excluded.ended_at, excluded.ended_position) > (t.ended_rank, t.ended_at, t.ended_position) then excluded.ended_at else t.ended_at end,
       ended_position = case when (excluded.ended_rank, excluded.ended_at, excluded.ended_position) > (t.ended_rank, t.ended_at, t.ended_position) then excluded.ended_position else t.ended_position end,
       date_done = case when (excluded.ended_rank, excluded.ended_at, excluded.ended_position) > (t.ended_rank, t.ended_at, t.ended_position) then excluded.date_done else t.date_done end,
       body_task_id = case when (excluded.ended_rank, excluded.ended_at, excluded.ended_position) > (t.ended_rank, t.ended_at, t.ended_position) then excluded.body_task_id else t.body_task_id end,
       added = array(select distinct a.id from unnest(t.added || excluded.added) as a(id) order by 1),
       recorded_at = greatest(t.recorded_at, excluded.recorded_at)

-- name: key
group_id

-- name: tables
chord_counter_row chord_part_row

-- name: alive chord_part_row
part_position > coalesce((select c.forgotten_position from celery_journal.chord_counter_row c where c.group_id = chord_part_row.group_id), 0)

-- name: view
-- Whoever may write may say numbers whose sum no integer holds; the chord stays open, and the others can be read.
-- The size is what set_chord_size and add_to_chord said; until then the length of the header, where that is known.
create or replace view celery_journal.chord_counter as
select c.group_id,
       celery_journal.json_or_null(c.sub_tasks) as sub_tasks,
       s.size,
       p.done,
       p.failed,
       case when s.size is not null then greatest(s.size - p.done, 0) end as count,
       c.date_created,
       c.date_done,
       case c.ended_rank when 1 then 'unlocked' when 0 then 'failed' else 'open' end as state,
       coalesce(c.body_task_id, c.asked_body_task_id) as body_task_id,
       c.recorded_at
  from celery_journal.chord_counter_row c
       left join lateral (
           select count(*)::integer as done, (count(*) filter (where q.status <> 'SUCCESS'))::integer as failed
             from celery_journal.chord_part_row q
            where q.group_id = c.group_id and q.part_position > coalesce(c.forgotten_position, 0)) p on true
       cross join lateral (
           select coalesce(case when c.size is not null then least(c.size::bigint + cardinality(c.added), 2147483647)::integer end,
                           case jsonb_typeof(h.header) when 'array' then jsonb_array_length(h.header) end) as size
             from celery_journal.json_or_null(c.sub_tasks) as h(header)) s
 where c.date_created is not null;

create or replace view celery_journal.chord_part as
select p.group_id,
       p.task_id,
       nullif(p.group_index, -1) as group_index,
       p.status,
       p.date_done,
       p.content_type,
       p.content_encoding,
       p.result,
       celery_journal.json_or_null(p.result) as result_json,
       p.part_position as position
  from celery_journal.chord_part_row p
       left join celery_journal.chord_counter_row c on c.group_id = p.group_id
 where p.part_position > coalesce(c.forgotten_position, 0)
