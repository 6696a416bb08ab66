"""Checks of what keeps the log as it is: triggers, roles, rights, and who goes past them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from celery import Celery

from celery_journal.consumers.words import duration, listed
from celery_journal.journal.command import command

from .examination import Finding, Subject, app_check, check

#: No sweep of ours asks for a longer lease; an earlier version gave whatever was asked for.
LONGEST_LEASE = timedelta(hours=1)


@check("triggers")
def _triggers(subject: Subject) -> Iterator[Finding]:
    broken = subject.rows("triggers")
    folds = [row for row in broken if row["trigger"] == "fold"]
    if folds:
        found = "the trigger that folds what is appended is missing or disabled: the views stand still"
        advice = f"run: {command('migrate')}; then: {command('projections rebuild')}"
        yield Finding("triggers", "bad", found, advice)
    for trigger, refused, so in (("refuse_change", "changes", "be changed"), ("refuse_nonsense", "what makes no sense", "hold anything")):
        if names := sorted({row["name"] for row in broken if row["trigger"].startswith(trigger)}):
            found = f"the trigger that refuses {refused} is missing, or not always enabled, on {listed(names)}: the log can {so}"
            yield Finding("triggers", "bad", found, f"find out who did that, and run: {command('migrate')}")
    foreign = [f"{row['trigger']} on {row['name']}" for row in subject.rows("foreign triggers")]
    if foreign:
        found = f"functions of the journal are triggers of other tables: {listed(foreign)}; they work on the log alone"
        yield Finding("triggers", "warn", found, "drop those triggers, and ask their owner why")
    if not broken and not foreign:
        yield Finding("triggers", "ok", "the log is folded, and refuses changes and what makes no sense")


@check("rebuilds")
def _rebuilds(subject: Subject) -> Iterator[Finding]:
    left = [row for row in subject.rows("leftovers") if not row["runs"]]
    if not left:
        yield Finding("rebuilds", "ok", "none has left anything")
        return
    cost = ", which costs every append" if any(row["is_trigger"] for row in left) else ""
    found = f"a rebuild that was killed, or was in somebody's way, has left {listed([row['name'] for row in left])}{cost}"
    yield Finding("rebuilds", "warn", found, f"run: {command('projections rebuild')}; what stays is named there with what holds it")


@check("replication")
def _replication(subject: Subject) -> Iterator[Finding]:
    settings = [f"{row['who']} in {row['database']}" for row in subject.rows("replica settings")]
    if settings:
        found = f"session_replication_role is not origin for {listed(settings)}: what they append is not folded into the views"
        advice = f"alter role ... reset session_replication_role; then: {command('projections rebuild')}"
        yield Finding("replication", "bad", found, advice)
    tables = [row["name"] for row in subject.rows("replicated into")]
    if tables:
        found = f"a logical replication subscription writes to {listed(tables)}: what it brings is not folded into the views"
        advice = f"take them out of the subscription, or read the log there and rebuild: {command('projections rebuild')}"
        yield Finding("replication", "bad", found, advice)
    if not settings and not tables:
        yield Finding("replication", "ok", "nobody writes to the log past the fold")


@check("privileges")
def _privileges(subject: Subject) -> Iterator[Finding]:
    functions = [row["name"] for row in subject.rows("open functions")]
    tables = [row["name"] for row in subject.rows("open tables")]
    forgers = [row["name"] for row in subject.rows("forgers")] if not tables else []
    if tables:
        found = f"everybody may change {listed(tables)}, by default privileges perhaps"
        yield Finding("privileges", "bad", found, f"run: {command('migrate')}")
    if functions:
        found = f"everybody may execute {listed(functions)}"
        yield Finding("privileges", "bad", found, f"run: {command('migrate')}")
    if forgers:
        found = f"the places of their facts can be chosen by {listed(forgers)}, who may so hide or forge what happened"
        yield Finding(
            "privileges", "bad", found, f"run: {command('migrate --roles')}; and revoke insert on {subject.schema}.event from others"
        )
    if not functions and not tables and not forgers:
        yield Finding("privileges", "ok", "places in the log come from the database, and nothing of the journal is everybody's")


@check("sweep leases")
def _leases(subject: Subject) -> Iterator[Finding]:
    held = subject.rows("sweep leases")
    for row in held:
        who = f"{row['claimed_by']}, who logged in as {row['login'] or 'somebody unknown'}"
        if row["remaining"] > LONGEST_LEASE:
            found = f"the sweep of {row['sweep']} is claimed by {who}, for {duration(row['remaining'])}"
            yield Finding("sweep leases", "warn", found, "nobody waits for that any more; ask who it is")
        else:
            found = f"the sweep of {row['sweep']} is the turn of {who}, for {duration(row['remaining'])} more"
            yield Finding("sweep leases", "ok", found)
    if not held:
        yield Finding("sweep leases", "ok", "nobody holds a sweep")


@app_check("login")
def _login(subject: Subject, _app: Celery) -> Iterator[Finding]:
    login = subject.row("login")
    advice = f"make a login for the workers, and run: {command('migrate --roles --writer LOGIN')}"
    if login["is_super"]:
        yield Finding("login", "warn", f"the workers log in as {login['name']}, a superuser, who can change the log", advice)
    elif login["owns"]:
        yield Finding("login", "warn", f"the workers log in as {login['name']}, who owns the log and can change it", advice)
    else:
        yield Finding("login", "ok", f"the workers log in as {login['name']}, who can append and read")
