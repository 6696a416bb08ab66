"""Checks of an app's settings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from celery import Celery

from celery_journal.consumers.backend.bodies import is_signed
from celery_journal.consumers.redelivery import visibility_timeout
from celery_journal.consumers.words import counted, duration, listed
from celery_journal.journal import Journal
from celery_journal.journal.command import command
from celery_journal.journal.events import ChordStarted

from .examination import Finding, Subject, app_check


@app_check("track_started")
def _track_started(_subject: Subject, app: Celery) -> Iterator[Finding]:
    if app.conf.task_track_started:
        yield Finding("track_started", "ok", "AsyncResult.state says STARTED while a task runs")
        return
    found = "task_track_started is off: AsyncResult.state says PENDING while a task runs, though the journal knows better"
    yield Finding("track_started", "warn", found, "set task_track_started = True")


@app_check("ignored results")
def _ignored(subject: Subject, app: Celery) -> Iterator[Finding]:
    ignoring = sorted(name for name, task in app.tasks.items() if task.ignore_result and not name.startswith("celery."))
    if not subject.options.journal_ignored:
        found = "journal_ignored is off: how tasks end whose results are ignored is not recorded, and they look as if they never did"
        yield Finding("ignored results", "warn", found, "leave the option journal_ignored out")
    elif app.conf.task_ignore_result:
        found = "task_ignore_result is on: no task's return value is stored, and get() of one that succeeds returns None"
        yield Finding("ignored results", "warn", found, "set ignore_result=True on those tasks only whose values nobody needs")
    else:
        what = counted(len(ignoring), "task ignores its result", "tasks ignore their results") + ", by their own setting"
        yield Finding("ignored results", "ok", what if ignoring else "no task ignores its result")


@app_check("result_expires")
def _expires(subject: Subject, app: Celery) -> Iterator[Finding]:
    expires = app.conf.result_expires
    if not expires:
        yield Finding("result_expires", "ok", "results never leave the views")
        return
    lifetime = expires if isinstance(expires, timedelta) else timedelta(seconds=float(expires))
    chords, waiting = subject.row("longest chord"), subject.row("oldest open chord")
    limit = app.conf.task_time_limit
    if chords["longest"] is not None and chords["longest"] > lifetime:
        found = f"results leave the views after {duration(lifetime)}, and chord {chords['group_id']} took {duration(chords['longest'])}: "
        yield Finding("result_expires", "warn", f"{found}its members are forgotten before its body runs", "raise result_expires")
    elif waiting["age"] is not None and waiting["age"] > lifetime / 2:
        open_for = f"chord {waiting['group_id']} is open for {duration(waiting['age'])}"
        found = f"results leave the views after {duration(lifetime)}, and {open_for}"
        yield Finding("result_expires", "warn", found, f"run: {command('explain')} {waiting['group_id']}; or raise result_expires")
    elif limit is not None and timedelta(seconds=limit) > lifetime:
        found = f"results leave the views after {duration(lifetime)}, and a task may run for {duration(limit)}"
        yield Finding("result_expires", "warn", found, "raise result_expires, or lower task_time_limit")
    else:
        yield Finding("result_expires", "ok", f"results leave the views after {duration(lifetime)}, which outlasts every chord")


@app_check("visibility timeout")
def _visibility(subject: Subject, app: Celery) -> Iterator[Finding]:
    name = "visibility timeout"
    try:
        seconds = visibility_timeout(app)
    except (KeyError, ValueError, ImportError) as exc:
        yield Finding(name, "bad", f"broker_url cannot be used: {str(exc).strip().partition(chr(10))[0]}", "correct broker_url")
        return
    if seconds is None:
        yield Finding(name, "ok", "this broker gives no message to a second worker while the first still has it")
        return
    timeout = timedelta(seconds=seconds)
    longest = subject.row("longest wait")["longest"]
    if longest is not None and longest > timeout:
        found = f"the broker gives a message to a second worker after {duration(timeout)}, and one has it for {duration(longest)}"
        advice = "raise visibility_timeout in broker_transport_options above the longest eta, countdown and run time"
        yield Finding(name, "warn", found, advice)
    else:
        yield Finding(name, "ok", f"{duration(timeout)}, which outlasts every task of the last week")


@app_check("publishing")
def _publishing(subject: Subject, _app: Celery) -> Iterator[Finding]:
    if subject.options.track_publish == "off":
        found = "track_publish is off: a queued task is not told from an unknown one, and nothing can be replayed"
        yield Finding("publishing", "warn", found, "leave the option track_publish out")
    elif not subject.options.store_arguments:
        yield Finding("publishing", "warn", "store_arguments is off: nothing can be replayed", "leave it so if privacy asks for it")
    else:
        yield Finding("publishing", "ok", f"recorded ({subject.options.track_publish}), with arguments")


@app_check("signing")
def _signing(subject: Subject, _app: Celery) -> Iterator[Finding]:
    keys = subject.options.signing_keys
    if not keys:
        found = "there is no signing_key: whoever may write the log can have workers run any task, by a forged chord"
        yield Finding("signing", "warn", found, "give every app of this journal the same secret, as CELERY_JOURNAL_SIGNING_KEY")
        return
    groups = [row["group_id"] for row in subject.rows("chords that were not sent")]
    recorded, _ = Journal(subject.schema).read_transitions(subject.connection, groups, ["chord-started"])
    started = [place.event for place in recorded if isinstance(place.event, ChordStarted)]
    if unsigned := sorted({one.stream for one in started if not is_signed(one, keys)}):
        chords = counted(len(unsigned), "chord is", "chords are")
        found = f"{chords} not signed with the app's key, open or failed, and never sent by a sweep: {listed(unsigned)}"
        yield Finding("signing", "bad", found, f"look who wrote them, by {command('history')}; or give the key to whoever starts them")
    else:
        yield Finding("signing", "ok", "the bodies of chords are signed")
