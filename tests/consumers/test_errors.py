"""Failures are grouped by what they have in common, whatever ids, numbers, times and addresses are in them."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_journal.consumers.errors import BUCKETS, fingerprint_of
from celery_journal.journal.events import TaskFailed

from .commanding import Commands
from .lostscene import Log, ago
from .test_cli import as_url

#: What differs from one failure of a kind to the next.
VARYING = st.one_of(
    st.integers(0, 10**12).map(str),
    st.uuids().map(str),
    st.uuids().map(lambda one: one.hex),
    st.integers(0, 2**63).map(hex),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.datetimes().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.ip_addresses().map(str),
    st.emails(domains=st.just("example.com")).filter(lambda address: not set("'\"<>") & set(address)),
)

#: Twenty faults: each differs from the others in its type, its words, the function, the file, or the line of code.
FAULTS = [
    *(
        (kind, "no price for {}", "charge", "shop/billing.py", "raise error")
        for kind in ("ValueError", "KeyError", "TypeError", "shop.Refused")
    ),
    *(
        ("ValueError", words, "charge", "shop/billing.py", "raise error")
        for words in ("{} is sold out", "cannot ship {}", "no such {}", "{}")
    ),
    *(("ValueError", "no price for {}", name, "shop/billing.py", "raise error") for name in ("refund", "remind", "close", "total")),
    *(
        ("ValueError", "no price for {}", "charge", file, "raise error")
        for file in ("a/b.py", "shop/mail.py", "shop/jobs.py", "web/billing.py")
    ),
    *(("ValueError", "no price for {}", "charge", "shop/billing.py", code) for code in ("check(a)", "check(b)", "x = d[k]", "assert ok")),
]


def failed_with(fault: tuple[str, str, str, str, str], varying: str, line: int, root: str = "/srv/app") -> SimpleNamespace:
    """What is stored of such a failure; where the app is installed, and on which line it stands, changes with a release."""
    kind, words, function, file, code = fault
    message = words.format(varying)
    frames = [
        '  File "/usr/lib/python3.11/site-packages/celery/app/trace.py", line 453, in trace_task\n    R = retval = fun(*args, **kwargs)',
        f'  File "{root}/{file}", line {line}, in {function}\n    {code}',
        f'  File "/usr/lib/python3.11/json/decoder.py", line {line}, in decode\n    obj, end = self.raw_decode(s)',
    ]
    told = repr(message) if kind == "KeyError" else message
    traceback = "\n".join(["Traceback (most recent call last):", *frames, f"{kind}: {told}"])
    result = json.dumps({"exc_type": kind.rpartition(".")[2], "exc_message": [message], "exc_module": "shop"}).encode()
    return SimpleNamespace(traceback=traceback, result=result, content_type="application/json", content_encoding="utf-8")


@settings(deadline=None)
@given(st.sampled_from(FAULTS), st.lists(VARYING, min_size=2, max_size=20), st.data())
def test_failures_that_differ_in_ids_only_are_one_group(
    fault: tuple[str, str, str, str, str], varying: list[str], data: st.DataObject
) -> None:
    """In numbers, ids, times and addresses; and in the line and the folder of the code, which change with every release."""
    lines, roots = st.integers(1, 10**5), st.sampled_from(["/srv/app", "/home/me/app", "/releases/2026-11-30"])
    failures = [failed_with(fault, one, data.draw(lines), data.draw(roots)) for one in varying]

    assert len({fingerprint_of(failure) for failure in failures}) == 1


@settings(deadline=None)
@given(st.lists(VARYING, min_size=len(FAULTS), max_size=len(FAULTS)))
def test_distinct_faults_are_distinct_groups(varying: list[str]) -> None:
    """Whatever is in their messages."""
    assert len(FAULTS) == 20
    assert len({fingerprint_of(failed_with(fault, one, 7)) for fault, one in zip(FAULTS, varying, strict=True)}) == len(FAULTS)


def test_a_recursion_is_one_fault_however_deep_it_went() -> None:
    """Where it stops depends on who has called."""

    def deep(depth: int) -> SimpleNamespace:
        once = [(3, "walk", "walk(tree)"), (9, "visit", "visit(node)")]
        frames = "".join(f'  File "/srv/app/shop/tree.py", line {line}, in {name}\n    {code}\n' for line, name, code in once) * depth
        return SimpleNamespace(traceback=f"Traceback (most recent call last):\n{frames}RecursionError: maximum recursion depth exceeded")

    assert len({fingerprint_of(deep(depth)) for depth in (2, 5, 400)}) == 1


def tell_failures(log: Log, fault: tuple[str, str, str, str, str], count: int, seconds_ago: float, name: str = "shop.charge") -> list[str]:
    """Have so many tasks fail, a second apart; return their ids, the newest first."""
    task_ids = [f"{name}-{fault[0]}-{seconds_ago:.0f}-{number}" for number in range(count)]
    for number, task_id in enumerate(task_ids):
        stored = vars(failed_with(fault, str(UUID(int=number)), 7))
        log.tell(TaskFailed, task_id, name=name, occurred_at=ago(seconds_ago - number), **stored)
    return task_ids[::-1]


def test_the_most_frequent_fault_comes_first_with_an_example(log: Log, commands: Commands, embedded_database: str) -> None:
    """Each with how often, when first and last, and where in the app; exit code 1 where nothing has failed."""
    url = as_url(embedded_database)
    assert commands.run("errors", dsn=url).code == 1
    charged = tell_failures(log, FAULTS[0], 30, 7200)
    tell_failures(log, FAULTS[1], 2, 60, name="shop.refund")
    tell_failures(log, FAULTS[2], 3, 2 * 86400, name="shop.old")

    ended = commands.run("errors", "--json", dsn=url)
    drawn = commands.run("errors", dsn=url, terminal=True)
    narrow = commands.run("errors", dsn=url, terminal=True, COLUMNS="60")

    often, rarely = json.loads(ended.out)
    assert (ended.code, often["count"], rarely["count"]) == (0, 30, 2)
    assert (often["example"], often["task_ids"], often["names"]) == (charged[0], charged, ["shop.charge"])
    assert (often["where"], often["error"][:12]) == ("shop/billing.py: charge", "ValueError: ")
    assert (sum(often["trend"]), len(often["trend"])) == (30, BUCKETS)
    assert often["first_seen"] < often["last_seen"] < rarely["first_seen"]
    assert "shop/billing.py: charge" in drawn.text
    assert all(group["fingerprint"] in narrow.text for group in (often, rarely))


def test_what_is_new_since_a_release_is_found(log: Log, commands: Commands, embedded_database: str) -> None:
    """Since a moment, or since the workers that live were started; a fault that there was before is none."""
    url = as_url(embedded_database)
    tell_failures(log, FAULTS[0], 2, 7200)
    tell_failures(log, FAULTS[0], 2, 60)
    tell_failures(log, FAULTS[1], 2, 60)
    assert "no live worker has told when it was started" in commands.run("errors", "--since-deploy", dsn=url).err
    log.online("w1")

    (new,) = json.loads(commands.run("errors", "--since-deploy", "1h", "--json", dsn=url).out)
    nothing = commands.run("errors", "--since-deploy", dsn=url)
    wrong = commands.run("errors", "--since-deploy", "soon", dsn=url)

    assert new["error"].startswith("KeyError")
    assert (nothing.code, nothing.out.strip()) == (1, "no task has failed like that")
    assert (wrong.code, "--since-deploy" in wrong.err) == (2, True)


def test_a_group_is_resolved_and_comes_back_when_it_fails_again(log: Log, commands: Commands, embedded_database: str) -> None:
    """Its tasks are annotated; words find them all the same."""
    url = as_url(embedded_database)
    tell_failures(log, FAULTS[0], 3, 7200)
    tell_failures(log, FAULTS[1], 1, 7200)
    group = json.loads(commands.run("errors", "--json", dsn=url).out)[0]["fingerprint"]

    dry = commands.run("errors", "--resolve", group, "--dry-run", dsn=url)
    done = commands.run("errors", "--resolve", group[:6], "--note", "fixed", "--yes", dsn=url)
    left = json.loads(commands.run("errors", "--json", dsn=url).out)
    resolved = json.loads(commands.run("errors", "resolved:yes", "--json", dsn=url).out)
    unknown = commands.run("errors", "--resolve", "zz", "--yes", dsn=url)
    too_short = commands.run("errors", "--resolve", "", "--yes", dsn=url)
    tell_failures(log, FAULTS[0], 1, 60, name="again")
    again = json.loads(commands.run("errors", "--json", dsn=url).out)

    assert dry.out.startswith("would resolve 3 tasks that failed with ValueError: no price for ")
    assert (done.code, done.out[:36]) == (0, "resolved 3 tasks that failed with Va")
    assert [one["count"] for one in left] == [1]
    assert [(one["fingerprint"], one["count"]) for one in resolved] == [(group, 3)]
    assert too_short.code == 1
    assert (unknown.code, unknown.err) == (1, "Error: zz is no group of these failures; run: celery-journal errors\n")
    assert {one["fingerprint"]: one["count"] for one in again}[group] == 1


def test_only_failures_that_words_find_are_grouped(log: Log, commands: Commands, embedded_database: str) -> None:
    """As in every list; also older ones, where a word has dates."""
    url = as_url(embedded_database)
    tell_failures(log, FAULTS[0], 3, 7200)
    tell_failures(log, FAULTS[1], 2, timedelta(days=3).total_seconds(), name="shop.refund")

    (named,) = json.loads(commands.run("errors", "name:shop.charge", "--json", dsn=url).out)
    both = json.loads(commands.run("errors", "since:1w", "--json", dsn=url).out)

    assert named["count"] == 3
    assert [one["count"] for one in both] == [3, 2]
