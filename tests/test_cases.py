"""The table of attacks in docs/threat-model.md: each has a marked test, or says what it waits for.

A test proves a case by `@pytest.mark.case("AZ-01")`. The markers are read from the files, so that none is missed
because its test did not run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = TESTS.parent / "docs" / "threat-model.md"
_ROW = re.compile(r"^\| ((?:AG|AZ|IN|CP|RS)-\d\d) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_FILE = re.compile(r"`(\w+/test_\w+)`")
_HEADS = ("shown by |", "--- |")
_KINDS = {"AG": 15, "AZ": 24, "IN": 15, "CP": 24, "RS": 18}
EXPECTED = {f"{kind}-{number:02}" for kind, last in _KINDS.items() for number in range(1, last + 1)}


def rows() -> dict[str, str]:
    """Case -> where it is tested, as the table says it."""
    return {case: where for case, _, where in _ROW.findall(TABLE.read_text())}


def marked() -> dict[str, set[str]]:
    """Case -> the files with a test that is marked with it, as `api/test_paging`."""
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for case in _cases_in(ast.parse(path.read_text())):
            found.setdefault(case, set()).add(str(path.relative_to(TESTS).with_suffix("")))
    return found


def _cases_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.case":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


def test_every_case_has_a_row() -> None:
    assert set(rows()) == EXPECTED


def test_every_case_has_a_test_or_says_what_it_waits_for() -> None:
    proved = marked()
    waiting = {case for case, where in rows().items() if "comes with" in where}

    assert EXPECTED - waiting <= set(proved)
    assert {case for case in proved if case.startswith(("AG-", "AZ-", "IN-", "CP-", "RS-"))} <= EXPECTED


def test_every_file_that_a_row_names_proves_its_case() -> None:
    proved = marked()
    for case, where in rows().items():
        named = set(_FILE.findall(where))

        assert named or "comes with" in where, case
        assert named <= proved.get(case, set()), case


def test_every_line_of_an_actor_names_tests_that_are_there_or_says_that_nothing_shows_it() -> None:
    actors = TABLE.read_text().partition("## Attacks and their tests")[0]
    lines = [line for line in actors.splitlines() if line.startswith("| ") and not line.endswith(_HEADS)]
    shown = [line.removesuffix(" |").rpartition(" | ")[2] for line in lines]

    assert len(lines) >= 36
    assert [
        line for line, where in zip(lines, shown, strict=True) if not _FILE.findall(where) and where != "nothing"
    ] == []
    assert [name for where in shown for name in _FILE.findall(where) if not (TESTS / f"{name}.py").is_file()] == []


def test_a_marker_is_found_wherever_it_stands() -> None:
    text = 'pytestmark = [pytest.mark.case("AZ-98")]\n@pytest.mark.case("AZ-99", "IN-99")\ndef test_it(): ...\n'

    assert sorted(_cases_in(ast.parse(text))) == ["AZ-98", "AZ-99", "IN-99"]
