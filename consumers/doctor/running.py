"""Checks of what a task may do to a worker, and of the settings that the running workers have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery.utils.serialization import jsonify
from kombu.utils.encoding import safe_repr

from celery_journal.consumers.words import counted, listed, shown

from .examination import Finding, Subject, app_check

#: Seconds that workers have to answer, and a broker to let us in.
PATIENCE = 1.0

#: What decides whether tasks are lost, doubled or never end, and has to be the same for those who send and those who run them.
DECISIVE = (
    "result_expires",
    "task_acks_late",
    "task_acks_on_failure_or_timeout",
    "task_ignore_result",
    "task_reject_on_worker_lost",
    "task_soft_time_limit",
    "task_time_limit",
    "task_track_started",
)


@app_check("late acknowledgement")
def _acknowledgement(_subject: Subject, app: Celery) -> Iterator[Finding]:
    late = {name: task for name, task in _own(app).items() if task.acks_late}
    dropped = sorted(name for name, task in late.items() if not task.reject_on_worker_lost)
    if dropped:
        many = counted(len(dropped), "task is", "tasks are")
        found = f"{many} acknowledged late, and dropped all the same when the process that runs it is killed: {listed(dropped)}"
        advice = "set reject_on_worker_lost=True where a task may run twice, or leave acks_late out"
        yield Finding("late acknowledgement", "warn", found, advice)
    else:
        yield Finding("late acknowledgement", "ok", f"{counted(len(late), 'task')} acknowledged late, and given back when its process dies")


@app_check("time limits")
def _limits(_subject: Subject, app: Celery) -> Iterator[Finding]:
    conf = app.conf
    tasks = {} if conf.task_time_limit or conf.task_soft_time_limit else _own(app)
    unlimited = sorted(name for name, task in tasks.items() if not (task.time_limit or task.soft_time_limit))
    if unlimited:
        many = counted(len(unlimited), "task has", "tasks have")
        found = f"{many} no time limit, and one that hangs holds its process of the worker for ever: {listed(unlimited)}"
        yield Finding("time limits", "warn", found, "set task_time_limit, above what the longest task needs, or time_limit of these")
    else:
        yield Finding("time limits", "ok", "no task can hold a worker's process for ever")


@app_check("workers' settings")
def _differing(_subject: Subject, app: Celery) -> Iterator[Finding]:
    name = "workers' settings"
    try:
        with app.connection_for_write(connect_timeout=PATIENCE) as connection:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE)
            told = app.control.inspect(timeout=PATIENCE, connection=connection).conf(with_defaults=True) or {}
    except Exception as exc:  # noqa: BLE001  each transport has errors of its own, and `visibility timeout` says what is wrong with the URL
        advice = "look whether broker_url is right, and the broker up"
        yield Finding(name, "warn", f"no worker could be asked: {type(exc).__name__}", advice)
        return
    ours = _decisive(jsonify(app.conf.table(with_defaults=True), unknown_type_filter=safe_repr))
    differing = defaultdict[str, list[str]](list)
    for worker, conf in told.items():
        for setting, theirs in _decisive(conf).items():
            if theirs != ours[setting]:
                differing[f"{setting} is {theirs!r} there, and {ours[setting]!r} here"].append(worker)
    advice = "start these workers again, or give this app the same settings"
    for what, workers in differing.items():
        yield Finding(name, "warn", f"{shown(what)}: {listed(sorted(workers))}", advice)
    if not differing:
        yield Finding(name, "ok", f"{counted(len(told), 'worker')} answered" + (", with the settings of this app" if told else ""))


def _decisive(conf: dict[str, Any]) -> dict[str, Any]:
    """Return those settings of a table of them, as a worker sends it."""
    options = conf.get("broker_transport_options")
    visibility = options.get("visibility_timeout") if isinstance(options, dict) else None
    return {**{setting: conf.get(setting) for setting in DECISIVE}, "visibility_timeout": visibility}


def _own(app: Celery) -> dict[str, Any]:
    """Return the tasks of the app that are not Celery's own."""
    return {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
