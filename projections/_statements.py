"""Fills the templates of sql/rebuild.sql, which name tables."""

from __future__ import annotations

import re

from celery_journal.sql import queries


def statement(name: str, schema: str, /, **names: str) -> bytes:
    """Return the statement `name`, its placeholders filled."""
    return re.sub(r"\{([a-z ]+)\}", lambda match: names[match[1].replace(" ", "_")], queries("rebuild.sql", schema)[name]).encode()
