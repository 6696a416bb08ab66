-- What `watch` looks for in the log.

-- name: page
-- Of the next facts of whatever kind, in the order of the log: those of some kinds, and the last, for the place to go on from. How many
-- were read tells whether there may be more. Behind the horizon, as `read all`.
with page as materialized (
    select e.event_id, e.stream, e.kind, e.transaction, e.position,
           row_number() over (order by e.transaction, e.position) as place
      from celery_journal.event e
     where (e.transaction, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
       and e.transaction < %(horizon)s::text::xid8
     order by e.transaction, e.position
     limit %(limit)s),
size as (
    select count(*) as read from page)
select p.event_id, p.stream, p.kind = any(%(kinds)s) as is_told, p.transaction::text::bigint as transaction, p.position, s.read
  from page p
       cross join size s
 where p.kind = any(%(kinds)s) or p.place = s.read
 order by p.place
