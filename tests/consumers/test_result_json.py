"""Results as JSON that SQL can ask: what is JSON, what is not, and what is made JSON (F16-F20)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import EncodeError

from celery_journal.journal import Connection

from .conftest import NewApp


class Oddity:
    """What JSON has no form for."""

    def __str__(self) -> str:
        return "an oddity\0"


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what makes JSON of bytes is the same in all."""
    return embedded_database


@pytest.fixture
def make(make_app: NewApp) -> NewApp:
    """Makes an app with the option as given."""

    def make(force_json: bool | None = None, **conf: Any) -> Celery:
        options = {} if force_json is None else {"force_json": force_json}
        return make_app(result_backend_transport_options=options, **conf)

    return make


def result_json(connection: Connection, task_id: str) -> Any:
    """Return what SQL sees."""
    query = b"select result_json from celery_journal.task_result where task_id = %s"
    (value,) = connection.execute(query, [task_id]).fetchone() or (None,)
    return value


def test_a_result_is_there_as_json(make: NewApp, connection: Connection) -> None:
    """F16: nothing is to be switched on; SQL's operators work on it."""
    make().backend.store_result("t", {"order": {"total": 5}}, "SUCCESS")

    assert result_json(connection, "t") == {"order": {"total": 5}}
    found = connection.execute(
        "select task_id from celery_journal.task_result where (result_json #>> '{order,total}')::integer > 4"
    ).fetchall()
    assert found == [("t",)]


def test_what_is_no_json_stays_as_it_is(make: NewApp, connection: Connection) -> None:
    """F18: the bytes stand, and SQL sees null; also where PostgreSQL cannot hold the JSON."""
    pickled, with_nul = make(result_serializer="pickle"), make()
    pickled.backend.store_result("t", {1: (2,)}, "SUCCESS")
    with_nul.backend.store_result("u", "a\0b", "SUCCESS")

    assert result_json(connection, "t") is None
    assert pickled.AsyncResult("t").get(timeout=5) == {1: (2,)}
    assert result_json(connection, "u") is None
    assert with_nul.AsyncResult("u").get(timeout=5) == "a\0b"


def test_what_json_cannot_hold_is_stored_as_text_where_that_is_asked_for(make: NewApp, connection: Connection) -> None:
    """F19, F20: by the option force_json, and exactly this."""
    app = make(force_json=True)

    odd = {"odd": [object()]}
    app.backend.store_result("t", odd, "SUCCESS")
    app.backend.store_result("u", Oddity(), "SUCCESS")
    app.backend.store_result("v", Decimal("1.5"), "SUCCESS")

    assert result_json(connection, "t") == {"value": str(odd), "forced_json": True}
    assert app.AsyncResult("u").get(timeout=5) == {"value": "an oddity\0", "forced_json": True}
    assert app.AsyncResult("v").get(timeout=5) == Decimal("1.5")  # Celery's JSON has a form for it


def test_without_the_option_it_is_an_error(make: NewApp) -> None:
    """The worker makes the task a FAILURE of it, as ever."""
    with pytest.raises(EncodeError):
        make().backend.store_result("t", Oddity(), "SUCCESS")


def test_the_old_name_of_the_option_is_understood(make: NewApp) -> None:
    """F19: DJANGO_CELERY_FULLDBRESULT_FORCE_JSON, unless the option itself is given."""
    assert make(DJANGO_CELERY_FULLDBRESULT_FORCE_JSON=True).backend.options.force_json
    assert not make(force_json=False, DJANGO_CELERY_FULLDBRESULT_FORCE_JSON=True).backend.options.force_json


def test_another_serializer_is_not_forced(make: NewApp, connection: Connection) -> None:
    """F19: whoever pickles results means to have them back as they were."""
    app = make(force_json=True, result_serializer="pickle")
    app.backend.store_result("t", {1: 2}, "SUCCESS")

    assert app.AsyncResult("t").get(timeout=5) == {1: 2}
    assert json.dumps(result_json(connection, "t")) == "null"
