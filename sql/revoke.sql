-- What somebody has asked to revoke.

-- name: asked
-- In one stretch of the log, the newest requests, and whether a worker that heard one would still remember it.
select e.*, e.transaction::text::bigint as transaction,
       e.recorded_at > clock_timestamp() - %(seconds)s * interval '1 second' as is_recent
  from celery_journal.event e
 where e.stream = %(stream)s
   and e.kind = 'operator-acted'
   and e.event_id between %(first_id)s::uuid and %(last_id)s::uuid
 order by e.position desc
 limit %(at_most)s

-- name: waiting
-- Those of the tasks whose messages may still be somewhere, because they were sent before they were to be revoked and no worker has told
-- of their end: to be asked for is none. One that is sent again later under its id was not meant. And those of which the views have nothing.
select a.task_id, t.task_id is not null as is_known
  from unnest(%(task_ids)s::text[], %(asked_at)s::timestamptz[]) as a (task_id, asked_at)
       left join celery_journal.task_result t on t.task_id = a.task_id
 where t.task_id is null
    or ((t.date_done is null
         or (t.status = 'REVOKED'
             and not exists (select from celery_journal.task_attempt r where r.task_id = t.task_id and r.status = 'REVOKED')))
        and (t.retries > 0 or t.date_sent <= a.asked_at + interval '1 minute'))

-- name: delayed
-- In one stretch of the log, those of the tasks that were sent with an eta that has not passed for long.
select s.stream as task_id
  from celery_journal.event s
 where s.stream = any(%(task_ids)s)
   and s.kind = 'task-sent'
   and s.eta > clock_timestamp() - %(seconds)s * interval '1 second'
   and s.event_id between %(first_id)s::uuid and %(last_id)s::uuid

-- name: heard
-- Of the tasks that are REVOKED, the newest, those that no worker has told the end of: one that heard of it has said so, whoever asked.
select r.task_id
  from (select t.task_id, t.date_done, t.date_sent, t.retries
          from celery_journal.task_result t
         where t.status = 'REVOKED'
         order by t.date_done desc nulls first
         limit %(at_most)s) r
 where not exists (select from celery_journal.task_attempt a where a.task_id = r.task_id and a.status = 'REVOKED')
   and (r.retries > 0 or r.date_sent <= r.date_done + interval '1 minute')
 order by r.date_done

-- name: open before
-- The oldest of the tasks that have not ended.
select t.task_id
  from celery_journal.task_result t
 where t.date_done is null and t.date_created < %(before)s
 order by t.date_created
 limit %(at_most)s

-- name: stamped
-- In one stretch of the log, with which stamps the tasks were sent, and when.
select s.stream as task_id, s.occurred_at, celery_journal.json_or_null(s.meta) -> 'stamps' as stamps
  from celery_journal.event s
 where s.stream = any(%(task_ids)s)
   and s.kind = 'task-sent'
   and s.meta is not null
   and s.event_id between %(first_id)s::uuid and %(last_id)s::uuid
