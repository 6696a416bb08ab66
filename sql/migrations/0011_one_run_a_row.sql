-- rebuild: task_result
-- An id may be sent more than once: by a replay, by a task that replaces itself, by the application. Each run is shown with the newest
-- sending before it, and a task's row is of one run, the one that ended it.

-- The newest start of the newest attempt; null where that is `date_started`.
alter table celery_journal.task_result_row add column date_restarted timestamptz;

-- When it was sent, and when that was recorded, in pairs; null where that was once, as `date_sent` and `sent_recorded_at` tell.
alter table celery_journal.task_attempt_row add column sendings timestamptz[];
