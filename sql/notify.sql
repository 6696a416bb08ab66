-- Hints to those who wait for results, by NOTIFY on the channel named after the schema. A hint says which streams to read
-- again and nothing else; whoever misses one reads again after a while all the same.
--
-- Whoever listens holds shared advisory locks. A writer that can have one for itself knows that nobody listens, and saves
-- the NOTIFY, which takes a lock that the whole cluster shares. There are sixteen of them, so that writers do not take
-- each other for a listener. Never in the transaction of the append: that lock would be held across its fsync.

-- name: announce results
select case when not pg_try_advisory_xact_lock(hashtextextended('celery_journal.results', pg_backend_pid() %% 16))
            then pg_notify('celery_journal', %(tokens)s)
       end
  from (select set_config('synchronous_commit', 'off', true)) as durability

-- name: announce transitions
select case when not pg_try_advisory_xact_lock(hashtextextended('celery_journal.transitions', pg_backend_pid() %% 16))
            then pg_notify('celery_journal', %(tokens)s)
       end
  from (select set_config('synchronous_commit', 'off', true)) as durability

-- name: listen
listen celery_journal

-- name: hear results
select pg_advisory_lock_shared(hashtextextended('celery_journal.results', place)) from generate_series(0, 15) as place

-- name: hear transitions
select pg_advisory_lock_shared(hashtextextended('celery_journal.transitions', place)) from generate_series(0, 15) as place

-- name: backend
-- A pooler answers with the process id of whatever server connection it has lent, and not with the one it gave us.
select pg_backend_pid()
