-- Hints to those who wait for results, by NOTIFY on the channel named after the schema. A hint says which streams to read
-- again and nothing else; whoever misses one reads again after a while all the same.
--
-- Whoever listens holds shared advisory locks. A writer that can have one for itself knows that nobody listens, and saves
-- the NOTIFY, which takes a lock that the whole cluster shares. There are 64 of them, so that writers rarely take each other
-- for a listener. Never in the transaction of the append: that lock would be held across its fsync.

-- name: announce
select case when not pg_try_advisory_xact_lock(hashtextextended('celery_journal.' || %(audience)s::text, pg_backend_pid() %% 64))
            then pg_notify('celery_journal', %(tokens)s)
       end
  from (select set_config('synchronous_commit', 'off', true)) as durability

-- name: listen
listen celery_journal

-- name: hear
select pg_advisory_lock_shared(hashtextextended('celery_journal.' || %(audience)s::text, place)) from generate_series(0, 63) as place
