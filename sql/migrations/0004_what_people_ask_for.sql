-- Indexes for what people do with the views: lists by name, state, worker and time, the canvas of a task, and replays.
--
-- A list is newest first, so what is asked for most comes with the date. `status` and `worker` change on the way of a task, and its
-- row cannot stay on its page then (HOT): these two cost about 15 % more WAL an event, all the others together 6 %. A partial index
-- would not help, for PostgreSQL asks whether a column of any index has changed. Without them a rare state is looked for through all.

create index task_result_row_task_name on celery_journal.task_result_row (task_name, date_done desc nulls first);
create index task_result_row_status on celery_journal.task_result_row (status, date_done desc nulls first);
create index task_result_row_worker on celery_journal.task_result_row (worker, date_done desc nulls first);
create index task_result_row_date_created on celery_journal.task_result_row (date_created desc);
create index task_result_row_periodic_task_name on celery_journal.task_result_row (periodic_task_name, date_done desc nulls first)
 where periodic_task_name is not null;

-- The order of a list as long as nobody asks for another: what has not ended first, then the newest.
drop index celery_journal.task_result_row_date_done;
create index task_result_row_date_done on celery_journal.task_result_row (date_done desc nulls first, task_id);

-- A canvas from any of its members. Most tasks are their own root, and in no group.
create index task_result_row_root_id on celery_journal.task_result_row (root_id) where root_id <> task_id;
create index task_result_row_group_id on celery_journal.task_result_row (group_id) where group_id is not null;

-- Whoever has the id of a chord's body has nothing else, if that never ran.
create index chord_counter_row_body_of on celery_journal.chord_counter_row ((coalesce(body_task_id, asked_body_task_id)));

create index group_result_row_date_saved on celery_journal.group_result_row (saved_at desc);

-- What people have said of tasks that lists go by.
create index event_marks on celery_journal.event (stream, position) where kind = 'operator-acted' and meta is not null;

-- Which replays there were.
create index event_replay on celery_journal.event (position) where kind = 'replay-started';
