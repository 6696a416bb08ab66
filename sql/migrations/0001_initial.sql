-- The tables of celery-journal.
--
-- event             the log: one row is one fact about one stream (a task id or a group id). Append-only.
-- task_result_row   the registers of one task; the SQL view task_result shows them to people.
-- group_result_row  the registers of one saved group; view group_result.
-- chord_counter_row the registers of one chord; view chord_counter, which counts the parts.
-- chord_part_row    one returned member of a chord's header, inserted once; view chord_part.
-- chord_lease       operational, not a view: who is about to send a chord's body, and until when.
-- subscription      how far each reader of the log has come.
-- migration         which numbered migrations this schema has had.
--
-- Order of locks, the same for every statement: event, then task_result_row, group_result_row, chord_counter_row
-- and chord_part_row, each by ascending key, then chord_lease. There is nothing that all writers share, because
-- whatever every writer holds until its commit limits the whole system to one fsync at a time.

create table celery_journal.migration (
    version    integer     primary key,
    name       text        not null,
    applied_at timestamptz not null default clock_timestamp()
);

-- The columns are what people search, join and fold by. `result`, `args` and `kwargs` are the bytes of Celery's
-- serializer; whatever else a fact has is in `body` (msgpack). Text and jsonb cannot hold NUL, so user data is bytea.
-- Ids are compared byte by byte (collation "C"): nobody sorts them by a language's rules, and it is quicker.
create sequence celery_journal.event_position;

create table celery_journal.event (
    transaction        xid8        not null default pg_current_xact_id(),
    position           bigint      not null default nextval('celery_journal.event_position'),
    event_id           uuid        not null,
    occurred_at        timestamptz not null,
    recorded_at        timestamptz not null default clock_timestamp(),
    attempt            integer     not null default 0,
    schema_version     smallint    not null default 1,
    stream             text        not null collate "C",
    kind               text        not null,
    pid                integer,
    group_index        integer,
    size               integer,
    state              text,
    name               text,
    worker             text,
    queue              text,
    root_id            text,
    parent_id          text,
    group_id           text,
    task_id            text,
    periodic_task_name text,
    members            text[],
    content_type       text,
    content_encoding   text,
    args_content_type  text,
    args               bytea,
    kwargs             bytea,
    result             bytea,
    traceback          text,
    meta               bytea,
    body               bytea,
    primary key (event_id, stream),
    constraint event_attempt_counts_from_zero check (attempt >= 0),
    constraint event_size_counts_from_zero check (size >= 0)
) partition by range (event_id);

alter sequence celery_journal.event_position owned by celery_journal.event.position;

comment on column celery_journal.event.position is
    'The place in the log. Handed out before the commit, so it is no safe cursor by itself: read in the order of (transaction, position).';
comment on column celery_journal.event.task_id is
    'In the stream of a group: the member that returned, or the body that was sent.';

create index event_stream on celery_journal.event (stream, position);
create index event_order on celery_journal.event (transaction, position);

-- No insert can ever fail for want of a partition: a clock that is years off lands here, and is watched.
create table celery_journal.event_default partition of celery_journal.event default;

-- `forgotten_position` is what stands before it in the log and does not count; a row with nothing after it is not shown.
-- It stays until no transaction that began before `forgotten_before` can still bring an earlier fact.
--
-- Each register is a value with the key it was written under; rank -1 is a key that every fact beats.
create table celery_journal.task_result_row (
    task_id            text        collate "C" primary key,
    forgotten_position bigint,
    forgotten_before   xid8,
    date_created       timestamptz,
    date_updated       timestamptz,
    asked_rank         bigint      not null default -1,
    asked_at           timestamptz not null default '-infinity',
    asked_position     bigint      not null default 0,
    task_name          text,
    periodic_task_name text,
    args               bytea,
    kwargs             bytea,
    args_content_type  text,
    queue              text,
    root_id            text,
    parent_id          text,
    group_id           text,
    run_rank           bigint      not null default -1,
    run_at             timestamptz not null default '-infinity',
    run_position       bigint      not null default 0,
    worker             text,
    pid                integer,
    started_attempt    integer     not null default -1,
    date_started       timestamptz,
    outcome_rank       bigint      not null default -1,
    outcome_at         timestamptz not null default '-infinity',
    outcome_position   bigint      not null default 0,
    status             text,
    retries            integer,
    date_done          timestamptz,
    content_type       text,
    content_encoding   text,
    result             bytea,
    traceback          text,
    meta               bytea
) with (fillfactor = 75);

create index task_result_row_forgotten on celery_journal.task_result_row (task_id) where forgotten_position is not null;
create index task_result_row_date_done on celery_journal.task_result_row (date_done desc nulls first);

create table celery_journal.group_result_row (
    group_id           text        collate "C" primary key,
    forgotten_position bigint,
    forgotten_before   xid8,
    date_created       timestamptz,
    saved_rank         integer     not null default -1,
    saved_at           timestamptz not null default '-infinity',
    saved_position     bigint      not null default 0,
    members            text[],
    content_type       text,
    content_encoding   text,
    result             bytea
) with (fillfactor = 90);

create index group_result_row_date_created on celery_journal.group_result_row (date_created);

create table celery_journal.chord_counter_row (
    group_id           text        collate "C" primary key,
    forgotten_position bigint,
    forgotten_before   xid8,
    date_created       timestamptz,
    started_rank       integer     not null default -1,
    started_at         timestamptz not null default '-infinity',
    started_position   bigint      not null default 0,
    sub_tasks          bytea,
    size_rank          integer     not null default -1,
    size_at            timestamptz not null default '-infinity',
    size_position      bigint      not null default 0,
    size               integer,
    added              text[]      not null default '{}',
    ended_rank         integer     not null default -1,
    ended_at           timestamptz not null default '-infinity',
    ended_position     bigint      not null default 0,
    date_done          timestamptz,
    body_task_id       text,
    constraint chord_counter_row_size_counts_from_zero check (size >= 0)
) with (fillfactor = 75);

-- The sweep looks at open chords only.
create index chord_counter_row_open on celery_journal.chord_counter_row (date_created) where ended_rank < 0;

create table celery_journal.chord_part_row (
    group_id         text        not null collate "C",
    task_id          text        not null collate "C",
    group_index      integer     not null,
    part_rank        smallint    not null default -1,
    part_position    bigint      not null,
    date_done        timestamptz not null,
    status           text        not null,
    content_type     text,
    content_encoding text,
    result           bytea,
    primary key (group_id, task_id, group_index)
);

comment on column celery_journal.chord_part_row.group_index is
    'The place in the header; -1 when Celery gave none.';

-- `returned` is a cheap upper bound of the parts (a redelivered part is counted again): only when it reaches the
-- size are the parts themselves counted, so that a chord of N parts does not cost N * N reads.
create table celery_journal.chord_lease (
    group_id      text        collate "C" primary key,
    returned      integer     not null default 0,
    claimed_by    text,
    claimed_until timestamptz
) with (fillfactor = 50);

-- A restore into another cluster restarts transaction ids, so a checkpoint names the generation it was read in.
create table celery_journal.subscription (
    name        text        primary key,
    generation  text        not null,
    transaction xid8        not null,
    position    bigint      not null,
    updated_at  timestamptz not null default clock_timestamp()
);
