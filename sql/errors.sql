-- Failures as they are grouped by what they have in common.

-- name: failures
-- The newest first. Of what is stored no more than what tells an error, of a traceback its end: a payload may be megabytes.
select t.task_id, t.task_name as name, t.date_done,
       right(t.traceback, %(longest)s) as traceback,
       case when octet_length(t.result) <= %(longest)s then t.result end as result, t.content_type, t.content_encoding
  from celery_journal.task_result t
 where t.status = 'FAILURE' and t.date_done >= %(since)s and {condition}
 order by t.date_done desc
 limit %(limit)s
