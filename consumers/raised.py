"""What a task has raised, on one line: the type of the exception, and the first line of what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator

from celery_journal.consumers.contents import read

#: Bytes of a stored exception that are opened to be shown, also in sql/explain.sql. A longer one is told by its traceback.
LONGEST = 10_000

#: Characters of a message that are shown: a message may be one line of megabytes.
MOST = 500

#: What Python and billiard write between an exception and the one that was raised because of it.
_CHAINED = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n"
)
_BEGINS = re.compile(r"(  \+ Exception Group )?Traceback \(most recent call last\):")

#: The margin of the lines of an exception group, without those of the exceptions within.
_MARGIN = "  | "

_DOTTED = re.compile(r"[^\W\d][\w.<>]*")
_LOOKS_LIKE_ONE = re.compile(r"(?:\w+\.)*[A-Z]\w*(?:: .*)?")


def error_of(stored: object) -> str | None:
    """Return the error of a row or a fact as Python ends a traceback, `ValueError: no`; None where none is stored that can be read safely.

    The type has neither its module nor the class or the function that it stands in; of the message only the first line is told.
    """
    told = list(_raised_in(getattr(stored, "traceback", None) or ""))
    kind, args = _stored(stored)
    if kind is None:
        return None if not told else _line(*told[-1])
    # What the exception makes of its arguments is only in the traceback: pydantic's and others have none.
    said = next((message for name, message in reversed(told) if name == kind), None)
    match args:
        case [str() as text] if text.strip():
            return _line(kind, repr(text) if kind == "KeyError" else text)
        case _ if said is not None:
            return _line(kind, said)
        case []:
            return kind
        case [only]:
            return _line(kind, str(only))
        case _:
            return _line(kind, str(tuple(args)))


def _stored(stored: object) -> tuple[str | None, list[object]]:
    """Return the name and the arguments of the exception that Celery has stored; None where that is unknown."""
    result, *form = (getattr(stored, name, None) for name in ("result", "content_type", "content_encoding"))
    value = read(result, *form) if result is not None and len(result) <= LONGEST else None
    if not isinstance(value, dict) or not isinstance(value.get("exc_type"), str):
        return None, []
    args = value.get("exc_message")
    return _name(value["exc_type"]), list(args) if isinstance(args, list | tuple) else [] if args is None else [args]


def _raised_in(traceback: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each exception of a traceback, and the first line of what it says; the one that was raised last comes last."""
    for part in _CHAINED.split(traceback):
        lines = part.strip("\n").splitlines()
        begin = next((place for place, line in enumerate(lines) if _BEGINS.match(line)), None)
        if begin is not None:
            is_group = lines[begin].startswith("  +")
            inside = [line.removeprefix(_MARGIN) if is_group else line for line in lines[begin + 1 :]]
            # The frames are indented, and so is what a SyntaxError shows of its line.
            said = next((place for place, line in enumerate(inside) if line[:1].strip()), None)
            if said is not None:
                yield _told(inside[said:])
        elif lines:  # cut, or written by hand: all that there is to go by is what stands at its end
            yield _told([next((line for line in reversed(lines) if _LOOKS_LIKE_ONE.fullmatch(line)), lines[-1])])


def _told(lines: list[str]) -> tuple[str, str]:
    """Return the name and the first line of the message that begin there."""
    name, _, message = lines[0].partition(": ")
    name = name.removesuffix(":")
    if not _DOTTED.fullmatch(name):
        return "", lines[0].strip()
    if not message.strip() and lines[0].rstrip().endswith(":"):  # a message that begins with an empty line
        message = next((line for line in lines[1:] if line.strip()), "")
    return _name(name), message


def _name(path: str) -> str:
    return path.rpartition(".")[2] or path


def _line(name: str, message: str) -> str:
    """Return both as one line."""
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return ": ".join(part for part in (name, first if len(first) <= MOST else f"{first[: MOST - 1]}…") if part)
