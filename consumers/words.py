"""Facts as people read them: how long, when, and names that cannot write to the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

#: Moments that are nearer are told without their year; half of one, so that none is taken for that of another.
_YEAR = timedelta(days=182)

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def duration(span: timedelta | float) -> str:
    """Return how long that is, in its two largest units: `4 min 10 s`, `2 d 3 h`, `1.2 s`, `35 ms`."""
    seconds = abs(span.total_seconds() if isinstance(span, timedelta) else span)
    if 0 < seconds < 0.95:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    left, parts = round(seconds), list[str]()
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(part for part in parts if part)


def moment(at: datetime) -> str:
    """Return when that was, in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def short(at: datetime | None, now: datetime) -> str:
    """Return when that was, in UTC, where there is little room: `11-26 14:04:17`; the day where that is half a year away."""
    if at is None:
        return ""
    at = at.astimezone(UTC)
    return f"{at:%m-%d %H:%M:%S}" if abs(now - at) < _YEAR else f"{at:%Y-%m-%d}"


def first_line(exc: BaseException) -> str:
    """Return what an error says, without its explanations."""
    return str(exc).strip().partition("\n")[0] or type(exc).__name__


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return the number with its noun: `1 task`, `2 tasks`, `1,000 tasks`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def ordinal(number: int) -> str:
    """Return the number's place in an order, such as `third`, or `21st`."""
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def listed(names: list[str], most: int = 5) -> str:
    """Return the names with commas, the first few if there are many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def shown(text: object) -> str:
    r"""Return the text with whatever a terminal would obey escaped, on one line: ESC is `\x1b`."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == " " else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def who(author: str | None, login: str | None) -> str:
    """Return who acted: as what that person's client said, and by which login the database knows."""
    return f"{author or 'somebody'}{f' (login {login})' if login else ''}"
