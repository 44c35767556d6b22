"""What a backup of a whole server keeps of its disks and its boot: programs are asked one by one, and none is trusted
to answer."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import host_layout
from agents.drivers.host_layout import layout_facts
from agents.program.backing_up import LONGEST_CONFIGURATION

Script = Callable[[str, str], None]
Patience = Callable[[str], None]


def facts(run: Callable[[Sequence[str]], str], root: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(layout_facts(run=run, root=root))
    return told


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts programs of this name in place of the system's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def put(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """Has this program asked as long as a slow machine may need to start it, and any other for three seconds."""
    run = host_layout._run

    def waited_for(name: str) -> None:
        def one(words: Sequence[str], *, until: float) -> str:
            monkeypatch.setattr(host_layout, "_PROGRAM_SECONDS", 60.0 if words[0] == name else 3.0)
            return run(words, until=until)

        monkeypatch.setattr(host_layout, "_run", one)

    return waited_for


def asked(tmp_path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(layout_facts(root=tmp_path))
    return told


def test_disks_and_what_lies_on_them_are_asked_for_by_the_programs_of_each(tmp_path: Path) -> None:
    for name in ("sda", "nvme0n1", "cciss!c0d0", "loop0", "dm-1", "zram0", "sr0", "-x y"):
        (tmp_path / "sys/block" / name).mkdir(parents=True)
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").touch()
    words: list[Sequence[str]] = []

    def run(one: Sequence[str]) -> str:
        words.append(one)
        return " ".join(one)

    told = facts(run, tmp_path)

    assert told["partition_tables"] == {
        "cciss!c0d0": "sfdisk -d /dev/cciss/c0d0",
        "nvme0n1": "sfdisk -d /dev/nvme0n1",
        "sda": "sfdisk -d /dev/sda",
    }
    began = {name: told[name].split()[:2] for name in told if isinstance(told[name], str) and " " in told[name]}
    assert began["block_devices"] == ["lsblk", "-J"]
    assert (began["raid"], told["raid"]) == (["mdadm", "--detail"], "mdadm --detail --scan")
    assert [told[name].split()[0] for name in ("lvm_physical", "lvm_groups", "lvm")] == ["pvs", "vgs", "lvs"]
    assert told["btrfs"] == "btrfs filesystem show"
    assert [began[name] for name in ("zfs_pools", "zfs_status", "zfs_datasets")] == [
        ["zpool", "list"],
        ["zpool", "status"],
        ["zfs", "list"],
    ]
    assert (told["boot_mode"], told["efi_entries"], told["boot_loaders"]) == ("bios", "", ["boot/grub/grub.cfg"])
    assert "efibootmgr" not in {one[0] for one in words}


def test_a_server_with_uefi_has_its_boot_entries(tmp_path: Path) -> None:
    (tmp_path / "sys/firmware/efi").mkdir(parents=True)

    told = facts(lambda words: " ".join(words), tmp_path)

    assert (told["boot_mode"], told["efi_entries"]) == ("uefi", "efibootmgr -v")


def test_passwords_in_files_are_left_out(tmp_path: Path) -> None:
    files = {
        "etc/fstab": "//nas/x /mnt cifs user=backup,password=hunter2,uid=0 0 0\n"
        "curl#ftp://user:hunter2@host/ /ftp fuse rw 0 0\n",
        "etc/crypttab": 'swap /dev/sda2 none luks,keyscript=/bin/x,PASS="hunter2 hunter2",discard\n',
        "etc/default/grub": "GRUB_PASSWORD='hunter2'\nGRUB_TIMEOUT=5\n",
        "proc/cmdline": "root=UUID=12-34 rd.iscsi.password=hunter2 netroot=iscsi:me:hunter2@10.0.0.1 tang.key=hunter2",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    told = facts(lambda _: "", tmp_path)["files"]

    assert "hunter2" not in json.dumps(told)
    assert told["/etc/fstab"].splitlines()[0] == "//nas/x /mnt cifs user=backup,password=(left out),uid=0 0 0"
    assert told["/etc/crypttab"] == "swap /dev/sda2 none luks,keyscript=/bin/x,PASS=(left out),discard\n"
    assert "GRUB_TIMEOUT=5" in told["/etc/default/grub"]
    assert told["/proc/cmdline"].startswith("root=UUID=12-34 rd.iscsi.password=(left out) netroot=")


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "etc/fstab").mkdir(parents=True)

    assert facts(lambda _: "", tmp_path)["files"] == {"/etc/fstab": "cannot be read: Is a directory"}


def test_programs_that_are_missing_or_fail_say_why(tmp_path: Path, script: Script) -> None:
    script("lvs", "echo half; echo 'no group here' >&2; exit 5")
    script("vgs", "echo '{}'; echo 'a warning' >&2")
    script("btrfs", "not a script of any shell\0")

    told = asked(tmp_path)

    assert told["lvm"] == "lvs failed: no group here"
    assert told["lvm_groups"] == "{}\n", "what it complains of is not part of its answer"
    assert told["zfs_pools"] == "zpool is not installed"
    assert told["btrfs"].startswith("btrfs failed: ")


def test_a_program_that_hangs_is_ended_and_named(
    tmp_path: Path, script: Script, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience("zfs")
    # One that was killed is gone by then, however slow the machine is.
    monkeypatch.setattr(host_layout, "_KILL_SECONDS", 60)
    number = tmp_path / "number"
    script("zpool", f"echo $$ > {number}; echo ONLINE; exec sleep 600")
    script("vgs", "exec 1>&- 2>&-; exec sleep 600")
    script("zfs", "echo after")

    told = asked(tmp_path)

    assert told["zfs_pools"] == told["zfs_status"] == "zpool did not answer"
    assert told["lvm_groups"] == "vgs did not answer"
    assert told["zfs_datasets"] == "after\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_all_of_them_together_have_an_end(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_layout, "_ALL_SECONDS", 3)
    monkeypatch.setattr(host_layout, "_PROGRAM_SECONDS", 300)
    script("sfdisk", "exec sleep 600")
    for number in range(30):
        (tmp_path / "sys/block" / f"sd{number}").mkdir(parents=True)
    began = time.monotonic()

    told = asked(tmp_path)

    # The first of the disks alone would take 300 seconds.
    assert time.monotonic() - began < 30
    answers = list(told["partition_tables"].values())
    assert answers[0] == "sfdisk did not answer"
    assert set(answers[1:]) == {"sfdisk was not asked: other programs took too long"}


def test_an_answer_without_end_is_cut(tmp_path: Path, script: Script, patience: Patience) -> None:
    patience("btrfs")
    script("btrfs", "exec yes device")
    script("zpool", "exec yes error >&2")

    told = asked(tmp_path)

    assert told["btrfs"].startswith("device\ndevice\n") and told["btrfs"].endswith("(cut: too long)")
    assert len(told["btrfs"]) < host_layout._LONGEST_ANSWER + 100
    assert told["zfs_pools"] == "zpool did not answer"


@pytest.mark.parametrize("sign", ["x", "\0"])
def test_what_is_too_long_in_all_leaves_out_the_longest_and_keeps_partition_tables(tmp_path: Path, sign: str) -> None:
    (tmp_path / "sys/block/sda").mkdir(parents=True)
    answers = {"sfdisk": "label: gpt", "lsblk": "{}", "pvs": "small"}

    def run(words: Sequence[str]) -> str:
        return answers.get(words[0], sign * (190_000 + len(words[0])))

    told_bytes = layout_facts(run=run, root=tmp_path).encode()

    assert len(told_bytes) <= host_layout._LONGEST_FACTS < LONGEST_CONFIGURATION
    told = json.loads(told_bytes)
    assert (told["partition_tables"], told["block_devices"]) == ({"sda": "label: gpt"}, "{}")
    assert told["lvm_physical"] == "small"
    assert told["packages"] in {"", "left out: too long"} and "left out: too long" in told.values()


def test_of_this_machine_there_is_something(tmp_path: Path) -> None:
    told = json.loads(layout_facts())

    assert told["kernel"] == os.uname().release and told["files"]["/proc/cmdline"]
    done = subprocess.run(["lsblk", "-J"], capture_output=True, check=False)
    if done.returncode == 0:
        assert json.loads(told["block_devices"])["blockdevices"]
