-- What the backend asks about chords.

-- name: claim
-- A transaction of its own, which need not wait for the disk: the part is safe, and the sweep counts it again after a crash.
select celery_journal.claim_chord(%(chord)s, %(parts)s, %(claimant)s, %(lease)s * interval '1 second')
  from (select set_config('synchronous_commit', 'off', true)) as durability

-- name: release
select celery_journal.release_chord(%(chord)s)

-- name: open
select celery_journal.open_chords()

-- name: started
-- Whether any fact about the body is recorded, and so whether it was sent.
select exists (select from celery_journal.event where stream = %(task_id)s)
