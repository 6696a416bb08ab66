-- Who was logged in to the database when a fact was recorded: what a client says of itself, such as an author, is only said.
--
-- Two steps: session_user is no constant, so that a column that comes with this default would have every old row written anew. Of those
-- it is not known.
alter table celery_journal.event add column recorded_by text;
alter table celery_journal.event alter column recorded_by set default session_user;

comment on column celery_journal.event.recorded_by is
    'The login by which it was recorded, from the database and not from the client; null where that is not known. No part of the fact.';
