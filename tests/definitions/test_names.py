"""What people type as a name never becomes a part of a command, and no upload is unpacked: here are no such calls."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError

from definitions.names import check_name, check_tag
from tests.factories import disk_of
from tests.worlds import World

ROOT = Path(__file__).resolve().parents[2]
# What faces people and tenants' words. The launcher starts programs of its own, with arguments of its own.
APPS = ("agents", "backups", "common", "definitions", "tenants", "vaults")
STARTS = frozenset({"subprocess", "pty", "pexpect", "commands"})
UNPACKS = frozenset({"zipfile", "tarfile", "shutil.unpack_archive", "lzma", "bz2", "gzip"})


def _trees() -> list[tuple[str, ast.AST]]:
    files = [path for app in APPS for path in (ROOT / app).rglob("*.py") if "migrations" not in path.parts]
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in files]


def _imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _calls_of_os(tree: ast.AST) -> set[str]:
    """Attributes of the module `os`; a message may have a field of such a name."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "os"}


def _attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.case("IN-03")
def test_no_shell_is_started_with_what_people_typed() -> None:
    """Drivers that need a program of the system start it without a shell, by a list of arguments."""
    for path, tree in _trees():
        assert not _attributes(tree) & {"popen", "create_subprocess_shell"}, path
        assert not _calls_of_os(tree) & {"system"} and "os.system" not in _imported(tree), path
        shells = [
            keyword
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "shell"
        ]
        assert shells == [], path
        if not path.startswith("agents/"):
            assert not _imported(tree) & STARTS, path


@pytest.mark.case("IN-09")
def test_nothing_that_was_sent_is_unpacked_and_no_file_is_taken() -> None:
    for path, tree in _trees():
        if not path.startswith("agents/"):
            assert not _imported(tree) & UNPACKS, path
        assert "FILES" not in _attributes(tree), path
        assert not _attributes(tree) & {"FileField", "ImageField", "FileUploadParser", "MultiPartParser"}, path


@pytest.mark.case("IN-03")
@pytest.mark.parametrize("name", ["a;b", "$(id)", "a\nb", "-rf", "@a", "a%s", "../a", "a b", "`a`", "\u202ea", "é"])
def test_a_name_that_is_more_than_a_name_is_refused(world: World, name: str) -> None:
    body = {"disk": str(disk_of(world.ours.server).pk), "name": name, "cron": "0 1 * * *"}

    answer = world.client("admin_a").post("/api/v1/definitions/", body)

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "name")


@pytest.mark.parametrize("check", [check_name, check_tag])
def test_a_line_end_is_refused_also_where_nobody_trims_it(check: Callable[[str], None]) -> None:
    check("daily")

    with pytest.raises(ValidationError):
        check("daily\n")
