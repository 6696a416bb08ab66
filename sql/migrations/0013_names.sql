-- A task that puts another one in its place goes on under its id, but by the name of that one. By which names people know it, the runs
-- that have ended so tell. In the index of what people have said of tasks: a statement locks every index of each partition that it reads.
drop index celery_journal.event_marks;
create index event_marks on celery_journal.event (stream, position) include (kind, name)
 where (kind = 'operator-acted' and meta is not null) or kind = 'task-replaced';
