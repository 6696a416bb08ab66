-- Questions to the views, put together from these pieces. Names in braces are filled in from the tables of projections/fields.py, and
-- never from what a user says: that is always a parameter.

-- name: rows
select {what}
  from celery_journal.{view} t
 where {condition}
 order by {order}
 limit {limit} offset {start}

-- name: number
select count(*)
  from (select {what} from celery_journal.{view} t where {condition} limit {limit} offset {start}) r

-- name: aggregates
select {aggregates}
  from (select {what} from celery_journal.{view} t where {condition}) r

-- name: aggregates of a slice
select {aggregates}
  from (select {what} from celery_journal.{view} t where {condition} order by {order} limit {limit} offset {start}) r

-- name: exists
select exists (select {what} from celery_journal.{view} t where {condition} limit {limit} offset {start})

-- name: distinct
distinct {columns}

-- name: count of rows
count(*)

-- name: count
count({column})

-- name: count distinct
count(distinct {column})

-- name: min
min({column})

-- name: max
max({column})

-- name: sum
sum({column})

-- name: avg
avg({column})

-- name: avg of integer
avg({column})::double precision

-- name: everything
true

-- name: nothing
false

-- name: all
({parts})

-- name: not
-- What is not known, as the worker of a task that nobody has run, is not what was named.
({condition}) is not true

-- name: column
t.{label}

-- name: column run_time
(case when isfinite(t.date_done) and isfinite(t.date_started) then t.date_done - t.date_started end)

-- name: column eta
(select max(a.eta) from celery_journal.task_attempt a where a.task_id = t.task_id)

-- name: column expires
(select max(a.expires) from celery_journal.task_attempt a where a.task_id = t.task_id)

-- name: column believed_date_done
-- A clock that is more than a day ahead of the database, or ten years behind, is not believed; nor in the next.
(case when t.date_done not between t.recorded_at - interval '10 years' and t.recorded_at + interval '1 day' then t.recorded_at else t.date_done end)

-- name: column believed_date_saved
(case when t.date_saved not between t.recorded_at - interval '10 years' and t.recorded_at + interval '1 day' then t.recorded_at else t.date_saved end)

-- name: keys of hidden
select m.task_id from celery_journal.marked('hidden') as m (task_id)

-- name: keys of resolved
select m.task_id from celery_journal.marked('resolved') as m (task_id)

-- name: keys of settled
select s.task_id from celery_journal.settled() s

-- name: keys of replayed
select r.task_id from celery_journal.replayed() r

-- name: keys of replay_failed
select r.task_id from celery_journal.replayed() r where r.has_failed

-- name: among
-- Few tasks are so, and an index knows which: they are looked up once, and not for each row.
(t.task_id in ({keys}))

-- name: only among
-- An array, so that they are looked up by their keys: of how few there are the planner does not know.
t.task_id = any(array({keys}))

-- name: gt of run_time
-- Those that ran for long have an index.
(({value} < interval '10 seconds' or t.ran_long) and {column} > {value})

-- name: gte of run_time
(({value} < interval '10 seconds' or t.ran_long) and {column} >= {value})

-- name: gt of runs
-- Those that ran again have an index: where no others are asked for, their runs alone are counted. Likewise in the next two.
(({value} < 1 or t.ran_again) and {column} > {value})

-- name: gte of runs
(({value} < 2 or t.ran_again) and {column} >= {value})

-- name: exact of runs
(({value} < 2 or t.ran_again) and {column} = {value})

-- name: column replaced_name
(select r.name from celery_journal.event r where r.stream = t.task_id and r.kind = 'task-replaced' order by r.position limit 1)

-- name: each replaced_name
r.name

-- name: any replaced_name
-- An array, so that the keys are looked up by their index also beside another condition. Few tasks put another one in their place.
t.task_id = any(array(select r.stream from celery_journal.event r where r.kind = 'task-replaced' and {condition}))

-- name: as text
{column}::text

-- name: named
{column} as {label}

-- name: ascending
{column}

-- name: descending
{column} desc

-- name: exact
{column} = {value}

-- name: exact of root_id
-- The index knows those that are not their own root; that one is known by its key.
((t.root_id = {value} and t.root_id <> t.task_id) or (t.task_id = {value} and t.root_id = {value}))

-- name: exact of json
{column} = celery_journal.json_or_null({value}::bytea)

-- name: in
{column} = any({value})

-- name: gt
{column} > {value}

-- name: gte
{column} >= {value}

-- name: lt
{column} < {value}

-- name: lte
{column} <= {value}

-- name: older_than
-- In seconds: a day of an interval has 23 or 25 hours where the session's clock changes.
{column} < statement_timestamp() - extract(epoch from {value}::interval) * interval '1 second'

-- name: within
{column} >= statement_timestamp() - extract(epoch from {value}::interval) * interval '1 second'

-- name: is null
{column} is null

-- name: is not null
{column} is not null

-- name: contains
strpos({column}, {value}) > 0

-- name: contains of bytes
position({value}::bytea in {column}) > 0

-- name: contains of texts
{value} = any({column})

-- name: icontains
strpos(lower({column}), lower({value})) > 0

-- name: startswith
starts_with({column}, {value})

-- name: startswith of bytes
substring({column} from 1 for length({value}::bytea)) = {value}::bytea

-- name: istartswith
starts_with(lower({column}), lower({value}))

-- name: glob
{column} like {value}

-- name: path
-- Of a value that jsonb cannot hold nothing can be known to contain it.
{column} @> celery_journal.json_or_null({value}::bytea)

-- name: path of an object
-- A list contains text and numbers that it has as an item, but an object only as an item of a list.
({column} @> celery_journal.json_or_null({value}::bytea) or {column} @> celery_journal.json_or_null({item}::bytea))

-- name: path in a place
{column} #> {place}::text[] @> celery_journal.json_or_null({value}::bytea)

-- name: value in a place
{column} #> {place}::text[] = celery_journal.json_or_null({value}::bytea)

-- name: isolation
select current_setting('transaction_isolation')
