"""Everything that a schema consists of, as PostgreSQL describes it, to compare one with another."""

from __future__ import annotations

from typing import Any

from celery_journal.journal import Connection

Catalog = dict[str, list[tuple[Any, ...]]]

QUERIES = {
    "relations": b"""
        select c.relname, c.relkind, c.relpersistence, c.reloptions, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
               (select inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid)
          from pg_class c where c.relnamespace = %(schema)s::regnamespace""",
    "columns": b"""
        select c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
               a.attcollation::regcollation::text, a.attstorage, pg_get_expr(d.adbin, d.adrelid)
          from pg_class c join pg_attribute a on a.attrelid = c.oid left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
         where c.relnamespace = %(schema)s::regnamespace and a.attnum > 0 and not a.attisdropped""",
    "constraints": b"""
        select conrelid::regclass::text, conname, contype, convalidated, pg_get_constraintdef(oid)
          from pg_constraint where connamespace = %(schema)s::regnamespace""",
    "indexes": b"select tablename, indexname, indexdef from pg_indexes where schemaname = %(schema)s",
    "sequences": b"""
        select sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size
          from pg_sequences where schemaname = %(schema)s""",
    "functions": b"""
        select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_proc p where p.pronamespace = %(schema)s::regnamespace""",
    "triggers": b"""
        select t.tgrelid::regclass::text, t.tgname, t.tgenabled, pg_get_triggerdef(t.oid)
          from pg_trigger t join pg_class c on c.oid = t.tgrelid
         where c.relnamespace = %(schema)s::regnamespace and not t.tgisinternal""",
    "views": b"select viewname, definition from pg_views where schemaname = %(schema)s",
    "comments": b"""
        select c.relname, d.objsubid, d.description
          from pg_description d join pg_class c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
         where c.relnamespace = %(schema)s::regnamespace""",
    "privileges": b"""
        select c.relname, c.relacl::text from pg_class c where c.relnamespace = %(schema)s::regnamespace
         union all select p.proname, p.proacl::text from pg_proc p where p.pronamespace = %(schema)s::regnamespace""",
}


def catalog(connection: Connection, schema: str = "celery_journal") -> Catalog:
    """Return every object of the schema by its kind, and the migrations that it says it has had."""
    found = {kind: sorted(connection.execute(query, {"schema": schema}).fetchall(), key=repr) for kind, query in QUERIES.items()}
    found["migrations"] = connection.execute(f"select version, name from {schema}.migration order by version".encode()).fetchall()
    return found
