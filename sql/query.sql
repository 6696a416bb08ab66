-- Questions to the views, put together from these pieces. Names in braces are filled in from the tables of projections/fields.py, and
-- never from what a user says: that is always a parameter.

-- name: rows
select {columns}
  from celery_journal.{view} t
 where {condition}
 order by {order}
 limit {limit} offset {start}

-- name: count
select count(*)
  from (select from celery_journal.{view} t where {condition} limit {limit} offset {start}) r

-- name: exists
select exists (select from celery_journal.{view} t where {condition} limit {limit} offset {start})

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
(t.date_done - t.date_started)

-- name: column eta
(select max(a.eta) from celery_journal.task_attempt a where a.task_id = t.task_id)

-- name: column expires
(select max(a.expires) from celery_journal.task_attempt a where a.task_id = t.task_id)

-- name: column hidden
-- Few tasks are marked, and an index knows which: they are looked up once, and not for each row.
(t.task_id in (select m.task_id from celery_journal.marked('hidden') as m (task_id)))

-- name: column resolved
(t.task_id in (select m.task_id from celery_journal.marked('resolved') as m (task_id)))

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
{column} < statement_timestamp() - {value}::interval

-- name: within
{column} >= statement_timestamp() - {value}::interval

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

-- name: path in a place
{column} #> {place}::text[] @> celery_journal.json_or_null({value}::bytea)

-- name: value in a place
{column} #> {place}::text[] = celery_journal.json_or_null({value}::bytea)

-- name: isolation
select current_setting('transaction_isolation')
