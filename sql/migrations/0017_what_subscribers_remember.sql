-- What a subscriber has to remember beside its place, and that moves with it: `watch` the episodes that are open, and what is not told yet.
alter table celery_journal.subscription add column state bytea;

comment on column celery_journal.subscription.state is
    'What the subscriber remembers, in its own form; null where it remembers nothing. It is written with the place, or not at all.';
