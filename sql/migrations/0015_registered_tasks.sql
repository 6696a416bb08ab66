-- The names of the tasks that a worker has registered. It tells them when it comes and when they change, and not with every heartbeat:
-- they have a place in the log of their own. Workers that are online by now have not told any.
alter table celery_journal.worker_row
    add column tasks_position bigint not null default 0,
    add column tasks          text[];
