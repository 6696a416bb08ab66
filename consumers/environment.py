"""Variables of the environment that begin as ours do and set nothing: named, with the nearest that there is.

They are told and not refused: the prefix is a name that others have reasons to use. Kubernetes gives every container such variables
for a service that is called celery-journal.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches

import click

logger = logging.getLogger(__name__)

PREFIX = "CELERY_JOURNAL_"

#: Those that are no options: where the journal and the broker are, and where a demo is.
BESIDE = ("DSN", "BROKER", "DEMO")

#: Whose they are is known: our own tests', what `watch --exec` tells a command, and those of Kubernetes for a service of that name.
_OTHERS = re.compile(r"TEST_.*|FUZZ|ALERT_[A-Z_]+|SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")

_is_told = ContextVar("_is_told", default=False)


def warn_of_unknown_variables(options: Iterable[str]) -> None:
    """Log a warning for each variable that sets nothing, if these are the options; not where a command has told them."""
    if not _is_told.get():
        for sentence in unknown_variables(options):
            logger.warning("%s", sentence)


@contextmanager
def told(options: Iterable[str], say: Callable[[str], object]) -> Iterator[None]:
    """Say which variables set nothing, so that nothing in the block warns of them again."""
    for sentence in unknown_variables(options):
        say(sentence)
    token = _is_told.set(True)
    try:
        yield
    finally:
        _is_told.reset(token)


def unknown_variables(options: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that sets nothing, if these are the options."""
    known = [*(name.upper() for name in options), *BESIDE]
    given = [name.removeprefix(PREFIX) for name in sorted(os.environ) if name.startswith(PREFIX)]
    unknown = [name for name in given if name not in known and not _OTHERS.fullmatch(name)]
    if unknown:
        of_commands = set(_of_commands())
        unknown = [name for name in unknown if name not in of_commands]
    return [_sentence(name, known) for name in unknown]


def _sentence(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else "the journal has no option of that name"
    return f"{PREFIX}{name} in the environment sets nothing; {hint}"


def _of_commands() -> Iterator[str]:
    """Yield the variables that click reads for the options of each command."""
    from .cli import main  # which reads options itself

    left: list[tuple[str, click.Command]] = [("", main)]
    while left:
        prefix, command = left.pop()
        for parameter in command.params:
            named = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ()
            yield from (name.removeprefix(PREFIX) for name in named)
            yield f"{prefix}{parameter.name}".upper()
        if isinstance(command, click.Group):
            left += [(f"{prefix}{name}_".upper().replace("-", "_"), inner) for name, inner in command.commands.items()]
