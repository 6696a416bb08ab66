"""One night of a shop, as its log has it: `python -m tests.consumers.night` writes it down again, the same every time.

At ten past three a bank stops answering, mail bounces, a worker is gone with what it had, and a queue is left that nobody consumes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from celery_journal.consumers.transfer.archive import archive
from celery_journal.consumers.transfer.forms import FORMS
from celery_journal.journal import Emitter
from celery_journal.journal.codec import Row, encode
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    Event,
    GroupSaved,
    OperatorActed,
    TaskFailed,
    TaskLost,
    TaskReceived,
    TaskRetried,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerHeartbeat, WorkerOnline

#: Where it is kept.
LOG = Path(__file__).with_name("night.jsonl")

#: When somebody is called, and looks.
NOW = datetime(2025, 3, 14, 3, 20, tzinfo=UTC)

_NAMES = UUID("6e696768-7400-4000-8000-000000000000")

BANK = "the bank does not answer (HTTP 503): Wartungsarbeiten bis 04:00 Uhr; bitte später erneut versuchen 🛠"
BOUNCED = (
    "550 5.1.1 <{}@exämple.org>: Recipient address rejected: User unknown in virtual mailbox table; see https://mail.example.org/bounces/{}"
)


def id_of(name: str) -> str:
    """Return the id of the task, or the group, that this module calls so."""
    return str(uuid5(_NAMES, name))


class Night:
    """The log, as it is written."""

    def __init__(self) -> None:
        self.emitter = Emitter("night")
        self.rows: list[Row] = []

    def tell(self, kind: type[Event], stream: str, minute: float, **fields: Any) -> None:
        """Record a fact so many minutes after midnight."""
        at = datetime(2025, 3, 14, tzinfo=UTC) + timedelta(minutes=minute)
        event = self.emitter.emit(kind, stream, occurred_at=at, **fields)
        self.rows.append({**encode(event), "recorded_at": at + timedelta(milliseconds=4)})

    def worker(self, name: str, first: float, last: float, *queues: str) -> None:
        """A worker is heard of from then on until then."""
        meta = {"queues": queues, "freq": 10, "active": 1, "concurrency": 8, "pool": "prefork", "software": "celery"}
        for kind, minute in ((WorkerOnline, first), (WorkerHeartbeat, last)):
            self.tell(kind, name, minute, pid=7, source="signal", meta=json.dumps(meta).encode())

    def sent(self, task: str, minute: float, name: str, queue: str, *args: Any, attempt: int = 0, **fields: Any) -> str:
        """A task is sent; returns its id."""
        kwargs = json.dumps(fields.pop("kwargs", {})).encode()
        message = {
            "exchange": "",
            "routing_key": queue,
            "headers": {"lang": "py", "origin": "gen41@shop-web-2"},
            "properties": {"priority": 0},
        }
        asked = {"name": name, "queue": queue, "args": json.dumps(args).encode(), "kwargs": kwargs, "message": message}
        self.tell(TaskSent, id_of(task), minute, attempt=attempt, source="signal", **asked, **fields)
        return id_of(task)

    def started(self, task: str, minute: float, worker: str, name: str, queue: str, attempt: int = 0, **fields: Any) -> dict[str, Any]:
        """A worker receives the task and starts it; returns what the end of it is told with."""
        run = {"worker": worker, "run": f"{task}-{attempt}", "name": name, "queue": queue, "attempt": attempt, "pid": 31, **fields}
        self.tell(TaskReceived, id_of(task), minute - 0.005, source="signal", **run)
        self.tell(TaskStarted, id_of(task), minute, source="backend", **run)
        return run


def error(kind: str, message: str, *frames: tuple[str, int, str, str], module: str = "builtins") -> dict[str, Any]:
    """Return what Celery stores of an exception."""
    result = json.dumps({"exc_type": kind, "exc_message": [message], "exc_module": module}).encode()
    told = [f'  File "/srv/shop/{file}", line {line}, in {where}\n    {code}' for file, line, where, code in frames]
    raised = kind if module == "builtins" else f"{module}.{kind}"
    traceback = "\n".join(["Traceback (most recent call last):", *told, f"{raised}: {message}\n"])
    return {"result": result, "content_type": "application/json", "content_encoding": "utf-8", "traceback": traceback, "source": "backend"}


def returned(value: object) -> dict[str, Any]:
    """Return what Celery stores of a result."""
    return {"result": json.dumps(value).encode(), "content_type": "application/json", "content_encoding": "utf-8", "source": "backend"}


CHARGE = ("shop/billing/tasks.py", 88, "charge", "receipt = bank.charge(card, amount, currency=order.currency)")
POST = ("shop/billing/bank.py", 212, "_post", "raise BankUnavailable(response.text)")
SMTP = ("shop/mail/tasks.py", 41, "send_mail", "smtp.sendmail(SENDER, [to], message.as_string())")
UNAVAILABLE = error("BankUnavailable", BANK, CHARGE, POST, module="shop.billing.bank")


def night() -> list[Row]:
    """Return the rows of the log."""
    log = Night()
    log.worker("celery@billing-1.prod", 0, 199.9, "billing", "celery")
    log.worker("celery@mail-1.prod", 1, 181.5, "mail")
    log.worker("celery@mail-2.prod", 2, 199.95, "mail")

    # What goes well.
    for number in range(4):
        task = f"receipt {number}"
        log.sent(task, 150 + number, "shop.mail.tasks.send_mail", "mail", f"customer{number}@example.org", kwargs={"template": "receipt"})
        run = log.started(task, 150.1 + number, "celery@mail-2.prod", "shop.mail.tasks.send_mail", "mail")
        log.tell(TaskSucceeded, id_of(task), 150.2 + number, **run, **returned({"queued_as": f"4ZDk{number}"}))

    # Mail bounces.
    for number in range(6):
        task, to = f"bounce {number}", f"jürgen{number}"
        log.sent(
            task,
            186 + number,
            "shop.mail.tasks.send_mail",
            "mail",
            f"{to}@exämple.org",
            kwargs={"template": "reminder", "lines": [1, 2, 3]},
        )
        run = log.started(task, 186.05 + number, "celery@mail-2.prod", "shop.mail.tasks.send_mail", "mail")
        raised = error("SMTPRecipientsRefused", BOUNCED.format(to, 9000 + number), SMTP, module="smtplib")
        log.tell(TaskFailed, id_of(task), 186.1 + number, **run, **raised)

    # The bank does not answer: tried again, and given up; one still tries.
    for number in range(3):
        task, given = f"charge {number}", {"order": 1200 + number, "amount": "19.90", "currency": "EUR"}
        charge = ("shop.billing.tasks.charge_card_of_returning_customer", "billing")
        log.sent(task, 190 + number, *charge, kwargs=given)
        for attempt in range(3):
            minute = 190.1 + number + 2 * attempt
            run = log.started(task, minute, "celery@billing-1.prod", *charge, attempt=attempt)
            if attempt == 2 and number < 2:
                log.tell(TaskFailed, id_of(task), minute + 0.5, **run, **UNAVAILABLE)
                continue
            log.tell(TaskRetried, id_of(task), minute + 0.5, **run, **UNAVAILABLE)
            eta = datetime(2025, 3, 14, tzinfo=UTC) + timedelta(minutes=minute + 2)
            log.sent(task, minute + 0.51, *charge, attempt=attempt + 1, kwargs=given, eta=eta)
    log.tell(OperatorActed, id_of("charge 0"), 197, author="ann@shop", action="note", reason="asked the bank, ticket 4711")

    # A worker is gone with what it had; some of it is marked as lost by now.
    for number in range(42):
        task, name = f"newsletter {number}", "shop.mail.tasks.send_newsletter" if number % 4 else "shop.mail.tasks.send_mail"
        log.sent(task, 170 + number / 10, name, "mail", number)
        log.started(task, 176 + number / 10, "celery@mail-1.prod", name, "mail")
    for number in range(30):
        reason = "started by celery@mail-1.prod, which has not been heard of since 2025-03-14 03:01:30 UTC"
        log.tell(TaskLost, id_of(f"newsletter {number}"), 195, reason=reason, worker="celery@mail-1.prod", source="sweep")

    for number in range(7):
        task, at = f"refund {number}", f"2025-03-14 02:{40 + number}:00 UTC"
        log.sent(task, 160 + number, "shop.billing.tasks.refund", "billing", 1100 + number)
        reason = f"sent at {at} and never received, though celery@billing-1.prod, which consumes billing, has nothing to do"
        log.tell(TaskLost, id_of(task), 195, reason=reason, source="sweep")

    # Nobody consumes the queue of the reports.
    for number in range(5):
        log.sent(
            f"report {number}", 60 + 20 * number, "shop.reports.tasks.build_monthly_report", "reports", "2025-02", kwargs={"shop": number}
        )

    # A chord one of whose members has failed, one runs for too long, and one has succeeded.
    header = [id_of(f"pack {number}") for number in range(3)]
    log.tell(GroupSaved, id_of("parcel"), 171, members=tuple(header))
    log.tell(ChordStarted, id_of("parcel"), 171, size=3, task_id=id_of("hand over"))
    log.tell(ChordSizeSet, id_of("parcel"), 171, size=3)
    for number, task in enumerate(("pack 0", "pack 1", "pack 2")):
        log.sent(task, 171 + number / 100, "shop.parcel.pack", "celery", 1200 + number, group_index=number, group_id=id_of("parcel"))
        run = log.started(
            task, 172 + number, "celery@billing-1.prod", "shop.parcel.pack", "celery", group_index=number, group_id=id_of("parcel")
        )
        if task == "pack 1":
            raised = error("KeyError", "weight", ("shop/parcel.py", 17, "pack", "grams = article['weight'] * count"))
            log.tell(TaskFailed, id_of(task), 172.2 + number, **run, **raised)
            log.tell(ChordPartReturned, id_of("parcel"), 173.2, task_id=id_of(task), group_index=1, state="FAILURE")
        elif task == "pack 0":
            log.tell(TaskSucceeded, id_of(task), 172.2 + number, **run, **returned({"parcel": "Größe M", "grams": 950}))
            log.tell(ChordPartReturned, id_of("parcel"), 172.2, task_id=id_of(task), group_index=0, state="SUCCESS")

    # One with more than there is room for.
    log.sent(
        "import", 180, "shop.catalogue.import_articles", "celery", kwargs={"rows": [f"Artikel {number}: Größe XL" for number in range(200)]}
    )
    run = log.started("import", 180.1, "celery@billing-1.prod", "shop.catalogue.import_articles", "celery")
    deep = [("shop/catalogue.py", 100 + level, f"merge_{level}", f"merge_{level + 1}(rows, depth={level + 1})") for level in range(40)]
    log.tell(TaskFailed, id_of("import"), 181, **run, **error("ValueError", "row 17: 'Größe' has no number: '½ XL'", *deep))
    return sorted(log.rows, key=lambda row: row["recorded_at"])


def written() -> bytes:
    """Return the export of that night."""
    return b"".join(archive(night(), FORMS["jsonl"]))


if __name__ == "__main__":
    LOG.write_bytes(written())
