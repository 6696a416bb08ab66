"""What a frozen signature stands for, as far as chords ask: its tasks, the members of chords, who holds its result."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.app.task import Context
from celery.result import GroupResult
from celery.utils.functional import _regen

logger = logging.getLogger(__name__)


def members_of(signature: Any) -> Iterator[Context]:
    """Yield the tasks that a chord waits for, of those which a frozen signature stands for and which come after it in its chain."""
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case "chord":
            inner = [kwargs["body"]] if kwargs.get("body") else []
        case "chain" | "group":
            inner = kwargs.get("tasks") or []
        case _:
            inner = []
            if options.get("chord"):
                yield _member(options)
    for task in (*inner, *(options.get("chain") or ())):
        yield from members_of(task)


def tasks_of(signature: Any) -> Iterator[Any]:
    """Yield the signatures of all tasks that a signature sends, sooner or later."""
    kwargs = signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case "chord":
            header = kwargs.get("header") or []
            inner = [*([header] if isinstance(header, dict) else header), *([kwargs["body"]] if kwargs.get("body") else [])]
        case "chain" | "group":
            inner = kwargs.get("tasks") or []
        case _:
            yield signature
            return
    for task in inner:
        yield from tasks_of(task)


def ends_of(signature: Any) -> Iterator[Any]:
    """Yield the signatures of the tasks whose results are the result of a frozen signature."""
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case _ if options.get("chain"):
            inner = [options["chain"][0]]  # the next to run is the last of the list
        case "chord":
            inner = [kwargs["body"]] if kwargs.get("body") else []
        case "chain":
            inner = (kwargs.get("tasks") or [])[-1:]
        case "group":
            inner = kwargs.get("tasks") or []
        case _:
            yield signature
            return
    for task in inner:
        yield from ends_of(task)


def header_of(header_result_args: Any) -> tuple[str, list[Any] | None]:
    """Return the id of a chord's header and its results; None for a generator, which must not be consumed."""
    if isinstance(header_result_args, GroupResult):
        return header_result_args.id, list(header_result_args.results)
    group_id, results, *_ = header_result_args
    return group_id, None if isinstance(results, _regen) else list(results)


def later_of(request: Any) -> list[Any]:
    """Return the signatures of what comes after a task in its chain."""
    chain = getattr(request, "chain", None)
    return chain if isinstance(chain, list) else []


def result_id_of(body: Any) -> str | None:
    """Return the id under which people know the result of a chord's body."""
    return body.options.get("task_id") or next(ids_of(ends_of(body)), None)


def ids_of(signatures: Iterable[Any]) -> Iterator[str]:
    """Yield the ids of the frozen signatures that have one."""
    return (task_id for signature in signatures if (task_id := (signature.get("options") or {}).get("task_id")))


def unsent_request(signature: Any) -> Context:
    """Return the request of a task that fails before it was ever sent, as far as its frozen signature tells."""
    options = signature["options"]
    return Context(id=options["task_id"], task=signature.get("task"), root_id=options.get("root_id"), delivery_info={})


@contextmanager
def revoked_last(signature: Any) -> Iterator[None]:
    """Have a group that is frozen and revoked in the block be revoked after it.

    Workers may store a revoke at once, and who waits for the tasks would take that for their end.
    """
    freeze, results = signature.freeze, list[_RevokedLast]()

    def freeze_unrevoked() -> GroupResult:
        results.append(_RevokedLast(freeze()))
        return results[-1]

    signature.freeze = freeze_unrevoked
    try:
        yield
    finally:
        del signature.freeze
        for result in results:
            result.revoke_now()


class _RevokedLast(GroupResult):
    """The result of a group that notes that it is to be revoked."""

    def __init__(self, result: GroupResult) -> None:
        super().__init__(result.id, result.results, parent=result.parent, app=result.app)
        self._is_to_be_revoked = False

    def revoke(self, *_args: Any, **_options: Any) -> None:
        self._is_to_be_revoked = True

    def revoke_now(self) -> None:
        """Revoke the tasks if that was asked for; they have ended by now, and whatever becomes of it changes nothing."""
        if self._is_to_be_revoked:
            try:
                super().revoke()
            except Exception as exc:  # noqa: BLE001  such as a broker that is away
                logger.warning("the tasks of a body that has failed could not be revoked: %s", exc, extra={"group_id": self.id})


def _member(options: dict[str, Any]) -> Context:
    return Context(id=options.get("task_id"), group=options.get("group_id"), group_index=options.get("group_index"), chord=options["chord"])
