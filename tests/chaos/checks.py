"""Comparing the journal with the truth: each way in which they differ is a violation, told in one line."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .record import Record, Row, Told
from .truth import Execution, Truth

#: Seconds for which a process may keep a fact that nobody waits for; those it had when it was killed are gone.
MOMENT = 1.0

#: The same of a worker that does not load our code: Celery's broadcast is not stored anywhere before the broker has it.
BROADCAST = 3.0

#: Tasks whose end is told by a signal, because Celery stores none.
UNSTORED = {"chaos.quiet", "chaos.ignore", "chaos.reject"}

#: Seconds that a process may take from what its main process broadcasts of it until it has told the journal itself; with the
#: database away it waits for the retry budget first.
HURRY = 5.0

#: Seconds after the death of a child in which its worker fails what it had: billiard waits 10 s for a result that may be on its way.
MOURNING = 10.0 + HURRY

#: How a reason names the worker that had a task.
HAD = re.compile(r"(?P<did>received|started|begun|rejected) by (?P<worker>\S+),")

#: Kinds of which a run has one.
ENDS = {"task-retried", "task-revoked", "task-ignored", "task-failed", "task-succeeded"}

#: Kinds of which there may be many.
MANY = {"task-progress", "task-lost", "operator-acted"}

#: What the journal may call an end to which Celery gave this state.
NAMES: Mapping[str, set[str]] = {
    "SUCCESS": {"SUCCESS"},
    "FAILURE": {"FAILURE"},
    "IGNORED": {"IGNORED"},
    "REJECTED": {"REJECTED", "FAILURE"},  # a FAILURE since Celery 5.7
}


@dataclass(slots=True)
class Expected:
    """How the task may have ended, for all that really happened."""

    ends: set[str] = field(default_factory=set)
    #: Why it may be lost; None if it may not.
    lost_because: str | None = None


def expected(truth: Truth, task_id: str) -> Expected:
    """Return how the task may have ended."""
    executions = truth.executions.get(task_id, [])
    if not executions:
        return _unexecuted(truth, task_id)
    sure = [execution for execution in executions if not _fleeting(truth, execution)]
    if any(execution.state == "SUCCESS" for execution in sure):
        return Expected(_names("SUCCESS", executions[0].name))
    last = max(execution.attempt for execution in executions)
    found = Expected()
    for execution in executions:
        if execution.attempt < last:
            continue
        if execution in sure and execution.state in NAMES:
            found.ends |= _names(str(execution.state), execution.name)
        elif execution in sure:  # it asked for a retry, of which nobody began the execution
            found.lost_because = f"attempt {last + 1} never began"
        else:
            found.ends |= _names("SUCCESS", execution.name) if execution.outcome == "returned" else set()
            found.ends |= {"FAILURE", *_names("IGNORED" if execution.outcome == "Ignore" else "FAILURE", execution.name)}
            found.lost_because = f"process {execution.pid} of {execution.worker} died of it"
    if any(execution.state in NAMES for execution in sure if execution.attempt == last):
        found.lost_because = None
    for execution in sure:  # a retry that no broker takes; its worker's main process would have failed it
        if execution.attempt == last and execution.state == "REJECTED" and _deaths_after(truth, execution):
            found.lost_because = f"{execution.worker} died before it failed what had been rejected"
    if task_id in truth.revoked or truth.orders.get(task_id) == "expire":
        found.ends.add("REVOKED")
    return found


def _deaths_after(truth: Truth, execution: Execution) -> bool:
    """Return whether its worker died after it was told, with what it had not done yet: while the broker is away it does nothing."""
    return any(at >= (execution.told or execution.began) for at in truth.deaths.get(execution.worker, []))


def _unexecuted(truth: Truth, task_id: str) -> Expected:
    kind = truth.orders.get(task_id)
    found = Expected(lost_because="it never began")
    if task_id in truth.revoked or kind == "expire":
        found.ends.add("REVOKED")
    if kind in {"chain", "chord"}:  # something before it has failed
        found.ends.add("FAILURE")
    if kind in {"limit", "soft"}:  # its time may be over before the journal lets it begin
        found.ends.add("FAILURE")
    return found


def _names(state: str, name: str) -> set[str]:
    if state == "SUCCESS" and name == "chaos.quiet":
        return {"SUCCESS", "IGNORED"}
    return NAMES[state]


def _fleeting(truth: Truth, execution: Execution) -> bool:
    """Return whether the process was killed before it could have told the journal."""
    if execution.told is None:
        return True
    if execution.worker.startswith("foreign"):
        return any(truth.died(pid, execution.told, BROADCAST) for pid in truth.killed) or any(
            down - BROADCAST <= execution.told <= up + BROADCAST for down, up in truth.broker_down
        )
    return execution.name in UNSTORED and truth.died(execution.pid, execution.told, MOMENT)


def ends(truth: Truth, record: Record, lost: Mapping[str, str]) -> Iterator[str]:
    """Yield where the end of a task is not the true one."""
    # Before its code began: it had told of its start, or the worker that saw it die tells of the task.
    struck = {(run.task_id, run.attempt) for run in record.runs if run.started and truth.died(run.pid, run.started, HURRY)}
    struck |= {
        (casualty.task_id, casualty.attempt)
        for casualty in record.casualties
        if any(casualty.at - MOURNING <= at <= casualty.at + 0.1 for at in truth.deaths.get(casualty.worker, []))
    }
    struck -= {(task_id, execution.attempt) for task_id, executions in truth.executions.items() for execution in executions}
    for task_id in sorted(truth.sendings.keys() | truth.executions.keys()):
        row, allowed = record.rows.get(task_id), expected(truth, task_id)
        if row is not None and (task_id, row.retries) in struck:
            allowed.ends.add("FAILURE")
        what = f"{_name(truth, task_id)} {task_id}"
        if row is None:
            yield f"{what}: sent, and the journal has never heard of it"
        elif row.ended and row.status not in allowed.ends:
            yield f"{what}: the journal says {row.status}, but {_story(truth, task_id)}"
        elif row.ended and task_id in lost:
            yield f"{what}: has ended with {row.status}, and is called lost all the same: {lost[task_id]}"
        elif not row.ended and allowed.lost_because is None:
            yield f"{what}: the journal says {row.status} and nothing more, but {_story(truth, task_id)}"
        elif not row.ended and task_id not in lost and not _waits_in_chord(row, task_id, record):
            yield f"{what}: is {row.status} for ever ({allowed.lost_because}), and not called lost; {_story(truth, task_id)}"


def _waits_in_chord(row: Row, task_id: str, record: Record) -> bool:
    """Return whether it is the body of a chord that has not been sent: then the chord is what is lost."""
    return row.status == "PENDING" and any(chord.body_task_id == task_id and not chord.ended for chord in record.chords)


def reasons(truth: Truth, record: Record, lost: Mapping[str, str]) -> Iterator[str]:
    """Yield which tasks are called lost for a reason that is not the true one."""
    for task_id, reason in lost.items():
        if (row := record.rows.get(task_id)) is None or row.ended:
            continue
        began = [execution for execution in truth.executions.get(task_id, []) if execution.attempt >= row.retries]
        what = f"{_name(truth, task_id)} {task_id}: called lost, because {reason}"
        if "expired at" in reason:
            if began or truth.orders.get(task_id) != "expire":
                yield f"{what}; but that is not so; {_story(truth, task_id)}"
        elif "not heard to end" in reason:
            if not any(_fleeting(truth, execution) for execution in began):
                yield f"{what}; but it has ended; {_story(truth, task_id)}"
        elif match := HAD.search(reason):
            deaths = [at for at in _deaths(truth, match["worker"]) if at >= _first_heard(truth, task_id)]
            if not deaths:
                yield f"{what}; but nothing of {match['worker']} was killed; {_story(truth, task_id)}"
            elif match["did"] == "received" and any(all(at > execution.began + HURRY for at in deaths) for execution in began):
                yield f"{what}; but it began; {_story(truth, task_id)}"
        elif "never received" in reason:
            if row.status == "RETRY":
                began = [execution for execution in began if execution.attempt > row.retries]
            if "has broadcast" in reason:
                began = [execution for execution in began if not _fleeting(truth, execution)]
            if began:
                yield f"{what}; but it began; {_story(truth, task_id)}"
        elif not (reason.startswith("body of chord") and not began):
            yield f"{what}; but that is not so; {_story(truth, task_id)}"


def _deaths(truth: Truth, worker: str) -> list[float]:
    """Return when the worker lost what it had: one that only broadcasts does not say whether it was killed, or its connection was."""
    outages = [down for down, _ in truth.broker_down] if worker.startswith("foreign") else []
    return [*truth.deaths.get(worker, []), *outages]


def _first_heard(truth: Truth, task_id: str) -> float:
    """Return when the task was sent, or began, which whoever sends it may hear of a moment later."""
    moments = [sending.at for sending in truth.sendings.get(task_id, [])] + [each.began for each in truth.executions.get(task_id, [])]
    return min(moments, default=0.0)


def _times(truth: Truth, task_id: str, kind: str, attempt: int, worker: str | None) -> float:
    """Return how often the transition may be told."""
    if kind == "task-sent":
        return max(1, len({sending.at for sending in truth.sendings.get(task_id, []) if sending.attempt == attempt}))
    if kind != "task-revoked":
        return 1
    if worker is None:  # everybody who hears of the wish may say so
        return float("inf")
    # A message that was not acknowledged is delivered, and revoked, again.
    again = [*_deaths(truth, worker), *(up for _, up in truth.broker_down)]
    return 1 + sum(at >= _first_heard(truth, task_id) for at in again)


def doubles(truth: Truth, record: Record) -> Iterator[str]:
    """Yield which transitions the log has more than once."""
    for told in record.told:
        if told.times > _times(truth, told.stream, told.kind, told.attempt, told.worker):
            yield (
                f"{_name(truth, told.stream)} {told.stream}: {told.kind} of attempt {told.attempt}, run {told.run}, on {told.worker}"
                f" is in the log {told.times} times ({told.sources}); {_story(truth, told.stream)}"
            )


def two_ends(truth: Truth, record: Record) -> Iterator[str]:
    """Yield which runs have ended in two ways, one of which only the broadcast tells of."""
    facts = defaultdict[tuple[str, int, str], list[Told]](list)
    for told in record.told:
        if told.run and told.kind in ENDS:
            facts[told.stream, told.attempt, told.run].append(told)
    for (task_id, attempt, run), ends in facts.items():
        if len({told.kind for told in ends}) > 1 and any("broadcast" in told.sources for told in ends):
            yield (
                f"{_name(truth, task_id)} {task_id}: attempt {attempt}, run {run} has ended twice: "
                f"{', '.join(f'{told.kind} ({told.sources})' for told in ends)}; {_story(truth, task_id)}"
            )


def histories(truth: Truth, record: Record) -> Iterator[str]:
    """Yield which transitions a history tells more than once."""
    for task_id, history in record.histories.items():
        times = Counter((fact.kind, fact.attempt, fact.run, fact.worker) for fact in history if fact.kind not in MANY)
        for (kind, attempt, run, worker), count in times.items():
            if count > _times(truth, task_id, kind, attempt, worker):
                yield (
                    f"{_name(truth, task_id)} {task_id}: its history has {kind} of attempt {attempt}, run {run} {count} times; "
                    f"{_story(truth, task_id)}"
                )


def runs(truth: Truth, record: Record) -> Iterator[str]:
    """Yield where the journal has more or fewer runs than there were executions."""
    shown = Counter((run.task_id, run.attempt) for run in record.runs if run.started is not None)
    really: Counter[tuple[str, int]] = Counter()
    hidden: Counter[tuple[str, int]] = Counter()
    for executions in truth.executions.values():
        for execution in executions:
            key = execution.task_id, execution.attempt
            really[key] += 1
            foreign = execution.worker.startswith("foreign")
            unstored = foreign or execution.name in UNSTORED
            if unstored and (_fleeting(truth, execution) or truth.died(execution.pid, execution.began, BROADCAST if foreign else MOMENT)):
                hidden[key] += 1
    ghosts = Counter(
        (run.task_id, run.attempt)
        for run in record.runs
        if run.started and any(run.started - 0.1 <= at <= run.started + HURRY for at in truth.deaths.get(run.worker or "", []))
    )
    for key in sorted(really.keys() | shown.keys()):
        if not really[key] - hidden[key] <= shown[key] <= really[key] + ghosts[key]:
            task_id, attempt = key
            yield (
                f"{_name(truth, task_id)} {task_id}: attempt {attempt} was run {really[key]} times, and the journal shows {shown[key]}; "
                f"{_story(truth, task_id)}"
            )


def deliveries(truth: Truth, record: Record) -> Iterator[str]:
    """Yield of which tasks the journal shows more runs than there were messages."""
    shown = Counter(run.task_id for run in record.runs if run.run and run.status not in {"PENDING", "REVOKED"})
    for task_id, count in sorted(shown.items()):
        if count > truth.deliveries[task_id]:
            yield (
                f"{_name(truth, task_id)} {task_id}: was received {truth.deliveries[task_id]} times, and the journal shows {count} runs; "
                f"{_story(truth, task_id)}"
            )


def chords(truth: Truth, record: Record, lost: Mapping[str, str]) -> Iterator[str]:
    """Yield which chords are open, though they have nothing left to wait for and are not called lost."""
    for chord in record.chords:
        body = chord.body_task_id or ""
        if not chord.ended and chord.group_id not in lost and body not in lost:
            yield (
                f"chord {chord.group_id}: is open, waits for {chord.count} of {chord.size}, and is not called lost; "
                f"body {body}: {_story(truth, body)}"
            )


def check(truth: Truth, record: Record, lost: Mapping[str, str]) -> list[str]:
    """Return every violation. `lost` is what is called lost, tasks and chords, and why."""
    return [
        *ends(truth, record, lost),
        *reasons(truth, record, lost),
        *doubles(truth, record),
        *two_ends(truth, record),
        *histories(truth, record),
        *runs(truth, record),
        *deliveries(truth, record),
        *chords(truth, record, lost),
    ]


def _name(truth: Truth, task_id: str) -> str:
    return truth.orders.get(task_id, "task")


def _story(truth: Truth, task_id: str) -> str:
    """Return what really happened to the task, in words."""
    parts = [f"sent as attempt {sending.attempt} at {sending.at:.2f} by {sending.pid}" for sending in truth.sendings.get(task_id, [])]
    for execution in truth.executions.get(task_id, []):
        end = f"{execution.outcome} at {execution.ended:.2f}" if execution.ended else "no end"
        state = f", {execution.state} stored at {execution.told:.2f}" if execution.told else ""
        killed = f", killed at {truth.killed[execution.pid]:.2f}" if execution.pid in truth.killed else ""
        parts.append(
            f"attempt {execution.attempt} begun at {execution.began:.2f} on {execution.worker} in {execution.pid}: {end}{state}{killed}"
        )
    if task_id in truth.revoked:
        parts.append("asked to be revoked")
    return "really: " + ("; ".join(parts) or "nothing happened")
