-- rebuild: task_result, chord_counter, worker
-- Runs, workers, and who says so: what signals and broadcasts tell besides the result backend.
--
-- task_attempt_row  the registers of one run of a task, that is, of one delivery of the message of an attempt; view task_attempt.
-- worker_row        the registers of one worker; view worker.
--
-- In the order of locks, task_attempt_row comes after task_result_row, and worker_row after chord_part_row.

alter table celery_journal.event
    add column eta        timestamptz,
    add column expires    timestamptz,
    add column time_limit double precision,
    add column source     text,
    add column run        text,
    add column reason     text;

-- `recorded_at` is the last by the clock of the database, and `news_position` the last place in the log; `lost_reason` is set
-- only where task-lost stands there: whatever is heard of the task afterwards means that it was not.
alter table celery_journal.task_result_row
    add column date_sent     timestamptz,
    add column recorded_at   timestamptz,
    add column news_position bigint      not null default 0,
    add column lost_reason   text;

-- What is asked again and again is what has not ended. `date_created` hardly ever changes, so updates stay cheap.
create index task_result_row_open on celery_journal.task_result_row (date_created) where date_done is null;

alter table celery_journal.chord_counter_row add column asked_body_task_id text collate "C";

-- Whoever waits for a chord has the id of its body, of which nothing else is known before it is sent.
create index chord_counter_row_body on celery_journal.chord_counter_row (asked_body_task_id) where ended_rank < 0;

-- One run of an attempt: a delivery of its message. What is told without a delivery (that it was sent, for one) is the run ''.
create table celery_journal.task_attempt_row (
    task_id             text             not null collate "C",
    attempt             integer          not null,
    run                 text             not null collate "C",
    date_sent           timestamptz,
    sent_recorded_at    timestamptz,
    date_received       timestamptz,
    date_started        timestamptz,
    started_recorded_at timestamptz,
    recorded_at         timestamptz      not null,
    eta                 timestamptz,
    expires             timestamptz,
    time_limit          double precision,
    queue               text,
    run_rank            smallint         not null default -1,
    run_at              timestamptz      not null default '-infinity',
    run_position        bigint           not null default 0,
    worker              text,
    pid                 integer,
    end_rank            smallint         not null default -1,
    end_at              timestamptz      not null default '-infinity',
    end_position        bigint           not null default 0,
    status              text,
    date_done           timestamptz,
    traceback           text,
    primary key (task_id, attempt, run)
) with (fillfactor = 75);

create table celery_journal.worker_row (
    worker             text        collate "C" primary key,
    forgotten_position bigint,
    forgotten_before   xid8,
    date_created       timestamptz,
    online_rank        smallint    not null default -1,
    online_at          timestamptz not null default '-infinity',
    online_position    bigint      not null default 0,
    seen_rank          smallint    not null default -1,
    last_seen          timestamptz not null default '-infinity',
    seen_position      bigint      not null default 0,
    is_offline         boolean,
    occurred_at        timestamptz,
    pid                integer,
    source             text,
    meta               bytea
) with (fillfactor = 50);
