-- The end of the log.

-- name: last
-- The last ones before a place, and behind the horizon: what is read after them begins where they end.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where (e.transaction, e.position) < (%(transaction)s::text::xid8, %(position)s::bigint)
   and e.transaction < pg_snapshot_xmin(pg_current_snapshot())
 order by e.transaction desc, e.position desc
 limit %(limit)s
