-- What tasks were sent again as is looked up by lists, as what people have said of tasks is: few facts tell it, of whichever kind, and those of
-- one kind stand together. A replay that may have sent a task notes as which (`task_id`).
drop index celery_journal.event_marks;
create index event_marks on celery_journal.event (kind, stream, position) include (name)
 where (kind = 'operator-acted' and (meta is not null or task_id is not null)) or kind in ('task-replaced', 'task-replayed');

-- What few tasks are and people look for: that they ran again, that they ran for long, that they failed. In the order of lists, so that no plan
-- is quicker by the index of all tasks. What decides changes together with the state, which is in an index already: no row leaves its page for
-- these, and a task that is none of it is in none of them.
create index task_result_row_again on celery_journal.task_result_row (date_done desc nulls first, task_id, retries)
 where retries > 0 or started_attempt > 0 or date_restarted is not null;
create index task_result_row_long on celery_journal.task_result_row (date_done desc nulls first, task_id)
 where case when isfinite(date_done) and isfinite(date_started) then date_done - date_started end >= interval '10 seconds'
    or started_attempt > retries or date_restarted is not null;
create index task_result_row_failed on celery_journal.task_result_row (date_done desc nulls first, task_id)
 where traceback is not null or status in ('FAILURE', 'RETRY', 'REVOKED');
