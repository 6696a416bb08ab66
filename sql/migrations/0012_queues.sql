-- rebuild: task_result
-- The queue of a task is a queue, by its name, and not the routing key of its message.

-- The one that a worker had it from, for messages of which the sender does not know.
alter table celery_journal.task_result_row add column heard_queue text;
