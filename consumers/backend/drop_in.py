"""The members of django-celery-results' DatabaseBackend that Celery's contract does not have, under the same names.

Who has subclassed that backend, or calls it, finds them here; ours calls none of them.
"""

from __future__ import annotations

from typing import Any

from celery._state import get_current_task

from celery_journal.consumers.payloads import bytes_of, opened
from celery_journal.consumers.request import facts_of
from celery_journal.projections.task_result import text_of

from .base import JournalBase


class DropIn(JournalBase):
    """A backend that can be asked what django-celery-results' can."""

    #: Seconds between two looks at the database; results are pushed, so nobody waits so long.
    subpolling_interval = 0.5

    def encode_content(self, data: Any) -> tuple[str, str, bytes]:
        """Return content type, content encoding and the data, as the serializer of results makes it."""
        encoded = self._encoded(data)
        return encoded["content_type"], encoded["content_encoding"], encoded["result"]

    def decode_content(self, obj: Any, content: str | bytes | None) -> Any:
        """Return the data, encoded as `obj.content_type` and `obj.content_encoding` say; None of empty content.

        Text of binary content is base64, as `as_dict()` has it.
        """
        if not content:
            return None
        content = bytes_of(content, obj.content_encoding)
        return opened(content, obj.content_type, obj.content_encoding, self.accept, self.options.max_payload_bytes)

    def _get_meta_from_request(self, request: Any = None) -> dict[str, Any]:
        """Return the request's `meta` with its stamps; of the task that runs here, unless a request is given."""
        request = request or getattr(get_current_task(), "request", None)
        stamps = getattr(request, "stamps", None)
        stamped = {"stamps": stamps, "stamped_headers": getattr(request, "stamped_headers", None)} if stamps else {}
        return {**(getattr(request, "meta", None) or {}), **stamped}

    def _get_extended_properties(self, request: Any, traceback: Any) -> dict[str, Any]:
        """Return what is known of how the task was asked for; the arguments as JSON text, or the caller's repr of them."""
        facts = facts_of(request, self.app, None, with_arguments=self.options.store_arguments)
        return {
            "periodic_task_name": facts.get("periodic_task_name"),
            "task_args": text_of(facts.get("args")),
            "task_kwargs": text_of(facts.get("kwargs")),
            "task_name": facts.get("name"),
            "traceback": traceback,
            "worker": facts.get("worker"),
        }
