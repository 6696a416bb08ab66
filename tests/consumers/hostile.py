"""Databases whose sessions are as their owner or an attacker would have them: planted functions, odd settings."""

from __future__ import annotations

import psycopg
import pytest

#: A function of the same name and arguments for each of PostgreSQL's own, an operator likewise, and a type: whoever looks into `public`
#: first finds these. Those that cannot be made, because only PostgreSQL itself may use such types, are left out.
PLANT = """
do $$
declare
    one record;
begin
    for one in select p.proname as name, pg_get_function_identity_arguments(p.oid) as arguments
                 from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
                where n.nspname = 'pg_catalog' and p.prokind = 'f'
    loop
        begin
            execute format('create function public.%I(%s) returns text language plpgsql as $f$ begin raise exception %L; end $f$',
                           one.name, one.arguments, 'planted function ' || one.name || ' was called');
        exception when others then null;
        end;
    end loop;
    for one in select o.oprname as name, o.oprleft::regtype as left_type, o.oprright::regtype as right_type, o.oprresult::regtype as result,
                      o.oid
                 from pg_catalog.pg_operator o join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
                where n.nspname = 'pg_catalog' and o.oprkind = 'b'
    loop
        begin
            execute format('create function public.planted_%s(%s, %s) returns %s language plpgsql as $f$ begin raise exception %L; end $f$',
                           one.oid, one.left_type, one.right_type, one.result, 'planted operator ' || one.name || ' was called');
            execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.planted_%s)',
                           one.name, one.left_type, one.right_type, one.oid);
        exception when others then null;
        end;
    end loop;
    execute 'create function public.planted_state(bigint) returns bigint language plpgsql as '
            '$f$ begin raise exception ''planted aggregate count was called''; end $f$';
    execute 'create aggregate public.count(*) (sfunc = public.planted_state, stype = bigint, initcond = ''0'')';
    for one in select c.relname as name
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'pg_catalog' and c.relkind in ('r', 'v')
    loop
        execute format('create view public.%I as select 1 as planted', one.name);
    end loop;
    for one in select t.typname as name
                 from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
                where n.nspname = 'pg_catalog' and t.typtype = 'b' and t.typcategory <> 'A'
    loop
        begin
            execute format('create domain public.%I as pg_catalog.text check (pg_catalog.length(value) < 0)', one.name);
        exception when others then null;
        end;
    end loop;
    execute format('alter database %I set search_path = public, pg_catalog', current_database());
end $$"""

#: How values are written and read, and what is found; all at once.
WRITTEN_OTHERWISE = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-10",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "default_transaction_isolation": "serializable",
    "search_path": "nothing",
    "xmlbinary": "hex",
    "check_function_bodies": "off",
    "plan_cache_mode": "force_generic_plan",
}


def plant(dsn: str) -> None:
    """Make them, and let them come first for whoever does not say where to look."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(PLANT.encode())
    with psycopg.connect(dsn, autocommit=True) as careless:  # else nothing that is tried here would show anything
        for query in ("select now()", "select 1 where 1 = 1", "select count(*) from (values (1)) v", "select md5('x')"):
            with pytest.raises(psycopg.errors.RaiseException, match="planted"):
                careless.execute(query.encode())


def have(dsn: str, settings: dict[str, str], *, of: str = "database") -> None:
    """Give the database these settings, or the login of the DSN in it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        database = f'database "{connection.info.dbname}"'
        whose = {"database": database, "role": f'role "{connection.info.user}" in {database}'}[of]
        for name, value in settings.items():
            quoted = value if name in {"search_path", "datestyle"} else f"'{value}'"
            connection.execute(f"alter {whose} set {name} = {quoted}".encode())
