"""Waiting for results that are pushed: Celery's asynchronous interface of a backend, without its drainers.

Celery's own (celery/backends/asynchronous.py) keeps what is waited for in structures that differ from version to version,
and lets one waiter read for another. Here one thread a process listens, and whoever waits reads for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from celery.result import ResultSet

from celery_journal.consumers.options import beside

from .listening import Ear
from .pending import Pending, resolve
from .reading import Meta, Reading
from .watch import OnInterval, OnMessage, Watch, known_to_watch


class Waiting(Reading):
    """The part of the backend that `AsyncResult.get()`, `GroupResult.get()` and `then()` call."""

    supports_native_join = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, url=url, **kwargs)
        #: By process: a forked child has neither the threads nor the callbacks of its parent.
        self._ears: dict[int, Ear] = {}
        self._backgrounds: dict[int, Pending] = {}
        self.database.on_close(self._close)

    @property
    def is_async(self) -> bool:
        """Whether results are pushed; without it, Celery calls no callback of a group."""
        return True

    @property
    def ear(self) -> Ear:
        """What listens in this process."""
        if (ear := self._ears.get(os.getpid())) is None:
            new = Ear(self._listen_dsn, self.journal.schema, is_deaf=self.options.listen_dsn == "")
            ear = self._ears.setdefault(os.getpid(), new)
        return ear

    def _listen_dsn(self) -> str:
        given = self.options.listen_dsn
        return beside("listen_dsn", given, self.location) if given else self.database.dsn

    def _close(self) -> None:
        for opened in (self._backgrounds.pop(os.getpid(), None), self._ears.pop(os.getpid(), None)):
            if opened is not None:
                opened.close()

    @property
    def _background(self) -> Pending:
        return self._backgrounds.get(os.getpid()) or self._backgrounds.setdefault(os.getpid(), Pending(self))

    def add_pending_result(self, result: Any, weak: bool | None = None, **_kwargs: Any) -> Any:
        """Resolve the result in the background, so that its callbacks are called. `get()`, which does not say `weak`, needs it not."""
        if weak is not None and not result._cache:
            self._background.add(result, weak=weak)
        return result

    def add_pending_results(self, results: Iterable[Any], weak: bool = False) -> list[Any]:
        """Resolve the results in the background."""
        return [self.add_pending_result(result, weak=weak) for result in results]

    def remove_pending_result(self, result: Any) -> Any:
        """Resolve the result no more. Garbage collection calls it, in any thread and anywhere: it neither locks nor waits."""
        if background := self._backgrounds.get(os.getpid()):
            background.discard(result)
        return result

    on_result_fulfilled = remove_pending_result

    def wait_for_pending(self, result: Any, callback: Any = None, propagate: bool = True, **kwargs: Any) -> Any:
        """Wait for the result; return its value or raise the task's error, TimeoutError after `timeout` seconds."""
        self._ensure_not_eager()
        for _ in self._wait_for_pending(result, **kwargs):
            pass
        return result.maybe_throw(callback=callback, propagate=propagate)

    def iter_native(self, result: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yield (id, meta) of each member of a group as it becomes ready; of a nested group (id, members) when all of them are."""
        self._ensure_not_eager()
        groups: dict[str, list[tuple[Any, set[str]]]] = {}
        for member in result.results:
            missing = {str(leaf.id) for leaf in leaves(member) if not leaf._cache}
            if not missing:
                yield _answer(member)
            for leaf_id in missing:
                groups.setdefault(leaf_id, []).append((member, missing))
        for leaf in self._wait_for_pending(result, **kwargs):
            for member, missing in groups.pop(str(leaf.id), ()):
                missing.discard(str(leaf.id))
                if not missing:
                    yield _answer(member)

    def _wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float | None = None,
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        **_kwargs: Any,
    ) -> Iterator[Any]:
        """Yield the tasks' results of a result or a set of them as each becomes ready."""
        wanted: dict[str, list[Any]] = {}
        for leaf in leaves(result):
            if not leaf._cache:
                wanted.setdefault(self.check_id(leaf.id), []).append(leaf)
        parents = {str(node.id): node for node in parents_of(result) if not node._cache} if on_interval else {}
        for meta in Watch(self, wanted, parents, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval):
            if parent := parents.get(meta["task_id"]):
                resolve(parent, meta)
            for leaf in wanted.get(meta["task_id"], ()):
                resolve(leaf, meta)
            yield from wanted.get(meta["task_id"], ())

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,  # noqa: ARG002  Celery hands it to every backend
        on_message: OnMessage | None = None,
        on_interval: OnInterval | None = None,
        max_iterations: int | None = None,
    ) -> Iterator[tuple[str, Meta]]:
        """Yield (id, meta) of each task as it becomes ready; look `max_iterations` times, if that is given."""
        wanted = {self.check_id(task_id) for task_id in task_ids}
        for meta in Watch(
            self, wanted, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval, looks=max_iterations
        ):
            yield meta["task_id"], meta

    def wait_for(
        self,
        task_id: Any,
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,  # noqa: ARG002  Celery hands it to every backend
        on_interval: OnInterval | None = None,
    ) -> Meta:
        """Return the meta of the task when it is ready; raise celery.exceptions.TimeoutError after `timeout` seconds."""
        return next(iter(Watch(self, [self.check_id(task_id)], timeout=timeout, interval=interval, on_interval=on_interval)))

    def get_task_meta(self, task_id: Any, cache: bool = True) -> Meta:
        """Return the meta of the task, from memory if whoever waits for it knows that nothing has changed."""
        if cache and (known := known_to_watch(str(task_id))) is not None:
            return known
        meta: Meta = super().get_task_meta(task_id, cache)
        return meta


def leaves(result: Any) -> Iterator[Any]:
    """Yield the results of the tasks of a result: itself, or those of a set and of the sets in it."""
    if isinstance(result, ResultSet):
        for member in result.results:
            yield from leaves(member)
    else:
        yield result


def parents_of(result: Any) -> Iterator[Any]:
    """Yield the results whose errors Celery looks for at every interval: those of the parents, and of the groups among them."""
    while (result := getattr(result, "parent", None)) is not None:
        yield from leaves(result)


def _answer(member: Any) -> tuple[str, Any]:
    return member.id, member.children if isinstance(member, ResultSet) else member._cache
