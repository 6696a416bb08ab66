"""Checks of the database and of the log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg

from celery_journal.consumers.options import beside
from celery_journal.consumers.words import counted, duration, listed
from celery_journal.journal import CannotListen, DatabaseError, Listener, is_pooled
from celery_journal.journal.command import command

from .examination import Finding, Subject, check

#: The oldest that is tested.
OLDEST_SERVER = 150000

#: How long a transaction may hold up the readers of the log before it is worth a word, and before it is bad.
LONG, TOO_LONG = timedelta(seconds=10), timedelta(minutes=5)

WEEK = timedelta(days=7)

#: Events behind which a reader of the log is said to be.
FAR_BEHIND = 10_000


@check("server version")
def _version(subject: Subject) -> Iterator[Finding]:
    number = subject.connection.info.server_version
    found = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number < OLDEST_SERVER:
        yield Finding("server version", "bad", f"{found}, which celery-journal is not tried on", "upgrade to PostgreSQL 15 or newer")
    else:
        yield Finding("server version", "ok", found)


@check("durability")
def _durability(subject: Subject) -> Iterator[Finding]:
    settings = subject.row("durability")
    if settings["fsync"] == "off":
        yield Finding("durability", "bad", "fsync is off: a crash of the server's machine may destroy the database", "set fsync = on")
    elif settings["synchronous_commit"] == "off":
        found = "synchronous_commit is off: a crash of the server loses the last results, though workers believe them stored"
        yield Finding("durability", "warn", found, "alter role ... set synchronous_commit = on, for the role of the workers")
    else:
        yield Finding("durability", "ok", "what ends something is on disk before the call returns")


@check("listening")
def _listening(subject: Subject) -> Iterator[Finding]:
    pooled = is_pooled(subject.connection)
    given = subject.options.listen_dsn
    if given == "":
        found = "listen_dsn is empty: results are polled, every half second"
        yield Finding("listening", "warn", found, "set listen_dsn to a direct connection, or leave it out if there is no pooler")
        return
    try:
        Listener(beside("listen_dsn", given, subject.dsn) if given else subject.dsn, subject.schema, timeout=3).close()
    except CannotListen as exc:
        why = "a pooler is in between" if pooled and given is None else str(exc)
        found = f"nobody can LISTEN ({why}): get() polls, every half second"
        yield Finding("listening", "warn", found, "set the option listen_dsn to a direct connection to the primary")
    except (DatabaseError, psycopg.Error) as exc:
        yield Finding("listening", "bad", f"listen_dsn does not work: {str(exc).strip().splitlines()[0]}", "correct listen_dsn")
    else:
        yield Finding("listening", "ok", "results are pushed" + (", past the pooler" if pooled else ""))


@check("partitions")
def _partitions(subject: Subject) -> Iterator[Finding]:
    stray = subject.rows("default partition")
    taken = {row["first_day"]: row for row in stray if row["first_day"] is not None}
    missing = {row["name"] for row in subject.rows("missing partitions")} - {f"event_{week:%Y_%m_%d}" for week in taken}
    if missing:
        found = f"no partition for the coming weeks: {listed(sorted(missing))}; their events go to the default partition"
        yield Finding("partitions", "bad", found, f"run: {command('migrate')}; and celery.backend_cleanup every day, by Celery's beat")
    if taken:
        weeks = listed([f"{week:%Y-%m-%d} ({counted(row['events'], 'event')})" for week, row in taken.items()])
        found = f"the default partition has begun the weeks of {weeks}: all events of those go there, and stay when weeks are dropped"
        advice = f"mind the clocks of whoever told them, and run: {command('doctor --mend')}"
        soon = any(abs(week - datetime.now(UTC)) <= WEEK for week in taken)
        yield Finding("partitions", "bad" if soon else "warn", found, advice)
    for row in stray:
        if row["first_day"] is None:
            found = f"the default partition holds {counted(row['events'], 'event')}, from {row['first']:%Y-%m-%d} to {row['last']:%Y-%m-%d}"
            advice = "mind the clocks of whoever told them; they are kept and found like all others, and stay when weeks are dropped"
            yield Finding("partitions", "warn", found, advice)
    if not missing and not stray:
        yield Finding("partitions", "ok", "this week and the next have theirs, and the default partition is empty")


@check("horizon")
def _horizon(subject: Subject) -> Iterator[Finding]:
    oldest = next(iter(subject.rows("oldest transactions")), None)
    if oldest is not None and oldest["age"] is None:
        found = f"process {oldest['pid']} has a transaction open whose age is hidden from this role"
        yield Finding("horizon", "warn", found, f"grant pg_read_all_stats to {subject.connection.info.user}, and look again")
        return
    if oldest is None or oldest["age"] < LONG:
        yield Finding("horizon", "ok", "no open transaction holds up who reads the log in order")
        return
    who = f"{oldest['who'] or 'somebody'} (process {oldest['pid']}, {oldest['state']})" if oldest["pid"] else f"prepared {oldest['who']}"
    found = f"a transaction of {who} in {oldest['database']} is open for {duration(oldest['age'])}: tail, export and subscriptions wait"
    end = f"select pg_terminate_backend({oldest['pid']})" if oldest["pid"] else f"rollback prepared '{oldest['who']}'"
    advice = f"wait for it, or end it: {end}" if oldest["state"] == "active" else f"end it: {end}"
    yield Finding("horizon", "bad" if oldest["age"] > TOO_LONG else "warn", found, advice)


@check("places")
def _places(subject: Subject) -> Iterator[Finding]:
    if subject.row("places")["behind"]:
        found = "the sequence of the log is behind its places, as after a restore without it: places are given twice"
        yield Finding("places", "bad", found, f"run: {command('migrate')}")
    else:
        yield Finding("places", "ok", "each new fact gets a place of its own")


@check("subscriptions")
def _subscriptions(subject: Subject) -> Iterator[Finding]:
    behind = [row for row in subject.rows("subscriptions", most=FAR_BEHIND) if row["behind"] >= FAR_BEHIND]
    for row in behind:
        found = f"subscription {row['name']} is more than {FAR_BEHIND:,} events behind, and was last seen {duration(row['age'])} ago"
        yield Finding("subscriptions", "warn", found, "start its reader, or delete its row if nobody needs it any more")
    if not behind:
        yield Finding("subscriptions", "ok", "none is far behind")


@check("indexes")
def _indexes(subject: Subject) -> Iterator[Finding]:
    broken = [row["name"] for row in subject.rows("broken indexes")]
    if broken:
        yield Finding("indexes", "bad", f"not usable: {listed(broken)}", "reindex index concurrently ..., for each")
    else:
        yield Finding("indexes", "ok", "all are valid")


@check("vacuum")
def _vacuum(subject: Subject) -> Iterator[Finding]:
    bloated = subject.rows("bloated tables")
    for row in bloated:
        found = f"{row['name']} has {row['dead']:,} dead rows beside {row['live']:,}, and was {_vacuumed(row['vacuumed'])}"
        yield Finding("vacuum", "warn", found, f"vacuum {subject.schema}.{row['name']}; and look why autovacuum does not")
    if not bloated:
        yield Finding("vacuum", "ok", "no table is bloated")


def _vacuumed(age: timedelta | None) -> str:
    return "never vacuumed" if age is None else f"vacuumed {duration(age)} ago"
