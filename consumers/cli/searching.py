"""Commands that take query words: which tasks they are about."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from celery_journal.consumers import search
from celery_journal.journal import Connection
from celery_journal.projections.query import Q

from .ids import whole_ids
from .output import say

#: A word that must not hold looks like an option: `-worker:w3`.
_NEGATED = re.compile(r"-[A-Za-z_]+(\.[^:]*)?:", re.DOTALL)

#: A word that says one id or several: `root:5b24b0e6`, `-id:a1b2c3d4,e5f6a7b8`.
_OF_IDS = re.compile(r"(-?(?:id|task_id|root|parent|group):)(.+)", re.DOTALL)

#: Stands for its hyphen until click has read the options. No argument of a program can hold it.
_HYPHEN = "\0"

#: Where a command finds its words again.
_WORDS = f"{__name__}.words"

HELP = "\b\nQuery words, all of which must hold; a hyphen before one means that it must not:\n" + "\n".join(
    textwrap.wrap(" ".join(example.replace(" ", "\0") for example in search.WORDS.values()), 76)
).replace("\0", " ")


class Searching(click.Command):
    """A command whose words may begin with a hyphen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = f"{inspect.cleandoc(self.help or '')}\n\n{HELP}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        try:
            return super().parse_args(ctx, [f"{_HYPHEN}{arg[1:]}" if _NEGATED.match(arg) else arg for arg in args])
        except click.NoSuchOption as exc:
            example = search.example_of(exc.option_name.lstrip("-"))
            if example is None:
                raise
            raise click.UsageError(f"there is no option {exc.option_name}; write a word, without hyphens: {example}", ctx) from exc


def words_argument(command: Any) -> Any:
    """Give the command its query words as the parameter `condition`."""
    return click.argument("condition", metavar="[WORD]...", nargs=-1, callback=_condition)(command)


def _condition(ctx: click.Context, _parameter: click.Parameter, words: Sequence[str]) -> Q:
    ctx.meta[_WORDS] = given = [word.replace(_HYPHEN, "-", 1) if word.startswith(_HYPHEN) else word for word in words]
    return condition_about(ctx.obj, given)


def condition_about(target: Any, words: Sequence[str]) -> Q:
    """Return the condition of the words, with whole ids in the place of their beginnings; raise click.UsageError if one means nothing."""
    condition = condition_of(words)  # says so before a database is asked
    if not any(_OF_IDS.fullmatch(word) for word in words):
        return condition
    with target.connect() as connection:
        return condition_of(with_whole_ids(connection, target.schema, words))


def with_whole_ids(connection: Connection, schema: str, words: Sequence[str]) -> list[str]:
    """Return the words, with whole ids in the place of their beginnings; raise click.UsageError if several begin so."""
    parts = [(word, _OF_IDS.fullmatch(word)) for word in words]
    typed = list(dict.fromkeys(one for _, of_ids in parts if of_ids for one in of_ids[2].split(",") if not {"*", "?"} & set(one)))
    whole = dict(zip(typed, whole_ids(connection, schema, typed), strict=True))
    return [f"{of_ids[1]}{','.join(whole.get(one, one) for one in of_ids[2].split(','))}" if of_ids else word for word, of_ids in parts]


def is_told(ctx: click.Context, *keys: str) -> bool:
    """Return whether a word says something about one of these: `since`."""
    return any(word.removeprefix("-").partition(":")[0] in keys for word in words_of(ctx))


def say_doubts(words: Sequence[str]) -> None:
    """Say what may be wrong with words that have found nothing, beside what is printed."""
    for doubt in search.doubts(words, datetime.now(UTC)):
        say(doubt, err=True)


def words_of(ctx: click.Context) -> list[str]:
    """Return the words that were given."""
    given: list[str] = ctx.meta[_WORDS]
    return given


def condition_of(words: Sequence[str]) -> Q:
    """Return the condition of the words; raise click.UsageError if one means nothing."""
    try:
        return search.parse(words, datetime.now(UTC))
    except search.BadQuery as exc:
        raise click.UsageError(str(exc)) from exc
