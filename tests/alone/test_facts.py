"""What a backup knows of its server, read with a bucket and a recovery key alone: disk layout, boot, packages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.alone import commands
from engine.alone.cli import main
from engine.alone.facts import ServerFacts, read_facts
from engine.alone.finding import NothingFoundError, Scope, find_backup
from engine.alone.output import facts_lines
from engine.errors import IntegrityError, KeyMismatchError
from engine.recovery import RecoveryKey
from tests.alone.conftest import RunTool
from tests.alone.support import RECOVERY_KEY, BotoSink, ModelBucket, Server, model_server
from tests.engine.support import noise

SFDISK = "label: gpt\nunit: sectors\n\n/dev/sda1 : start=2048, size=204800, type=linux\n"
FACTS = {
    "format": 1,
    "kernel": "6.1.0",
    "boot_loaders": ["boot/grub/grub.cfg"],
    "files": {"/etc/fstab": "UUID=12\t/\text4\x1b[2J\n"},
    "partition_tables": {"sda": SFDISK},
    "packages": "bash 5.2 amd64\nvim 9 amd64\n",
}


def vault(configuration: Any) -> tuple[ModelBucket, str]:
    server, bucket = model_server()
    facts = {} if configuration is None else {"configuration": configuration}
    name = server.back_up(noise(5000), source_facts={"server": "web01", **facts}).manifest.sha256
    server.describe()
    return bucket, name


def read(configuration: Any) -> ServerFacts:
    bucket, name = vault(configuration)
    return read_facts(bucket, *find_backup(bucket, RECOVERY_KEY, Scope(), name[:8]))


def test_each_fact_is_a_part_with_a_name() -> None:
    facts = read(json.dumps(FACTS))

    assert dict(facts.parts) == {
        "format": "1",
        "kernel": "6.1.0",
        "boot_loaders": '["boot/grub/grub.cfg"]',
        "files/etc/fstab": "UUID=12\t/\text4\x1b[2J\n",
        "partition_tables/sda": SFDISK,
        "packages": "bash 5.2 amd64\nvim 9 amd64\n",
    }


@pytest.mark.parametrize("told", ["<domain type='kvm'/>", "[1, 2]", '{"a": ', "[" * 100_000, "null"])
def test_what_is_no_list_of_facts_is_one_part(told: str) -> None:
    assert dict(read(told).parts) == {"configuration": told}


@pytest.mark.parametrize("told", [None, "", 7, {"a": "b"}, b"bytes"])
def test_a_backup_without_facts_says_so(told: Any) -> None:
    with pytest.raises(NothingFoundError, match="keeps no facts") as caught:
        read(told)
    assert caught.value.code == "no_facts"


def test_nothing_of_it_drives_a_terminal() -> None:
    lines = list(facts_lines(read(json.dumps({**FACTS, "\x1b[31m": "x"}))))

    assert "== files/etc/fstab" in lines and "UUID=12\t/\text4?[2J" in lines
    assert "== ?[31m" in lines and "\x1b" not in "".join(lines)


def test_facts_of_a_manifest_that_was_changed_are_not_shown() -> None:
    bucket, name = vault(json.dumps(FACTS))
    domain, found = find_backup(bucket, RECOVERY_KEY, Scope(), name)
    [key] = {version.key for version in bucket.store.list_versions() if name in version.key}
    data = bytearray(bucket.store.head(key=key, version_id=found.ref.version_id if found.ref else "").data)
    data[-100] ^= 1
    bucket.read = lambda version, *, offset, length: _Stored(bytes(data[offset : offset + length]))  # type: ignore[method-assign,assignment]  # a store that lies

    with pytest.raises(IntegrityError):
        read_facts(bucket, domain, found)


class _Stored:
    def __init__(self, data: bytes) -> None:
        self.data, self.retain_until = data, None


def test_another_recovery_key_shows_nothing() -> None:
    bucket, name = vault(json.dumps(FACTS))
    other = RecoveryKey(noise(32, "another"), RECOVERY_KEY.catalogue_fingerprint)

    with pytest.raises(KeyMismatchError):
        read_facts(bucket, *find_backup(bucket, other, Scope(), name))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tool_over_a_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command in this process; (exit code, standard output, standard error)."""
    bucket, name = vault(json.dumps(FACTS))
    monkeypatch.setattr(commands, "_bucket", lambda _: bucket)
    monkeypatch.setattr(commands, "_recovery_key", lambda _: RECOVERY_KEY)
    return lambda *words: main(["facts", name[:12], *words])


def test_one_part_is_printed_alone_as_another_program_takes_it(
    tool_over_a_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool_over_a_model("--part", "partition_tables/sda") == 0

    assert capsys.readouterr().out == SFDISK


def test_an_unknown_part_names_those_that_there_are(tool_over_a_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool_over_a_model("--part", "partition_tables/sdb") == 4

    out, err = capsys.readouterr()
    assert out == "" and "partition_tables/sda" in err and len(err.splitlines()) == 1


def test_facts_for_programs_are_those_that_were_stored(
    tool_over_a_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool_over_a_model("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert tool_over_a_model("--json", "--part", "kernel") == 0
    part = json.loads(capsys.readouterr().out)

    assert told["facts"]["partition_tables/sda"] == SFDISK and len(told["backup"]) == 64
    assert part["facts"] == {"kernel": "6.1.0"}


@pytest.mark.stack
def test_a_bucket_and_a_key_alone_show_the_layout(sink: BotoSink, tool: RunTool) -> None:
    server = Server(sink, sink)
    name = server.back_up(noise(5000), source_facts={"configuration": json.dumps(FACTS)}).manifest.sha256
    server.describe()
    sink.cover()

    done = tool("facts", name[:12], bucket=sink.bucket)

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("== format\n1\n\n== kernel\n6.1.0\n")
