-- Checkpoints have owners, and leases the login of who holds them.
--
-- A checkpoint is moved by the login that began it; one of an earlier version belongs to whoever moves it first. The owner of the
-- schema may hand it over: update celery_journal.subscription set owner = 'auditor_2' where name = 'audit';

alter table celery_journal.subscription add column owner name;
alter table celery_journal.subscription alter column owner set default current_user;

alter table celery_journal.subscription enable row level security;
create policy everyone_reads on celery_journal.subscription for select using (true);
create policy one_begins_ones_own on celery_journal.subscription for insert with check (owner = current_user);
create policy one_moves_ones_own on celery_journal.subscription for update
using (owner = current_user or owner is null) with check (owner = current_user);

alter table celery_journal.chord_lease add column login name;
