"""Puts the folds together: one text a projection, for the live append, the rebuild and the verification."""

from __future__ import annotations

import re

from . import DEFAULT_SCHEMA, queries

#: In the order of locks. The names of the projections are the names of their SQL views.
PROJECTIONS = ("task_result", "group_result", "chord_counter", "worker")

_PLACEHOLDER = re.compile(r"\{([a-z_ ]+)\}")

#: The name that a variable of the trigger, and a parameter of a client, have in the same text.
_IN_THE_TRIGGER = {"forgotten ids": "forgotten_ids"}
_FROM_A_CLIENT = {"forgotten ids": "%(ids)s::text[]"}


class Projection:
    """The SQL of one projection, on its tables where they are, or elsewhere (`table_prefix`, `table_suffix`)."""

    def __init__(self, name: str, schema: str = DEFAULT_SCHEMA, table_prefix: str | None = None, table_suffix: str = "") -> None:
        self.name = name
        self._schema = schema
        self._prefix = f"{schema}." if table_prefix is None else table_prefix
        self._suffix = table_suffix
        texts = queries(f"projections/{name}.sql", schema)
        self.table_names = tuple(texts["tables"].split())
        self.key = texts["key"]
        self._has_parts = "clear parts" in texts
        #: Whether the parts are of kinds of their own, and not told by the same events as the row.
        self._apart = "part kinds" in texts
        self._texts = {**queries("fold.sql", schema), **texts, "table": f"{schema}.{self.table_names[0]}"}
        if not self._has_parts:
            self._texts |= {"batch parts": ""}
        if self._apart:
            self._texts["refold parts"] = _from(texts["parts"], "{since forgotten}")
        else:
            self._texts["part kinds"] = ""
            self._texts["parts anew"] = self._texts["own parts anew"] if self._has_parts else ""
        for text in ("refold", "refold parts"):
            self._texts[f"{text} from"] = self._texts[text].replace("{since forgotten}", "{since forgotten from}")
        if self._has_parts and not self._apart:
            self._texts["merge one part"] = _of_one_event(texts["merge part"], "lift part")
        else:
            self._texts |= {"own part": "", "own batch parts": ""}
        self._texts["clear"] = _clearing(texts["merge"], self.key)
        self._texts["lift one"] = texts["lift"].replace("\n where e.kind in ({kinds})", "")  # the trigger has looked
        self._texts["merge one"] = _of_one_event(texts["merge"], "lift one") + "\nreturning t.forgotten_position"

    def table(self, name: str) -> str:
        """Return where the table `name` is, qualified."""
        return f"{self._prefix}{name}{self._suffix}"

    @property
    def view(self) -> str:
        """The statement that shows the registers to people."""
        return self._text("view")

    def alive(self, name: str) -> str:
        """Return the condition that a row of the table `name` is not a forgotten one."""
        return self._text(f"alive {name}") if f"alive {name}" in self._texts else "date_created is not null"

    def step(self) -> str:
        """Return the part of the trigger that folds one append."""
        names = ["parts step", "step"] if self._apart else ["step"]
        return "\n".join(self._text(name, _IN_THE_TRIGGER) for name in names)

    def history(self, of_the_log: str) -> list[bytes]:
        """Return the statements that fold a stretch of the log: those events of which the clause `of_the_log` is true."""
        names = ["forget", "merge many", *(["parts"] if self._has_parts else [])]
        source = f"(select * from {self._schema}.event {of_the_log})"
        return [_from(self._text(name), source).encode() for name in names]

    def lock_forgotten(self) -> bytes:
        """Return the query that locks the next rows that were ever forgotten."""
        return self._text("lock forgotten").encode()

    def refold(self) -> list[bytes]:
        """Return the statements that fold forgotten streams anew, from what stands after the forgetting."""
        names = ["clear", "refold", *(["clear parts", "refold parts"] if self._has_parts else [])]
        return [self._text(name, _FROM_A_CLIENT).encode() for name in names]

    def _text(self, name: str, names: dict[str, str] | None = None) -> str:
        texts = {**self._texts, **(names or {})}
        text = texts[name]
        while (filled := _PLACEHOLDER.sub(lambda match: texts.get(match[1], match[0]), text)) != text:
            text = filled
        tables = "|".join(self.table_names)
        return re.sub(rf"\b{self._schema}\.({tables})\b", lambda match: self.table(match[1]), text)


def _from(text: str, source: str) -> str:
    """Return the text reading from `source` what it reads from the append's own events."""
    return re.sub(r"\bfrom new_event\b", lambda _: f"from {source}", text)


def _clearing(merge: str, key: str) -> str:
    """Return the statement that sets every register of forgotten rows back to its default, as if no event had come."""
    columns = re.findall(r"\w+", merge[merge.index("(") : merge.index(")")])
    cleared = ", ".join(f"{column} = default" for column in columns if column != key)
    return f"update {{table}} set {cleared} where {key} = any({{forgotten ids}})"


def _of_one_event(merge: str, lift: str) -> str:
    """Return the merge of one event, which needs no order."""
    return re.sub(r"\bfrom folded\s+order by [\w, ]+", f"from ({{{lift}}}) folded", merge)


def trigger_function(projections: list[Projection], schema: str = DEFAULT_SCHEMA, name: str = "fold") -> str:
    """Return the statement that creates the trigger function `name`, which folds an append into `projections`."""
    steps = "\n".join(projection.step() for projection in projections)
    text = queries("fold.sql", schema)["trigger"].replace("{steps}", steps)
    return text.replace(f"{schema}.fold()", f"{schema}.{name}()")


def attached(schema: str = DEFAULT_SCHEMA) -> str:
    """Return the statement that attaches the fold to the log, if it is not as it should be."""
    return queries("fold.sql", schema)["attach unless attached"].replace("{attach}", trigger(schema))


def trigger(schema: str = DEFAULT_SCHEMA, name: str = "fold") -> str:
    """Return the statement that attaches the trigger function `name` to the log."""
    text = queries("fold.sql", schema)["attach"]
    return text.replace("trigger fold\n", f"trigger {name}\n").replace(f"{schema}.fold()", f"{schema}.{name}()")
