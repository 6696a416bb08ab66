-- Steps of chains that were not sent: nobody but the step before knows of them, in whose message they stand.

-- name: sent with
-- In one stretch of the log, the tasks whose message has the id in it: of those that have not ended, that were revoked, or that have just
-- succeeded and are about to send the next step. Where a step failed, Celery has told it to all that come after it.
select t.task_id
  from ((select o.task_id, o.date_created from celery_journal.task_result o where o.date_done is null)
         union all
        (select r.task_id, r.date_created from celery_journal.task_result r where r.status in ('REVOKED', 'IGNORED'))
         union all
        (select s.task_id, s.date_created from celery_journal.task_result s where s.date_done > clock_timestamp() - interval '1 minute')) t
 where exists (
           select from celery_journal.event e
            where e.stream = t.task_id and e.kind = 'task-sent' and e.body is not null
              and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
              and e.event_id >= celery_journal.first_event_id(least(greatest(t.date_created, '1970-01-02 00:00+00'), clock_timestamp()) - interval '1 day')
              and position(convert_to(%(id)s, 'UTF8') in e.body) > 0)
 limit 1

-- name: revoked
-- What has ended of late, and after which no worker sends the next step, and from when on the log may tell of it.
-- Who wants to know of older ones has them marked.
select r.task_id, r.recorded_at,
       greatest(least(r.date_created, clock_timestamp()) - interval '1 day', '1970-01-01 00:00+00') as since
  from celery_journal.task_result r
 where r.status = 'REVOKED'
   and r.date_done > clock_timestamp() - interval '1 day'
   and r.recorded_at < clock_timestamp() - %(grace)s * interval '1 second'
 order by r.date_done desc
 limit least(%(limit)s, 1000)

-- name: chained
-- Of those tasks, the messages that have something to come after the task in them.
select e.*, e.transaction::text::bigint as transaction
  from celery_journal.event e
 where e.stream = any(%(task_ids)s)
   and e.kind = 'task-sent'
   and e.event_id >= celery_journal.first_event_id(%(since)s::timestamptz)
   and position('embedded'::bytea in e.body) > 0
 order by e.position

-- name: heard of
select t.task_id from celery_journal.task_result t where t.task_id = any(%(ids)s)
