"""The sentences about a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from celery import states

from celery_journal.consumers.raised import error_of
from celery_journal.consumers.replay.lineage import origin_of
from celery_journal.consumers.request import ACKNOWLEDGES_LATE, CANCELLED_FOR_GOOD, REJECTED_FOR_GOOD
from celery_journal.consumers.routing import way_of
from celery_journal.consumers.unregistered import has_instead
from celery_journal.consumers.words import counted, duration, listed, moment, ordinal, who
from celery_journal.journal.command import command
from celery_journal.journal.events import (
    OperatorActed,
    TaskFailed,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplaced,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskWitnessed,
)

from .known import Known, Row

#: Clocks that differ by less than this agree: facts take their time to the database.
AGREEMENT = timedelta(seconds=2)

#: A run that has not ended.
_OPEN = {states.PENDING, states.RECEIVED, states.STARTED}

#: A run that has put another task in its place.
REPLACED = TaskReplaced.model_fields["state"].default


def tell_task(known: Known) -> Iterator[str]:
    """Yield what there is to say of a task of which the views have a row."""
    task = known.task or {}
    match task["state"]:
        case states.SUCCESS:
            yield f"It has succeeded{_how_long(known)} at {moment(task['date_done'])}."
        case states.FAILURE:
            yield f"It has failed{_with_error(known.last(TaskFailed))}{_how_long(known)} at {moment(task['date_done'])}."
            if (lacking := _unregistered(known)) is not None:
                yield f"{lacking}."
            if _failed_with_another(known):
                yield f"It was never sent, as far as is known, and failed with what comes before it; see: {command('graph')} {known.id}"
        case states.REVOKED:
            yield _revoked(known)
        case states.IGNORED:
            yield f"It has ended without a result{_how_long(known)} at {moment(task['date_done'])}."
        case _:
            yield from _not_ended(known)
            if (asked := _asked(known)) is not None:
                yield f"{asked} asked for it to be revoked; no worker has done so yet."
            if task["lost_reason"] is not None:
                yield _lost(known)
    if task["date_done"] is not None:
        yield from _goes_on(known)
    yield from _deliveries(known)
    yield from _replayed(known)


def _goes_on(known: Known) -> Iterator[str]:
    """Yield where a task is that has ended, and was sent again under its id."""
    again = [run for run in _since(known, (known.task or {})["date_done"]) if run["status"] in _OPEN]
    if again:
        yield "It was sent again under its id since."
    for run in again:
        yield from [_with_worker(known, run, several=False)] if run["worker"] else _waiting(known, run)


def _since(known: Known, moment: datetime) -> list[Row]:
    return [run for run in known.attempts if run["date_sent"] is not None and run["date_sent"] > moment]


def _deliveries(known: Known) -> Iterator[str]:
    """Yield how often it was started: an id that was sent again is another message, and no second delivery of the first."""
    sent = Counter(attempt for attempt, _ in {(fact.attempt, fact.occurred_at) for fact in known.all_of(TaskSent)})
    started = Counter(run["attempt"] for run in known.attempts if run["date_started"] is not None)
    replaced = sum(run["status"] == REPLACED for run in known.attempts)
    if replaced:
        yield f"It has put another task in its place{f' {replaced} times' if replaced > 1 else ''}, which goes on under its id."
    if sum(sent.values()) - len(sent) > replaced:
        yield f"It was sent {counted(sum(sent.values()), 'time')} under this id, and started {counted(started.total(), 'time')}."
    if any(count > max(sent[attempt], 1) for attempt, count in started.items()):
        attempts = counted(max(started) + 1, "attempt")
        yield f"Its message was delivered more than once: it was started {started.total()} times in {attempts}."


def tell_clocks(known: Known) -> Iterator[str]:
    """Yield what there is to say of clocks that disagree, because then the times in the log are not in their order."""
    ahead: list[str] = []
    sent = known.last(TaskSent)
    if sent is not None and sent[0].occurred_at - sent[1] > AGREEMENT:
        ahead.append(f"that of the sender is {duration(sent[0].occurred_at - sent[1])} ahead of the database's")
    names = {run["worker"] for run in known.attempts if run["worker"]}
    for name in sorted(names & known.workers.keys()):
        offset = known.workers[name]["clock_offset"]
        if offset is not None and abs(offset) > AGREEMENT:
            ahead.append(f"that of {name} is {duration(offset)} {'ahead of' if offset > timedelta(0) else 'behind'} the database's")
    for run in known.attempts:
        first = min((at for at in (run["date_received"], run["date_started"]) if at is not None), default=None)
        if first is not None and run["date_sent"] is not None and run["date_sent"] - first > timedelta(seconds=1):
            ahead.append(f"by them {run['worker']} had the task {duration(run['date_sent'] - first)} before it was sent")
            break
    if ahead:
        yield f"The clocks disagree: {'; '.join(ahead)}."


def _replayed(known: Known) -> Iterator[str]:
    """Yield of which task this was sent again, and as which it was itself."""
    sent, again = known.last(TaskSent), known.last(TaskReplayed)
    if sent is not None and (origin := origin_of(sent[0])) is not None:
        yield f"It is {origin}, sent again."
    if again is not None and again[0].task_id not in {None, known.id}:
        event, at = again
        by, why = f" by {event.author}" if event.author else "", f": {event.reason}" if event.reason else ""
        yield f"It was sent again as {event.task_id} {duration(known.now - at)} ago{by}{why}."
        if known.copy is not None:
            ended = known.copy["date_done"] is not None
            yield f"That {'has ended' if ended else 'has not ended'}: {known.copy['state']}{', lost' if known.copy['lost_reason'] else ''}."


def _not_ended(known: Known) -> Iterator[str]:
    task = known.task or {}
    newest = _newest_attempt(known)
    runs = [run for run in known.attempts if run["attempt"] == newest]
    under_way = [run for run in runs if run["worker"] is not None and run["status"] in {states.RECEIVED, states.STARTED, states.PENDING}]
    retried = known.last(TaskRetried)
    if retried is not None and task["state"] == states.RETRY:
        yield _retrying(known, retried[0], newest, has_run=bool(under_way))
    for run in under_way:
        yield _with_worker(known, run, len(under_way) > 1)
        waits_for_eta = run["eta"] is not None and run["eta"] > known.now
        if run["date_started"] is None and run["expires"] is not None and run["expires"] < known.now and not waits_for_eta:
            yield f"It expired {duration(known.now - run['expires'])} ago, and nobody has said since what became of it."
    if under_way:
        return
    if (replaced := known.last(TaskReplaced)) is not None:
        waiting = [run for run in runs if run["worker"] is None and run["status"] == states.PENDING]
        if waiting:
            yield from _waiting(known, waiting[-1])
        else:
            yield f"What {replaced[0].worker or 'its worker'} has put in its place ends under its id; see: {command('graph')} {known.id}"
        return
    if task["state"] not in {states.PENDING, states.RETRY, states.REJECTED}:  # all that is known are reports
        yield _reported(known)
        return
    if (rejected := known.last(TaskRejected, newest)) is not None:
        told, worker = getattr(rejected[0], "reason", None), rejected[0].worker or "A worker"
        ago = f"{duration(known.now - rejected[1])} ago"
        if told is not None and told.startswith(REJECTED_FOR_GOOD):
            yield f"{worker} has rejected it {ago} ({told}): nobody will run it again."
            return
        yield f"{worker} has given it back {ago}{f' ({told})' if told else ''}."
    if (witnessed := known.last(TaskWitnessed)) is not None and witnessed[0].attempt >= newest:
        witness, state = witnessed[0].worker, witnessed[0].state
        yield f"{witness} has not recorded anything of it, but was heard to say {state}. {_life(known, witness)}"
        return
    if task["state"] == states.RETRY and not any(run["attempt"] > (task["retries"] or 0) for run in runs):
        return
    yield from _waiting(known, runs[-1] if runs else None)


def _newest_attempt(known: Known) -> int:
    """Return the attempt of the newest message: one that is sent again under its id counts from 0."""
    if not known.attempts:
        return (known.task or {})["retries"] or 0
    sent = [(run["date_sent"], run["attempt"]) for run in known.attempts]
    if any(moment is None for moment, _ in sent):
        return int(known.attempts[-1]["attempt"])
    return int(max(sent)[1])


def _lost(known: Known) -> str:
    reason = (known.task or {})["lost_reason"]
    run = known.attempts[-1] if known.attempts else None
    row = known.workers.get((run and run["worker"]) or "")
    is_there = (
        run is not None and row is not None and row["alive"] and not (row["online_since"] and row["online_since"] > run["recorded_at"])
    )
    if is_there and "not been heard of" in reason:
        return f"It was marked as lost ({reason}), but that worker is there again."
    return f"It is lost: {reason}."


def _waiting(known: Known, run: Row | None) -> Iterator[str]:
    """Yield where a task is that no worker has received."""
    task = known.task or {}
    queue = (run and run["queue"]) or task["queue"]
    waited = duration(known.now - ((run and run["sent_recorded_at"]) or task["recorded_at"]))
    sent = known.last(TaskSent, run["attempt"] if run else task["retries"] or 0)
    way = sent and way_of(sent[0])
    by = f"sent to {way}, and which queue that is, is not known" if way else "where is not known"
    where = f"queued {waited} on `{queue}`" if queue else f"queued {waited}, {by}"
    eta, expires = (run["eta"], run["expires"]) if run else (None, None)
    if eta is not None and eta > known.now:
        yield f"It is {where}, waiting for its eta in {duration(eta - known.now)}."
    else:
        yield f"It is {where}, {_consumers(known)}." if queue else f"It is {where}."
    if expires is not None:
        yield _expiry(known, expires)


def _expiry(known: Known, expires: datetime) -> str:
    if expires > known.now:
        return f"It expires in {duration(expires - known.now)}."
    return f"It expired {duration(known.now - expires)} ago, and no worker will run it any more."


def _consumers(known: Known) -> str:
    consumers = known.consumers or {"consumers": 0, "active": 0}
    if not consumers["consumers"]:
        return "no live worker consumes it"
    told = counted(consumers["consumers"], "live worker consumes it", "live workers consume it")
    told += f", busy with {counted(consumers['active'], 'task')}" if consumers["active"] else ", with nothing to do"
    if known.ahead:
        ahead = "more than 1,000 tasks" if known.ahead > 1000 else counted(known.ahead, "task")
        told += f"; {ahead} sent earlier still {'waits' if known.ahead == 1 else 'wait'}"
    lacking = _unregistered(known)
    return f"{told}. {lacking}" if lacking else told


def _unregistered(known: Known) -> str | None:
    """Return who of those that consume its queue has not registered the task; None where all have, or do not tell."""
    consumers, name = known.consumers or {}, (known.task or {})["name"]
    if not (lacking := consumers.get("unregistered")):
        return None
    if len(lacking) < consumers["consumers"]:
        return f"{listed(lacking)} {'has' if len(lacking) == 1 else 'have'} not registered {name}, and would fail it"
    nobody = f"No live worker that consumes `{consumers['queue']}` has registered the task {name}"
    return f"{nobody}, and whichever receives it fails it: {lacking[0]} has {has_instead(known.registered, name)}"


def _with_worker(known: Known, run: Row, several: bool) -> str:
    task, worker = known.task or {}, run["worker"]
    attempt = run["attempt"]
    if run["date_started"] is None:
        heard: tuple[Any, datetime] | None = known.last(TaskReceived, attempt)
        told = f"It was received by {worker} {_ago(known, heard, run)}"
        if run["eta"] is not None and run["eta"] > known.now:
            told += f", waiting for its eta in {duration(run['eta'] - known.now)}"
        elif (known.workers.get(worker) or {}).get("active"):
            told += f", which is busy with {counted(known.workers[worker]['active'], 'task')}"
    else:
        heard = known.last(TaskStarted, attempt)
        told = f"It was started on {worker} {_ago(known, heard, run)}" + (f", pid {run['pid']}" if run["pid"] else "")
        if run["time_limit"] is not None:
            told += f", with a time limit of {duration(run['time_limit'])}"
    if several:
        told += " (one of several deliveries)"
    if _is_given_back(known, run):
        return f"{told}. {_life(known, worker, run['recorded_at'])} Its message was given back to the broker: {_queued(known)}."
    progress = known.last(TaskProgress, attempt)
    if progress is not None and task["state"] == progress[0].state:
        told += f"; it said {progress[0].state} {duration(known.now - progress[1])} ago"
    return f"{told}. {_life(known, worker, run['recorded_at'], has_started=run['date_started'] is not None)}"


def _is_given_back(known: Known, run: Row) -> bool:
    """Return whether the broker has the message of a run again, as far as is known.

    Its worker is gone, or has connected to its broker anew, and had not acknowledged it.
    """
    row = known.workers.get(run["worker"] or "")
    if row is None:
        return False
    margin = timedelta()
    if row["source"] == "broadcast":  # as in sql/lost.sql
        if run["date_started"] is not None:
            return False
        margin = timedelta(seconds=3)
    is_new = bool(row["online_since"] and row["online_since"] > run["recorded_at"] + margin)
    if row["alive"] and not is_new:
        return False
    starts = (recorded.event for recorded in known.events if isinstance(recorded.event, TaskStarted))
    return run["date_started"] is None or any(start.run == run["run"] and start.reason == ACKNOWLEDGES_LATE for start in starts)


def _reported(known: Known) -> str:
    task = known.task or {}
    where = f" on {task['worker']}" if task["worker"] else ""
    told = f"It said {task['state']}{where} {duration(known.now - task['recorded_at'])} ago."
    return f"{told} {_life(known, task['worker'], task['recorded_at'])}" if task["worker"] else told


def _life(known: Known, worker: str | None, since: datetime | None = None, *, has_started: bool = False) -> str:
    """Return whether the worker is there."""
    row = known.workers.get(worker or "")
    if row is None:
        return f"Whether {worker} is alive is not known: the journal has no heartbeat of it."
    if row["alive"]:
        if since is not None and row["online_since"] is not None and row["online_since"] > since and row["source"] != "broadcast":
            return f"{worker} was started anew at {moment(row['online_since'])}, after the last that was heard of the task."
        if since is not None and row["source"] == "broadcast" and row["active"] == 0 and row["last_seen"] > since and has_started:
            return f"{worker} is alive and has nothing to do any more: that it has ended was not heard."
        return f"{worker} is alive, heard of {duration(known.now - row['last_seen'])} ago."
    if row["offline"]:
        return f"{worker} went offline at {moment(row['last_seen'])}."
    return f"{worker} has not been heard of since {moment(row['last_seen'])}."


def _retrying(known: Known, retried: TaskRetried, newest: int, *, has_run: bool) -> str:
    if retried.reason == CANCELLED_FOR_GOOD:
        how = f"A cold shutdown of {retried.worker or 'its worker'} has cancelled its run"
        return f"{how}; its message was acknowledged early, so nobody will run it again."
    if retried.reason is not None and newest == retried.attempt:
        how = f"{retried.worker or 'Its worker'} has cancelled its run ({retried.reason})"
        return f"{how}, and its message was given back to the broker" + ("." if has_run else f": {_queued(known)}.")
    told = f"It is retrying for the {ordinal(retried.attempt + 1)} time{_because(retried)}"
    eta = next((run["eta"] for run in known.attempts if run["attempt"] == newest > retried.attempt and run["eta"]), retried.eta)
    if eta is None or has_run:
        return f"{told}."
    if eta > known.now:
        return f"{told}; the next attempt is due in {duration(eta - known.now)}."
    return f"{told}; the next attempt was due {duration(known.now - eta)} ago."


def _queued(known: Known) -> str:
    queue = (known.task or {})["queue"]
    return f"it waits for a worker of `{queue}`, and {_consumers(known)}" if queue else "it waits for a worker"


def _failed_with_another(known: Known) -> bool:
    """Return whether it is a later step of a chain, which Celery gives the error of the one that failed."""
    task, failed = known.task or {}, known.last(TaskFailed)
    if failed is None or failed[0].source != "backend" or failed[0].root_id in {None, known.id}:
        return False
    return task["worker"] is None and task["lost_reason"] is None and known.last(TaskSent) is None


def _revoked(known: Known) -> str:
    last = known.last(TaskRevoked)
    done_at = moment((known.task or {})["date_done"])
    asked = _asked(known)
    by = f", asked for by {asked}" if asked else ""
    effected = next((worker for recorded in reversed(known.events) if (worker := _effected_by(recorded.event)) is not None), None)
    if effected is None:
        by = f" by {asked}" if asked else ""
        return f"It was revoked at {done_at}{by}: a worker that has heard so discards its message, and one that has not may still run it."
    error = error_of(last[0]) if last else None
    why = f" ({error})" if error else ""
    return f"It was revoked at {done_at}{by}, effected by {effected}{why}."


def _effected_by(event: Any) -> str | None:
    return event.worker if isinstance(event, TaskRevoked) else None


def _asked(known: Known) -> str | None:
    """Return who asked for the task to be revoked, if that is known."""
    for recorded in reversed(known.events):
        event = recorded.event
        if isinstance(event, OperatorActed) and event.action in {"revoke", "terminate"}:
            return who(event.author, recorded.recorded_by)
    return None


def _how_long(known: Known) -> str:
    task = known.task or {}
    told = ""
    if task["date_started"] is not None and task["date_done"] >= task["date_started"]:
        told = f" after {duration(task['date_done'] - task['date_started'])}"
    return told + (f" on {task['worker']}" if task["worker"] else "")


def _with_error(failed: tuple[Any, datetime] | None) -> str:
    error = error_of(failed[0]) if failed else None
    return f" with {error}" if error else ""


def _because(event: Any) -> str:
    error = error_of(event)
    return f" because of {error}" if error else ""


def _ago(known: Known, heard: tuple[Any, datetime] | None, run: Row) -> str:
    return f"{duration(known.now - (heard[1] if heard else run['recorded_at']))} ago"
