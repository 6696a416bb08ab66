-- Transaction ids are a cluster's own. A log that is restored into another one would stand behind a horizon that takes months to come
-- there, in silence, and what is written next would stand before it. So the log counts on: `added` is added to the transaction ids of
-- the cluster `generation`, from the moment on in which that was found out, and the places of the log only ever grow.

create table celery_journal.epoch (
    number     integer     primary key,
    generation text        not null,
    added      bigint      not null,
    begun_at   timestamptz not null default clock_timestamp(),
    constraint epoch_counts_on check (added >= 0)
);

insert into celery_journal.epoch (number, generation, added)
select 0, c.system_identifier::text, 0 from pg_control_system() c;

-- Places go on in another cluster, so a checkpoint needs not say in which it was made.
alter table celery_journal.subscription drop column generation;
