"""Puts the folds together: one text a projection, for the live append, the rebuild and the verification."""

from __future__ import annotations

import re

from . import DEFAULT_SCHEMA, queries

#: In the order of locks. The names of the projections are the names of their SQL views.
PROJECTIONS = ("task_result", "group_result", "chord_counter")

#: The variable of the trigger that says whether an append concerns the projection.
_WHEN = {"task_result": "tasks", "group_result": "groups", "chord_counter": "chords"}


class Projection:
    """The SQL of one projection, with its tables where they are, or moved elsewhere (`table_prefix`, `table_suffix`)."""

    def __init__(self, name: str, schema: str = DEFAULT_SCHEMA, table_prefix: str | None = None, table_suffix: str = "") -> None:
        self.name = name
        self._sections = queries(f"projections/{name}.sql", schema)
        self._templates = queries("fold.sql", schema)
        self._schema = schema
        self._prefix = f"{schema}." if table_prefix is None else table_prefix
        self._suffix = table_suffix
        self.table_names = tuple(self._sections["tables"].split())
        self.key = self._sections["key"]

    def table(self, name: str) -> str:
        """Return where the table `name` is, qualified."""
        return f"{self._prefix}{name}{self._suffix}"

    @property
    def view(self) -> str:
        """The statement that shows the registers to people."""
        return self._moved(self._sections["view"])

    def step(self) -> str:
        """Return the part of the trigger that folds one append."""
        steps = [self._fill("step")]
        if "parts" in self._sections:
            steps.insert(0, self._fill("parts step"))
        return "\n".join(steps)

    def history(self, of_the_log: str) -> list[bytes]:
        """Return the statements that fold the events of `of_the_log` (a clause: where, order, limit)."""
        names = ["history of parts", "history"] if "parts" in self._sections else ["history"]
        return [self._fill(name, of_the_log=of_the_log).encode() for name in names]

    def refold(self) -> bytes:
        """Return the statement that folds every forgotten stream anew."""
        return self._fill("refold", table=self.table(self.table_names[0]), key=self.key).encode()

    def _fill(self, template: str, **values: str) -> str:
        values = {**self._sections, "when": _WHEN[self.name], **values}
        filled = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], self._templates[template])
        return self._moved(filled)

    def _moved(self, text: str) -> str:
        names = "|".join(self.table_names)
        return re.sub(rf"\b{self._schema}\.({names})\b", lambda match: self.table(match[1]), text)


def trigger_function(projections: list[Projection], schema: str = DEFAULT_SCHEMA, name: str = "fold") -> str:
    """Return the statement that creates the trigger function `name`, which folds an append into `projections`."""
    steps = "\n".join(projection.step() for projection in projections)
    text = queries("fold.sql", schema)["trigger"].replace("/* steps */", steps)
    return text.replace(f"{schema}.fold()", f"{schema}.{name}()")


def trigger(schema: str = DEFAULT_SCHEMA, name: str = "fold") -> str:
    """Return the statement that attaches the trigger function `name` to the log."""
    text = queries("fold.sql", schema)["attach"]
    return text.replace("trigger fold\n", f"trigger {name}\n").replace(f"{schema}.fold()", f"{schema}.{name}()")
