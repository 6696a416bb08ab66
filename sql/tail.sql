-- The end of the log.

-- name: last
-- The last ones before a place, and behind the horizon: what is read after them begins where they end. Payloads that are not shown
-- are not read, and of errors and progress only what is short enough for a line.
select e.event_id, e.occurred_at, e.recorded_at, e.recorded_by, e.attempt, e.schema_version, e.pid, e.group_index, e.size, e.eta, e.expires,
       e.time_limit,
       e.members, e.stream, e.kind, e.state, e.name, e.worker, e.queue, e.root_id, e.parent_id, e.group_id, e.task_id,
       e.periodic_task_name, e.content_type, e.content_encoding, e.args_content_type, e.traceback, e.source, e.run, e.reason,
       e.ordered_at, null::bytea as args, null::bytea as kwargs, e.meta, e.body, e.position, e.transaction::text::bigint as transaction,
       case when e.kind not in ('task-succeeded', 'group-saved', 'chord-started', 'chord-part-returned')
             and octet_length(e.result) <= 100000 then e.result end as result
  from celery_journal.event e
 where (e.transaction, e.position) < (%(transaction)s::text::xid8, %(position)s::bigint)
   and e.transaction < %(horizon)s::text::xid8
 order by e.transaction desc, e.position desc
 limit %(limit)s
