"""Celery's integration suite: out of the source distribution of the installed version, with its gates lifted."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

#: Four of ten chord tests begin with `if not manager.app.conf.result_backend.startswith('redis'): skip`, or ask for a class.
GATES = {
    re.compile(r"""(\bif not [\w.]+\.result_backend\.startswith\(\(?)(['"])redis\2"""): r"\1\2\2",
    re.compile(r"(\bif not isinstance\([\w.]+\.backend, )BaseKeyValueStoreBackend\)"): r"\1object)",
}

#: What the suites before 5.6 import, to be sure of what pytest has had itself since version 9.
SUBTESTS = "import pytest_subtests  # noqa\n"

#: What Celery's own pyproject.toml tells pytest, but for `xfail_strict`: to be better than Celery expects is no failure.
PYTEST_INI = """\
[pytest]
python_classes = test_*
timeout = 300
addopts = --strict-markers
markers =
    amqp: needs RabbitMQ
    flaky: is run again elsewhere, and once here
"""


class SuiteMissing(Exception):
    """The source distribution cannot be had, or holds no integration tests; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of one version of Celery, in a folder that they can be run from."""

    version: str
    folder: Path

    @property
    def modules(self) -> list[str]:
        """The names of its modules, without the suffix."""
        return sorted(path.stem for path in (self.folder / "t" / "integration").glob("test_*.py"))


def fetch(version: str, cache: Path) -> Path:
    """Return the source distribution of Celery, from the package index unless the cache has it."""
    if not (sdist := cache / f"celery-{version}.tar.gz").exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
        command = [*pip, "--no-deps", "--no-binary", "celery", "--dest", str(cache), f"celery=={version}"]
        if subprocess.run(command, check=False).returncode or not sdist.exists():
            raise SuiteMissing(f"pip finds no source distribution of Celery {version}; what it says stands above")
    return sdist


def unpack(sdist: Path, version: str, folder: Path) -> Suite:
    """Copy the tests, and nothing else, into the folder, so that the installed Celery is what they import."""
    prefix = f"celery-{version}/"
    with tarfile.open(sdist) as archive:
        members = [member for member in archive if member.name.startswith(f"{prefix}t/")]
        archive.extractall(folder, members, filter="data")
    if not members:
        raise SuiteMissing(f"{sdist.name} holds no tests")
    (folder / prefix / "t").rename(folder / "t")
    (folder / prefix).rmdir()
    (folder / "pytest.ini").write_text(PYTEST_INI)
    for path in (folder / "t" / "integration").glob("*.py"):
        path.write_text(lift_gates(path.read_text("utf-8")).replace(SUBTESTS, ""), "utf-8")
    return Suite(version, folder)


def lift_gates(source: str) -> str:
    """Return the source of tests with the gates that skip every backend but Redis made to let all through."""
    for gate, opened in GATES.items():
        source = gate.sub(opened, source)
    return source
