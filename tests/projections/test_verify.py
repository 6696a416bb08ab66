from __future__ import annotations
import time
import psycopg
from tests.conftest import empty
from tests.projections.oracle import X
def test_x(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as c:
        for _ in range(5):
            t = time.time(); empty(c); print(time.time() - t)
