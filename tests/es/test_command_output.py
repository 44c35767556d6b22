"""What `es` prints: tables, CSV, JSON; and nothing that steers a terminal or a spreadsheet."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from backupsite.es_command.client import Answer
from backupsite.es_command.completion import PARAMETERS, RESOURCES, script
from backupsite.es_command.errors import exit_code_of
from backupsite.es_command.grammar import METHODS
from backupsite.es_command.output import shown

TASK = "01a1ffe6-572b-7d77-a77f-a3ae5c78f4bc"
PENDING = (201, {"task_id": TASK, "status": "PENDING", "result": None})


def test_wide_signs_keep_their_columns() -> None:
    rows = [{"name": "日本", "id": 1}, {"name": "ascii", "id": 2}]

    told = shown(Answer("GET", "u", 200, {"result": rows}), "plain", csv_delimiter=";")

    assert told.splitlines()[1:] == ["日本    1", "ascii   2"]


ROWS = [{"name": "=1+1", "number": -1, "list": ["a", 1], "none": None}, {"name": "1e3", "number": 2, "more": {"a": 1}}]


def test_a_list_of_objects_as_table_and_as_csv() -> None:
    answer = Answer("GET", "u", 200, {"result": ROWS})

    assert shown(answer, "plain", csv_delimiter=";").splitlines() == [
        "name    number    list    none    more",
        "=1+1    -1        a,1",
        "1e3     2                         a: 1",
    ]
    assert shown(answer, "csv", csv_delimiter=";") == "name;number;list;none;more\n'=1+1;-1;a,1;;\n1e3;2;;;a: 1"


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\t=1", " =1", "\u00a0@x", "＝1"])
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    assert shown(Answer("GET", "u", 200, {"result": [text]}), "csv", csv_delimiter=",").lstrip('"').startswith("'")


@pytest.mark.parametrize("output", ["csv", "simple", "grid", "html"])
def test_what_the_service_tells_steers_no_terminal(output: str) -> None:
    told = shown(Answer("GET", "u", 200, {"result": [{"a\x1bb": "\x1b[31m\u202etxt\x07"}]}), output, csv_delimiter=";")

    assert told.replace("\n", "").isprintable()


def test_names_objects_errors_and_help() -> None:
    deleted, begun = Answer("DELETE", "u", 200, {"status": "SUCCESS", "result": None}), Answer("POST", "u", *PENDING)
    assert shown(deleted, "csv", csv_delimiter=";") == "status;SUCCESS\nresult;"
    # Without waiting the task's id is what there is to know.
    assert f"task_id;{TASK}" in shown(begun, "csv", csv_delimiter=";")
    names, one = Answer("GET", "u", 200, {"result": ["a", "b"]}), Answer("GET", "u", 200, {"result": {"a": 1}})
    assert shown(names, "csv", csv_delimiter=";") == "a\nb"
    assert shown(one, "csv", csv_delimiter=";") == "a;1"
    assert "no\tthing" not in shown(Answer("GET", "u", 404, {"detail": "nothing"}), "json", csv_delimiter=";")
    assert shown(Answer("OPTIONS", "u", 200, {"description": "Say so."}), "json", csv_delimiter=";") == "Say so."
    told = json.loads(shown(Answer("GET", "u", 500, "html", {"X": "1"}), "json", csv_delimiter=";", debug=True))
    assert told == {"method": "GET", "url": "u", "status": 500, "text": "html", "headers": {"X": "1"}}
    assert [exit_code_of(status) for status in (200, 201, 302, 400, 499, 500, 503)] == [0, 0, 0, 1, 1, 2, 2]


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "es.bash").write_text(script())

    def completed(*words: str) -> set[str]:
        quoted = " ".join(f"'{word}'" for word in ("es", *words))
        told = f"source {tmp_path}/es.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _es_complete; "
        run = subprocess.run(
            ["bash", "--norc", "-c", f'{told} printf "%s\\n" "${{COMPREPLY[@]}}"'],
            capture_output=True,
            text=True,
            check=True,
        )
        return set(run.stdout.split())

    assert completed("") == set(METHODS)
    assert completed("cr") == {"create"}
    assert completed("get", "/no") == {"/node"}
    assert completed("get", "/vm", "-targ") == {"-target_hostname_or_uuid", "-target_disk_id"}
    assert {"--tabulate", "--tabulate-grid"} <= completed("get", "/vm", "--tab")
    assert completed("get", "/vm/web01/d") == {"/vm/web01/define/backup"}
    assert completed("set", "/task/1/c") == {"/task/1/cancel"}
    # What was typed is never run.
    completed("get", f"/vm/$(touch${{IFS}}{tmp_path}/run)/b")
    assert not (tmp_path / "run").exists()
    assert "/vm/define/backup" in RESOURCES and "dc" in PARAMETERS
