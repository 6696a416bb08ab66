"""The runner of Celery's integration suite, without running it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from tests.conftest import require
from tests.consumers.servers import unused_port
from tests.consumers.workers import available

from . import __main__, services
from .__main__ import main, report
from .expected import Entry, Expected, Outcome, Setting, judge
from .run import WHOLE, Run, read_report
from .suite import SuiteMissing, fetch, lift_gates, unpack

HERE = Setting("5.6.30", "redis", "journal")


def entry(*tests: str, **more: Any) -> Entry:
    return Entry(tests=tests, why="because of this", **more)


@pytest.mark.parametrize(
    ("gate", "lifted"),
    [
        pytest.param("if not manager.app.conf.result_backend.startswith('redis'):", True, id="single quotes"),
        pytest.param('if not manager.app.conf.result_backend.startswith("redis"):', True, id="double quotes"),
        pytest.param("if not app.conf.result_backend.startswith(('redis', 'rpc')):", True, id="several backends"),
        pytest.param("if not isinstance(manager.app.backend, BaseKeyValueStoreBackend):", True, id="a class"),
        pytest.param("if manager.app.conf.result_backend.startswith('redis'):", False, id="what only Redis may do"),
        pytest.param("if not app.conf.result_backend.startswith('cache+memcached'):", False, id="another backend"),
        pytest.param("if manager.app.conf.broker_url.startswith('redis'):", False, id="the broker"),
    ],
)
def test_the_gates_that_skip_every_backend_but_redis_are_lifted(gate: str, lifted: bool) -> None:
    """A test that Celery would run on its Redis backend only is run on ours, and no other line changes its meaning."""

    app = SimpleNamespace(conf=SimpleNamespace(result_backend="journal+postgresql://", broker_url="pyamqp://"), backend=object())
    scope: dict[str, Any] = {"app": app, "manager": SimpleNamespace(app=app), "BaseKeyValueStoreBackend": dict}
    source = f"skipped = False\n{gate}\n    skipped = True\n"

    before, after = {**scope}, {**scope}
    exec(source, before)
    exec(lift_gates(source), after)

    assert (lift_gates(source) != source) is lifted
    assert before["skipped"] is (not gate.startswith("if manager"))
    assert after["skipped"] is (before["skipped"] and not lifted)


def sdist(folder: Path, version: str, files: dict[str, str]) -> Path:
    path = folder / f"celery-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"celery-{version}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_only_the_tests_are_copied(tmp_path: Path) -> None:
    """The Celery that is tested is the installed one, not the one that the tests came with."""
    files = {"celery/__init__.py": "", "setup.py": "", "t/integration/test_canvas.py": "x = 1\n", "t/integration/tasks.py": ""}

    suite = unpack(sdist(tmp_path, "5.6.3", files), "5.6.3", tmp_path / "suite")

    assert suite.modules == ["test_canvas"]
    assert sorted(path.name for path in suite.folder.iterdir()) == ["pytest.ini", "t"]


def test_the_suite_of_an_older_version_can_be_imported(tmp_path: Path) -> None:
    """Its plugin for subtests is part of pytest now."""
    files = {"t/integration/test_canvas.py": "import pytest\nimport pytest_subtests  # noqa\nx = 1\n"}

    suite = unpack(sdist(tmp_path, "5.5.3", files), "5.5.3", tmp_path / "suite")

    assert (suite.folder / "t" / "integration" / "test_canvas.py").read_text() == "import pytest\nx = 1\n"


def test_a_distribution_is_fetched_once(tmp_path: Path) -> None:
    """Without network, what was fetched before is used."""
    path = sdist(tmp_path, "0.0.0", {})

    assert fetch("0.0.0", tmp_path) == path


def test_a_distribution_without_tests_is_said_so(tmp_path: Path) -> None:
    """One clear sentence instead of an empty table."""
    with pytest.raises(SuiteMissing, match="holds no tests"):
        unpack(sdist(tmp_path, "5.6.3", {"setup.py": ""}), "5.6.3", tmp_path / "suite")


def reports(*lines: dict[str, Any], ended: bool = True) -> list[dict[str, Any]]:
    end: list[dict[str, Any]] = [{"$report_type": "SessionFinish", "exitstatus": 1}]
    return [{"$report_type": "TestReport", "when": "call", **line} for line in lines] + (end if ended else [])


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        pytest.param([{"outcome": "passed", "when": "setup"}, {"outcome": "passed"}], "passed", id="passed"),
        pytest.param([{"outcome": "failed", "when": "setup"}], "failed", id="not set up"),
        pytest.param([{"outcome": "passed"}, {"outcome": "failed", "when": "teardown"}], "failed", id="not torn down"),
        pytest.param([{"$report_type": "SubTestReport", "outcome": "failed"}, {"outcome": "passed"}], "failed", id="a subtest"),
        pytest.param([{"$report_type": "SubTestReport", "outcome": "skipped"}, {"outcome": "passed"}], "passed", id="a skipped subtest"),
        pytest.param([{"$report_type": "CollectReport", "outcome": "failed"}], "failed", id="not imported"),
        pytest.param([{"outcome": "skipped"}], "skipped", id="skipped"),
        pytest.param([{"outcome": "skipped", "wasxfail": "#6437"}], "xfailed", id="failed as Celery expects"),
        pytest.param([{"outcome": "passed", "wasxfail": ""}], "xpassed", id="better than Celery expects"),
    ],
)
def test_a_test_has_one_outcome(lines: list[dict[str, Any]], outcome: Outcome) -> None:
    """What fails anywhere, be it in a subtest or when it is torn down, has failed."""
    lines = [{"nodeid": "t/integration/test_canvas.py::test_x", **line} for line in lines]

    run = read_report("test_canvas", reports(*lines))

    assert run.outcomes == {"test_canvas.py::test_x": outcome}
    assert run.count(outcome) == 1


def test_a_module_that_dies_has_failed() -> None:
    """A crash or a hang in the middle is not taken for a short module in which all is well."""
    run = read_report("test_canvas", reports({"nodeid": "t/integration/test_canvas.py::test_x", "outcome": "passed"}, ended=False))

    assert run.outcomes == {"test_canvas.py::test_x": "passed", f"test_canvas.py::{WHOLE}": "failed"}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        pytest.param({}, True, id="everywhere"),
        pytest.param({"celery": ("5.6",)}, True, id="the series"),
        pytest.param({"celery": ("5.5", "5.6.30")}, True, id="the version"),
        pytest.param({"celery": ("5.7",)}, False, id="another version"),
        pytest.param({"celery": ("5",)}, True, id="a major version"),
        pytest.param({"celery": ("5.6.3", "5.60")}, False, id="another number that begins alike"),
        pytest.param({"broker": ("rabbitmq",)}, False, id="another broker"),
        pytest.param({"backend": ("journal", "redis")}, True, id="both backends"),
        pytest.param({"backend": ("redis",)}, False, id="another backend"),
    ],
)
def test_an_entry_holds_where_it_says(where: dict[str, Any], holds: bool) -> None:
    """What Redis may fail with Celery 5.5 is no excuse for ours with 5.7."""
    expected = Expected(failing=(entry("test_canvas.py", **where),))

    assert bool(expected.within(HERE, ["test_canvas"]).failing) is holds


def test_what_is_listed_of_other_modules_is_left_aside() -> None:
    """A run of one module does not tell of the others, nor of modules that another version has."""
    expected = Expected(left_out=(entry("test_canvas.py::test_chord", "test_cache.py"), entry("test_cache.py")))

    assert [each.tests for each in expected.within(HERE, ["test_canvas"]).left_out] == [("test_canvas.py::test_chord",)]


@pytest.mark.parametrize(
    ("name", "covers"),
    [
        pytest.param("test_canvas.py", True, id="the module"),
        pytest.param("test_canvas.py::test_chord", True, id="the class"),
        pytest.param("test_canvas.py::test_chord::test_on_error", True, id="the test with any parameters"),
        pytest.param("test_canvas.py::test_chord::test_on_error[1-2]", True, id="the test with these"),
        pytest.param("test_canvas.py::test_chord::test_on_error[1]", False, id="other parameters"),
        pytest.param("test_canvas.py::test_chord::test_on", False, id="a test whose name begins so"),
    ],
)
def test_an_entry_covers_what_it_names(name: str, covers: bool) -> None:
    """A name does not excuse another test that happens to begin with it."""
    assert entry(name).covers("test_canvas.py::test_chord::test_on_error[1-2]") is covers


def test_the_list_that_is_kept_can_be_read() -> None:
    """Every entry says why; an entry without, or with a key that is misspelt, is refused."""
    assert Expected.read().left_out

    with pytest.raises(ValidationError, match="why"):
        Expected.model_validate({"failing": [{"tests": ["test_canvas.py"]}]})
    with pytest.raises(ValidationError, match="brokers"):
        Expected.model_validate({"failing": [{"tests": ["test_canvas.py"], "why": "because of this", "brokers": ["redis"]}]})


def test_a_failure_that_is_not_in_the_list_is_unexpected() -> None:
    """What is listed may fail, and what is listed and passes is told, so that the list shrinks."""
    outcomes: dict[str, Outcome] = {"a.py::listed": "failed", "a.py::new": "failed", "a.py::mended": "passed", "a.py::away": "skipped"}

    verdict = judge(outcomes, [entry("a.py::listed", "a.py::mended"), entry("a.py::away", "a.py::elsewhere")])

    assert verdict.unexpected == ("a.py::new",)
    assert verdict.accepted == ("a.py::listed",)
    assert verdict.passing == ("a.py::mended",)
    assert verdict.unknown == ("a.py::elsewhere",)


@pytest.mark.parametrize(
    ("listed", "outcome", "is_good", "said"),
    [
        pytest.param(False, "passed", True, "passed failed skipped xfailed xpassed s test_canvas 1 0 0 0 0 1", id="all is well"),
        pytest.param(False, "failed", False, "FAILED:\n  test_canvas.py::test_x: boom [1]", id="an unexpected failure"),
        pytest.param(True, "failed", True, "failed as expected:\n  test_canvas.py::test_x: because of this", id="an expected failure"),
        pytest.param(True, "passed", True, "expected to fail, but passed:\n  test_canvas.py::test_x: because of this", id="mended"),
        pytest.param(False, "skipped", True, "skipped by the suite:\n  test_canvas.py::test_x: boom [1]", id="skipped"),
    ],
)
def test_the_report_says_what_became_of_every_test(listed: bool, outcome: Outcome, is_good: bool, said: str) -> None:
    """Whoever runs it sees each failure with its reason, and CI sees whether there is one that nobody expects."""
    text = io.StringIO()
    run = Run("test_canvas", {"test_canvas.py::test_x": outcome}, {"test_canvas.py::test_x": "boom [1]"}, 1.0)
    expected = Expected(failing=(entry("test_canvas.py::test_x"),) if listed else ())

    assert report(HERE, [run], expected, Console(file=text, soft_wrap=True, width=100)) is is_good

    assert " ".join(said.split()) in " ".join(re.sub("[━-╿]", " ", text.getvalue()).split())


def test_an_unknown_module_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt MODULES= does not end as a success."""
    monkeypatch.setattr(__main__, "BUILD", tmp_path)
    sdist(tmp_path, version("celery"), {"t/integration/test_canvas.py": ""})

    assert main(["test_canvass"]) == 2

    assert main(["--except", "test_canvass"]) == 2

    assert capsys.readouterr().out.count("has no module test_canvass; it has test_canvas") == 2


@pytest.mark.parametrize(("promised", "code"), [pytest.param("", 0, id="elsewhere"), pytest.param("true", 1, id="in CI")])
def test_all_but_a_module_is_run_with_each_broker_there_is(
    promised: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is no line of the table; a broker that is missing is a failure only where it is promised."""
    require("Redis", available("redis"))
    monkeypatch.setattr(__main__, "BUILD", tmp_path / "build")
    monkeypatch.setattr(__main__, "ROOT", tmp_path)
    monkeypatch.setattr(services, "RABBITMQ", f"pyamqp://guest:guest@127.0.0.1:{unused_port()}//")
    monkeypatch.setenv("CI", promised)
    (tmp_path / "build").mkdir()
    sdist(tmp_path / "build", version("celery"), {f"t/integration/test_{name}.py": "def test_x(): pass" for name in ("canvas", "it")})

    assert main(["--except", "test_canvas"]) == code

    said = capsys.readouterr().out
    assert ("test_it: 1 passed" in said, "test_canvas" in said) == (True, False)
    assert "not run with the broker rabbitmq: no RabbitMQ answers" in said


def test_what_pytest_writes_is_understood(tmp_path: Path) -> None:
    """The outcomes and their reasons come from pytest's own report log."""
    (tmp_path / "t" / "integration").mkdir(parents=True)
    (tmp_path / "t" / "integration" / "test_it.py").write_text(
        "import pytest\n\n"
        "def test_fails(subtests):\n    with subtests.test('a'):\n        raise OSError('boom')\n\n"
        "def test_skips():\n    pytest.skip('not here')\n"
    )
    log = tmp_path / "log.jsonl"
    subprocess.run([sys.executable, "-m", "pytest", f"--report-log={log}", "t/integration/test_it.py"], cwd=tmp_path, check=False)

    run = read_report("test_it", map(json.loads, log.read_text().splitlines()))

    assert run.outcomes == {"test_it.py::test_fails": "failed", "test_it.py::test_skips": "skipped"}
    assert run.reasons == {"test_it.py::test_fails": "OSError: boom", "test_it.py::test_skips": "not here"}
