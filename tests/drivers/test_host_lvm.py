"""Snapshots of LVM for a whole server, on programs with real state: taken, refused in words, overflown, left over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.drivers import host_lvm
from agents.drivers.base import DriverError
from agents.drivers.host_mounts import Mount
from agents.drivers.host_snapshots import Place, remove_leftovers, standing_still, way_of
from tests.drivers.lvm_lab import SIZE, Lab

MIB = 1 << 20


class Server:
    """A file system on a thin volume and one on a classic volume."""

    def __init__(self, lab: Lab, sysfs: Path) -> None:
        self.lab = lab
        self.files = {name: lab.volume(name, name.encode()) for name in ("thin", "thick")}
        lab.change("thick", pool="")
        for number in (1, 2):
            (sysfs / f"253:{number}" / "dm").mkdir(parents=True)
            (sysfs / f"253:{number}" / "dm" / "uuid").write_text("LVM-abc")

    def mount(self, name: str, kind: str = "ext4") -> Mount:
        return Mount(f"/srv/{name}", kind, f"/dev/mapper/{name}", f"253:{1 + list(self.files).index(name)}", "/inner")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(host_lvm, "_SYSFS", tmp_path / "sysfs")
    monkeypatch.setattr(host_lvm, "_DEVICES", str(tmp_path / "dev"))
    yield Server(Lab(tmp_path), tmp_path / "sysfs")


@pytest.mark.parametrize(("name", "kind", "options"), [("thin", "xfs", "nouuid"), ("thick", "ext4", "")])
def test_a_volume_is_held_still_and_nothing_is_left(server: Server, name: str, kind: str, options: str) -> None:
    before = server.lab.names()
    mount = server.mount(name, kind)
    assert way_of(mount) == "lvm" and host_lvm.why_not(mount) == ""

    with standing_still(mount, "12345678") as [place]:
        server.files[name].write_bytes(b"changed")
        assert (place.snapshot, place.source, place.warnings) == ("lvm", Path("/inner"), ())
        assert place.held is not None and (place.held.kind, place.held.options) == (kind, options)
        assert place.held.device.read_bytes().rstrip(b"\0") == name.encode()
        [snapshot] = server.lab.names() - before
        assert snapshot == f"backupsite-host-12345678-{name}*"
        # A snapshot of somebody else is no leftover of ours, nor is one of another volume.
        assert remove_leftovers(server.mount("thick" if name == "thin" else "thin")) == []

    assert server.lab.names() == before


def _live(server: Server, name: str) -> Place:
    before = server.lab.names()
    with standing_still(server.mount(name), "1") as [place]:
        assert (place.snapshot, place.held, server.lab.names()) == ("none", None, before)
        assert host_lvm.why_not(server.mount(name)) in place.warnings[0].message
        return place


def test_what_cannot_be_held_still_is_read_as_it_is_and_says_why(server: Server) -> None:
    server.lab.change(free=200 * MIB)
    server.lab.change("thick", size=4096 * MIB)
    [told] = _live(server, "thick").warnings
    assert told.code == "no_snapshot" and "has 200 MiB free" in told.message and "needs 409 MiB" in told.message
    server.lab.change(data_percent=96.0)
    [told] = _live(server, "thin").warnings
    assert "96 % full" in told.message
    # Neither a second btrfs of the same number beside the first, nor what is on no volume of LVM.
    for mount in (server.mount("thin", "btrfs"), Mount("/", "ext4", "/dev/vda1", "254:1", "/")):
        assert way_of(mount) == "none"


def test_a_snapshot_that_did_not_hold_all_fails_the_backup_and_goes(server: Server) -> None:
    before = server.lab.names()
    with (
        pytest.raises(DriverError, match="could hold: what was read is not of one moment"),
        standing_still(server.mount("thick"), "1"),
    ):
        server.lab.change("backupsite-host-1-thick", told={"lv_attr": "swi-I-s---", "data_percent": "100.00"})
    assert server.lab.names() == before


def test_what_a_killed_backup_left_is_removed_and_nothing_else(server: Server) -> None:
    whole = host_lvm.snapshot_of(server.mount("thin"), "1")
    whole.__enter__()
    server.lab.change("backupsite-host-1-thin", open=True)
    assert remove_leftovers(server.mount("thin")) == []  # in use: the next start tries again
    server.lab.change("backupsite-host-1-thin", open=False)
    server.lab.volume("backupsite-host-mine")
    assert [name.partition("/")[2] for name in remove_leftovers(server.mount("thin"))] == ["backupsite-host-1-thin"]
    assert server.lab.names() == {"pool*", "thin*", "thick*", "backupsite-host-mine*"}
    assert server.files["thin"].stat().st_size == SIZE
