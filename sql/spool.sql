-- The spool: facts that wait for the database, in an SQLite file on the machine where they happened.

-- name: create journal
-- Whose facts these are, for people.
create table journal (place text not null, schema text not null) strict

-- name: name journal
insert into journal (place, schema) values (:place, :schema)

-- name: create waiting
-- The number is never used twice, so the order is that of arrival.
create table waiting (number integer primary key autoincrement, spooled_at real not null, event blob not null) strict

-- name: create refused
-- What the database refuses for its own sake, with the reason: it must not keep the others waiting.
create table refused (number integer primary key, spooled_at real not null, reason text not null, event blob not null) strict

-- name: put
insert into waiting (spooled_at, event) values (:spooled_at, :event)

-- name: length
-- They leave in the order of arrival, so this need not count them.
select coalesce(max(number) - min(number) + 1, 0) from waiting

-- name: first
select number, spooled_at, event from waiting order by number limit :limit

-- name: remove
delete from waiting where number = :number

-- name: refuse
insert or ignore into refused (number, spooled_at, reason, event)
select number, spooled_at, :reason, event from waiting where number = :number

-- name: status
select place, schema, (select count(*) from waiting), (select count(*) from refused), (select min(spooled_at) from waiting) from journal

-- name: reasons
select number, spooled_at, reason from refused order by number
