"""The schema, its migrations, the folds and the named queries, as ``.sql`` files, and the loader that reads them.

The files say ``celery_journal`` where they mean the PostgreSQL schema; the loader puts the configured name there.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

DEFAULT_SCHEMA = "celery_journal"

_SECTION = re.compile(r"^-- name: (.+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_SCHEMA = re.compile(r"\bcelery_journal\b")
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")


def check_schema_name(schema: str) -> str:
    """Return the schema name, if it has the form of a plain SQL name; raise ValueError otherwise.

    A reserved word of SQL has that form too; PostgreSQL refuses it at the first migration.
    """
    if not _SCHEMA_NAME.fullmatch(schema) or schema.startswith("pg_"):
        raise ValueError(
            f"schema {schema!r} is not usable: take up to 40 lower-case letters, digits and underscores, not starting with pg_ or a digit"
        )
    return schema


@cache
def load(path: str, schema: str = DEFAULT_SCHEMA) -> str:
    """Return the text of the file ``path`` (relative to this folder) for the schema."""
    text = resources.files(__package__).joinpath(*path.split("/")).read_text("utf-8")
    return text if schema == DEFAULT_SCHEMA else _SCHEMA.sub(check_schema_name(schema), text)


@cache
def queries(path: str, schema: str = DEFAULT_SCHEMA) -> dict[str, str]:
    """Return the named statements of the file ``path``, without their comments, by name."""
    parts = _SECTION.split(load(path, schema))
    return {name: _COMMENT.sub("", text).strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def query(path: str, name: str, schema: str = DEFAULT_SCHEMA) -> bytes:
    """Return one named statement as bytes, which is what psycopg takes without a cast."""
    return queries(path, schema)[name].encode()


def migrations(schema: str = DEFAULT_SCHEMA) -> list[tuple[int, str, str]]:
    """Return every migration as (version, name, text), by version."""
    folder = resources.files(__package__).joinpath("migrations")
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(int(name[:4]), name.removesuffix(".sql"), load(f"migrations/{name}", schema)) for name in names]
