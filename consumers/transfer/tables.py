"""Reading the tables of another result backend, in whatever database SQLAlchemy reaches (the extra `import`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .past import ForeignError

#: Rows that are held at a time.
PAGE = 1000


def rows_of(url: str, *tables: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of those of the tables that exist, each with the name of its table, by their ids.

    Raises ForeignError where SQLAlchemy is missing, or the URL leads to no database that has one of them.
    """
    try:
        import sqlalchemy
    except ModuleNotFoundError as exc:
        raise ForeignError("reading the tables needs SQLAlchemy; run: pip install 'celery-journal[import]'") from exc

    try:
        address = sqlalchemy.make_url(_with_our_driver(url))
    except (sqlalchemy.exc.ArgumentError, ValueError) as exc:  # which quote it, and in it the password
        raise ForeignError("the URL cannot be read; write it as postgresql://user@host/database, or sqlite:////path/to/file") from exc
    with _one_sentence(url):
        engine = sqlalchemy.create_engine(address)
    try:
        with _one_sentence(url), engine.connect() as connection:
            names = set(sqlalchemy.inspect(connection).get_table_names())
            found = [name for name in tables if name in names]
            if not found:
                raise ForeignError(f"{engine.url.render_as_string()} has no table {' or '.join(tables)}")
            for name in found:
                table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
                for column in table.columns:  # as it is stored: a pickle is not to be opened because a column says so
                    if isinstance(column.type, sqlalchemy.PickleType):
                        column.type = sqlalchemy.LargeBinary()
                reading = connection.execution_options(yield_per=PAGE).execute(sqlalchemy.select(table).order_by(*_order(table)))
                for row in reading.mappings():
                    yield name, dict(row)
    finally:
        engine.dispose()


def named(row: Mapping[str, Any], column: str) -> str:
    """Return whose row it is, as far as it says."""
    return str(row.get(column) or "a row without an id")


def _order(table: Any) -> list[Any]:
    """Return the columns that the rows are read by: Celery's ids, or whatever is the key of a table that has none."""
    return [table.c.id] if "id" in table.c else list(table.primary_key)


def _with_our_driver(url: str) -> str:
    """Return the URL as SQLAlchemy takes it: without Celery's `db+`, and for PostgreSQL with psycopg 3."""
    url = url.removeprefix("db+")
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return f"postgresql+psycopg://{url.removeprefix(scheme)}"
    return url


@contextmanager
def _one_sentence(url: str) -> Iterator[None]:
    import sqlalchemy

    scheme = url.partition("://")[0]
    try:
        yield
    except (sqlalchemy.exc.NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ForeignError(f"there is no driver for {scheme}:// here; install it, as SQLAlchemy's documentation names it") from exc
    except sqlalchemy.exc.DBAPIError as exc:
        raise ForeignError(f"the database of the old results fails: {str(exc.orig).strip().partition(chr(10))[0]}") from exc
    except sqlalchemy.exc.SQLAlchemyError as exc:
        raise ForeignError(f"the database of the old results cannot be read: {str(exc).partition(chr(10))[0]}") from exc
