-- What the backend asks about chords.

-- name: claim
-- A transaction of its own, which need not wait for the disk: the part is safe, and the sweep counts it again after a crash.
select celery_journal.claim_chord(%(chord)s, %(parts)s, %(claimant)s, %(lease)s * interval '1 second')
  from (select set_config('synchronous_commit', 'off', true)) as durability

-- name: release
select celery_journal.release_chord(%(chord)s)

-- name: open
select celery_journal.open_chords()

-- name: begin sweep
select celery_journal.begin_sweep(%(claimant)s, %(pause)s * interval '1 second')

-- name: stragglers
select s.group_id, s.task_id, s.group_index, s.told_by from celery_journal.stragglers(%(silent_for)s * interval '1 second') s

-- name: has ended
-- Whether the chord ran to an end before: what is asked right after it was started anew.
select exists (select from celery_journal.chord_counter c where c.group_id = %(chord)s and c.state <> 'open')
