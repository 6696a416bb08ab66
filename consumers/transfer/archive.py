"""The file that an export is: a header, the events, and at the end how many there are and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Any, BinaryIO

from pydantic import ValidationError

from celery_journal.consumers.words import first_line, shown
from celery_journal.journal import wanted_version
from celery_journal.journal.codec import Row, check_types
from celery_journal.journal.command import command
from celery_journal.journal.errors import JournalError

from .forms import FORMS, Form

#: The version of this layout.
VERSION = 1

_NAME = "celery-journal"


class BrokenFile(JournalError, ValueError):
    """The file is no whole export; the text is one sentence that says where, and what to do."""


def archive(rows: Iterable[Row], form: Form) -> Iterator[bytes]:
    """Yield the bytes of an export of these rows: the same for the same rows, whenever and wherever."""
    digest, count = hashlib.sha256(), -1
    for record in chain([{_NAME: VERSION, "schema_version": wanted_version()}], map(form.record_of, rows)):
        data = form.written(record)
        digest.update(data)
        count += 1
        yield data
    yield form.written({"events": count, "sha256": digest.hexdigest()})


def rows_in(file: BinaryIO) -> Iterator[tuple[str, Row]]:
    """Yield the rows of an export, each with where it stands; raise BrokenFile, if only at the end, where something is wrong."""
    beginning = file.read(1)
    form = _form_of(beginning)
    records, digest = form.records(beginning, file), hashlib.sha256()
    digest.update(_checked_header(_next(records, form, 1)))
    number, ended = 1, False
    while (found := _next(records, form, number + 1)) is not None:
        number += 1
        where, (record, data) = f"{form.unit} {number}", found
        if ended:
            raise BrokenFile(f"{where} stands behind the end of the export; give one export at a time")
        if isinstance(record, dict) and "sha256" in record:
            if record != {"events": number - 2, "sha256": digest.hexdigest()}:
                raise BrokenFile("the file was changed after the export: its digest is another; export again")
            ended = True
        else:
            digest.update(data)
            yield where, _row_of(record, form, where)
    if not ended:
        raise BrokenFile(f"the file ends after {form.unit} {number}, before the end of the export; it was cut: copy it or export again")


def _form_of(beginning: bytes) -> Form:
    match beginning:
        case b"{":
            return FORMS["jsonl"]
        case b"\x82":
            return FORMS["msgpack"]
        case b"":
            raise BrokenFile("the file is empty")
        case b"\x1f":
            raise BrokenFile(f"the file is compressed; unpack it first: gunzip -c FILE | {command('import -')} --yes")
    raise _no_export()


def _no_export() -> BrokenFile:
    return BrokenFile(f"that is no export of celery-journal; see: {command('export --help')}")


def _next(records: Iterator[tuple[Any, bytes]], form: Form, number: int) -> tuple[Any, bytes] | None:
    try:
        return next(records, None)
    except Exception as exc:  # msgpack alone knows five
        raise BrokenFile(f"{form.unit} {number} cannot be read: {shown(first_line(exc))}; copy the file or export again") from exc


def _checked_header(found: tuple[Any, bytes] | None) -> bytes:
    match found:
        case ({"celery-journal": int(version), "schema_version": int(schema)}, data):
            if version > VERSION or schema > wanted_version():
                raise BrokenFile("the export is of a newer celery-journal; run: pip install --upgrade celery-journal")
            return data
    raise _no_export()


def _row_of(record: Any, form: Form, where: str) -> Row:
    """Return the row, if it is one that a log can hold; an event that cannot be read is one."""
    try:
        row = form.row_of(record)
        check_types(row)
        if not isinstance(row["recorded_at"], datetime) or row["recorded_at"].tzinfo is None:
            raise TypeError("recorded_at is no moment")
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise BrokenFile(f"{where} is no event: {shown('.'.join(map(str, first['loc'])))}: {shown(first['msg'])}") from exc
    except KeyError as exc:
        raise BrokenFile(f"{where} is no event: {shown(exc)} is missing") from exc
    except Exception as exc:  # whatever can be wrong with what anybody may have written
        raise BrokenFile(f"{where} is no event: {shown(first_line(exc))}") from exc
    return row
