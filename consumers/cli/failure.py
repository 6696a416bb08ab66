"""Errors as people see them: one sentence on standard error, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import psycopg
from psycopg import errors

from celery_journal.consumers.options import InvalidOption
from celery_journal.consumers.words import shown
from celery_journal.journal import DatabaseUnreachable, JournalError, SchemaError
from celery_journal.journal.command import command
from celery_journal.projections import FieldError

#: Also in the help of the command and in docs/commands.md.
EXIT_CODES = """\
Exit codes: 0 ok, 1 found something, 2 wrong usage, 3 no database answers, 4 login refused, 5 no such database,
6 schema missing, older or newer, 7 no broker answers, 130 interrupted.
"""

#: What a file says that takes no more.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Failure(click.ClickException):
    """A sentence with an exit code."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def __reduce__(self) -> tuple[type[Failure], tuple[str, int]]:
        return type(self), (self.message, self.exit_code)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn the errors that a user can act on into one sentence each."""
    try:
        with _of_the_database():
            yield
    except (InvalidOption, FieldError) as exc:
        raise click.UsageError(str(exc)) from exc
    except JournalError as exc:
        raise Failure(str(exc), exc.exit_code) from exc
    except (KeyboardInterrupt, click.Abort) as exc:  # click would end with 1, which means that something was found
        raise Failure("interrupted", 130) from exc
    except RecursionError as exc:
        raise click.UsageError("that is nested too deeply") from exc
    except click.NoSuchOption as exc:
        if exc.option_name not in {"--dsn", "--schema"}:
            raise
        before = f"celery-journal {exc.option_name} ... COMMAND"
        raise click.UsageError(f"{exc.option_name} stands before the command: {before}", exc.ctx) from exc
    except OSError as exc:
        if exc.filename is not None:
            raise Failure(f"{shown(exc.filename)} cannot be used: {exc.strerror or exc}", 1) from exc
        if exc.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else what is left in its buffer fails once more at the end
        raise Failure(f"standard output cannot be written: {exc.strerror}", 1) from exc


@contextmanager
def _of_the_database() -> Iterator[None]:
    try:
        yield
    except errors.InsufficientPrivilege as exc:
        raise Failure(f"{exc.diag.message_primary}; run this as the owner of the schema", 4) from exc
    except (errors.LockNotAvailable, errors.DeadlockDetected) as exc:
        raise Failure("a long transaction holds the tables; nothing was changed, try again when it has ended", 1) from exc
    except errors.QueryCanceled as exc:
        raise Failure("the statement took longer than statement_timeout allows; narrow the query", 1) from exc
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction) as exc:
        sentence = f"the schema is not as this package makes it ({exc.diag.message_primary}); run: {command('migrate')}"
        raise Failure(sentence, SchemaError.exit_code) from exc
    except errors.ReadOnlySqlTransaction as exc:
        raise Failure("the server only reads, as a standby does; run this on the one that is written to", 1) from exc
    except psycopg.DataError as exc:
        raise click.UsageError(f"the database cannot reckon with that: {exc.diag.message_primary}") from exc
    except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise Failure(f"the database went away: {str(exc).strip().partition(chr(10))[0]}", DatabaseUnreachable.exit_code) from exc
    except psycopg.Error as exc:
        raise Failure(f"the database refuses that: {str(exc).strip().partition(chr(10))[0]}", 1) from exc
