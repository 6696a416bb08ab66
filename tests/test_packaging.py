"""What a user gets from ``pip install``, and what the repository holds."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"sql", "journal", "projections", "consumers"}
TOP_LEVEL = FOLDERS | {
    "docs",
    "tests",
    "pyproject.toml",
    "README.md",
    "Makefile",
    ".ci",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    ".gitignore",
}

pytestmark = pytest.mark.timeout(900)  # the first test pays for the build and for what pip fetches


@dataclass(frozen=True, slots=True)
class Installation:
    """A virtual environment that holds the wheel and its dependencies, and nothing of this checkout."""

    folder: Path
    #: What the wheel installed, relative to site-packages.
    record: frozenset[PurePosixPath]

    def run(self, program: str, *arguments: str, cwd: Path) -> str:
        """Return what a program of the environment prints; raise if it fails."""
        return output(str(self.folder / "bin" / program), *arguments, cwd=cwd)


def output(*command: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def files(*options: str) -> list[PurePosixPath]:
    """Return the files that git lists."""
    names = output("git", "ls-files", "-z", *options, cwd=ROOT).split("\0")
    return [PurePosixPath(name) for name in names if name]


def sources() -> list[PurePosixPath]:
    """Return the files of this checkout, those not yet added included, those built or deleted not."""
    return [file for file in files("--cached", "--others", "--exclude-standard") if (ROOT / file).is_file()]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel, built from a copy of the sources, in a clean environment."""
    folder = tmp_path_factory.mktemp("packaging")
    for file in sources():
        copy = folder / "source" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, copy)
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    pip = str(folder / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"
    output(*pip, "wheel", ".", "--no-deps", "--wheel-dir", "../wheels", cwd=folder / "source")
    (wheel,) = (folder / "wheels").iterdir()
    output(*pip, "install", str(wheel), cwd=folder)
    (record,) = (folder / "venv").glob("lib/python*/site-packages/celery_journal-*.dist-info/RECORD")
    with record.open(encoding="utf-8", newline="") as rows:
        return Installation(folder / "venv", frozenset(PurePosixPath(row[0]) for row in csv.reader(rows)))


@pytest.fixture
def version() -> str:
    """The version that pyproject.toml declares."""
    declared: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return declared


def test_the_wheel_adds_one_import_package_and_one_script(installation: Installation, version: str) -> None:
    """Whatever the folders of the repository are called, only celery_journal lands beside the user's modules."""
    inside = {file.parts[0] for file in installation.record if file.parts[0] != ".."}
    outside = {file for file in installation.record if file.parts[0] == ".."}

    assert inside == {"celery_journal", f"celery_journal-{version}.dist-info"}
    assert outside == {PurePosixPath("../../../bin/celery-journal")}


def installed(file: PurePosixPath) -> PurePosixPath:
    """Return where a file of the repository is when it is installed."""
    front = PurePosixPath("consumers/front_door")
    return "celery_journal" / (file.relative_to(front) if file.is_relative_to(front) else file)


@pytest.mark.parametrize("suffix", [pytest.param(".py", id="modules"), pytest.param(".sql", id="sql"), pytest.param(".typed", id="types")])
def test_every_source_file_is_in_the_wheel(installation: Installation, suffix: str) -> None:
    """A folder or a pattern forgotten in pyproject.toml would be missed by users only, not in this checkout."""
    wanted = {installed(file) for file in sources() if file.parts[0] in FOLDERS and file.suffix == suffix}

    assert wanted
    assert wanted <= installation.record


def test_celery_finds_the_backend_by_its_url(installation: Installation, tmp_path: Path) -> None:
    """The entry point makes journal+postgresql:// a result backend, in any directory."""
    script = (
        "from celery.app.backends import by_url\n"
        "from celery_journal.consumers.backend import JournalBackend\n"
        "backend, _ = by_url('journal+postgresql://u@h/d')\n"
        "print(backend is JournalBackend)\n"
    )

    assert installation.run("python", "-c", script, cwd=tmp_path).strip() == "True"


def test_the_command_says_its_version(installation: Installation, tmp_path: Path, version: str) -> None:
    """The script runs without a database and without the extras."""
    assert version in installation.run("celery-journal", "version", cwd=tmp_path)


def test_the_repository_holds_nothing_else_at_its_top() -> None:
    """Open the repository and see the field's words."""
    assert {file.parts[0] for file in files()} <= TOP_LEVEL


def test_what_a_user_reads_is_where_it_is_said_to_be() -> None:
    """The README is for the first ten minutes, and leads to each page of docs/; no link leads nowhere."""
    pages = {"README.md", "CONTRIBUTING.md", *(str(file) for file in sources() if file.parts[0] == "docs")}
    links = {page: re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text("utf-8")) for page in pages}

    assert len((ROOT / "README.md").read_bytes()) <= 10_240
    assert {link for link in links["README.md"] if link.startswith("docs/")} == pages - {"README.md", "CONTRIBUTING.md"}
    assert [link for page, of in links.items() for link in of if not (ROOT / page).parent.joinpath(link).is_file()] == []


def test_the_versions_that_are_supported_are_declared() -> None:
    """F03, F04, F22: what pip installs it with, and under which licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert (project["requires-python"], project["license"]) == (">=3.11", "BSD-3-Clause")
    assert "celery>=5.5.3,<5.8" in project["dependencies"]
    assert (ROOT / "LICENSE").read_text().startswith("BSD 3-Clause License")


def test_celery_is_not_patched() -> None:
    """F27: with every part of the journal imported and an app that uses it, Celery's own classes do what they did.

    What `install` adds is asked only where Python is about to raise AttributeError.
    """
    script = """
import celery.app.amqp, celery.app.base, celery.app.control, celery.app.task, celery.result, celery.canvas, celery.backends.base
modules = [celery.app.amqp, celery.app.base, celery.app.control, celery.app.task, celery.result, celery.canvas, celery.backends.base]
classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
before = [dict(vars(one)) for one in classes]
from celery_journal.consumers import cli, install, models
install(celery.Celery("app", backend="journal+postgresql://nobody@localhost/none")).backend
after = [dict(vars(one)) for one in classes]
changed = [(one.__name__, name) for one, old, new in zip(classes, before, after) for name in new if old.get(name) is not new[name]]
print([change for change in changed if not change[1].startswith("_abc_")])
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert told == "[('AsyncResult', '__getattr__')]\n"
