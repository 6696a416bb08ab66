"""The bodies of chords as the log has them: signed by who started the chord, and opened only where nobody else can have put them there.

Whoever may write the log need not be allowed to use the broker. A body that is taken from a fact is sent by a worker, so it must be
known to come from somebody who has the app's signing key.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from typing import Any

from celery.exceptions import ChordError
from kombu.exceptions import ContentDisallowed, SerializerNotInstalled
from kombu.serialization import loads, prepare_accept_content, registry

from celery_journal.journal.events import ChordStarted

#: Says what is signed: a signature of something else under the same key is none of this.
_PURPOSE = b"celery-journal chord-started 1"


def signed(started: ChordStarted, keys: Sequence[bytes]) -> ChordStarted:
    """Return the fact with a signature by the first of the keys; as it is where there is none."""
    return started.model_copy(update={"signature": _signature(started, keys[0])}) if keys else started


def is_signed(started: ChordStarted, keys: Sequence[bytes]) -> bool:
    """Return whether the fact is signed by one of the keys."""
    return started.signature is not None and any(hmac.compare_digest(started.signature, _signature(started, key)) for key in keys)


def read_body(group_id: str, started: Sequence[ChordStarted], accept: Any, keys: Sequence[bytes]) -> Any:
    """Return the signature to send, as the facts that started the chord have it; raise ChordError where it must not or cannot be.

    Raises ContentDisallowed or SerializerNotInstalled where another process may be able to read it.
    """
    if not started or started[-1].callback is None:
        raise ChordError(f"the journal has no body for chord {group_id}")
    # Each, because the view may take the header from another one than the last.
    if keys and not all(is_signed(one, keys) for one in started):
        raise ChordError(f"the body of chord {group_id} is not signed with the app's signing_key, and is not sent")
    callback, content_type = started[-1].callback, started[-1].callback_content_type
    if not keys and is_pickle(content_type):
        raise ChordError(f"the body of chord {group_id} is a pickle, which is opened only where a signing_key is set")
    try:
        body = loads(callback, content_type=content_type, content_encoding="utf-8", accept=prepare_accept_content(accept))
    except (ContentDisallowed, SerializerNotInstalled):
        raise
    except Exception as exc:
        raise ChordError(f"the body of chord {group_id} cannot be read: {type(exc).__name__}") from exc
    if not isinstance(body, dict) or not isinstance(body.get("task"), str):
        raise ChordError(f"the body of chord {group_id} is no signature")
    return body


def publish(app: Any, body: Any, values: Sequence[Any]) -> None:
    """Send the body with what the chord has gathered."""
    if hasattr(app.amqp, "_retry_publish"):  # since Celery 5.7
        app.amqp._retry_publish(body.delay, values)
    else:
        body.delay(values)


def is_pickle(content_type: str | None) -> bool:
    """Return whether opening such content may run anything."""
    return content_type in _PICKLES or registry.name_to_type.get(content_type) in _PICKLES


def without_pickle(accept: Iterable[str] | None) -> Any:
    """Return the content types that these names stand for, as kombu's `accept`, without pickle: what the log has may be anybody's."""
    return {one for one in prepare_accept_content(accept or ["json"]) if not is_pickle(one)}


_PICKLES = {"application/x-python-serialize", "pickle"}


def _signature(started: ChordStarted, key: bytes) -> bytes:
    """Return the HMAC of all that decides what is sent, and of the id of the fact, which makes a copy of it none."""
    size = None if started.size is None else str(started.size)
    texts = (started.stream, started.task_id, started.callback_content_type, size)
    fields = (started.event_id.bytes, *(_encoded(text) for text in texts), started.callback, started.result)
    message = hmac.new(key, _PURPOSE, "sha256")
    for field in fields:
        message.update(b"-" if field is None else b"%d:%b" % (len(field), field))
    return message.digest()


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogatepass")
