"""What a backup of a whole server holds of the server's mounts, and what of them gets into it: real mounts, as root."""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from agents.drivers import host_mounts, host_space
from agents.drivers.base import DiskAddress, DiskWish, DriverError, OpenedTree, ReadWish
from agents.drivers.host import HostDriver, HostSettings
from agents.drivers.host_mounts import Mount, is_same_place, not_needed, parse_mounts, place_of
from agents.drivers.host_needs import WHOLE, places_in_use
from agents.program.agent.hooks import hooks_around

_NEW_NAMESPACE, _RECURSIVE, _PRIVATE, _SHARED = 0x20000, 1 << 14, 1 << 18, 1 << 20
_IN_ATTRIB, _IN_UNMOUNT = 4, 0x2000
SECONDS = 30


def test_what_is_mounted_and_not_needed_goes_with_all_that_is_in_it() -> None:
    points = [
        *(
            "/",
            "/proc",
            "/proc/sys/fs/binfmt_misc",
            "/etc/resolv.conf",
            "/var",
            "/var/lib/docker/x",
            "/home",
            "/mnt/usb",
        ),
        *("/mnt/usb/inner", "/mnt/usb", "/srv", "/srv/work/tree", "/opt", "/opt/other", "/home2"),
    ]
    mounts = [Mount(point, "ext4", "/dev/x", "8:1", "/") for point in points]
    found = not_needed(mounts, needed=["/var/lib", "/opt/agent"], whole=["/etc", "/proc"], ours="/srv/work")
    # Once for each of two that lie on one place.
    assert found == ["/home", "/home2", "/mnt/usb", "/mnt/usb", "/opt/other", "/var/lib/docker/x"]


def test_what_the_program_goes_on_to_use_stays() -> None:
    used = [sys.prefix, sys.base_prefix, *sys.path[1:], tempfile.gettempdir(), str(Path.cwd()), "/var/lib", "/run/lvm"]
    points = [*(os.path.realpath(place) for place in used), "/etc/resolv.conf", "/sys/fs/cgroup", "/"]
    mounts = [Mount(point, "ext4", "/dev/x", "8:1", "/") for point in (*points, "/nowhere")]
    assert not_needed(mounts, needed=places_in_use(), whole=WHOLE, ours="/srv/work") == ["/nowhere"]


def test_the_same_place_is_told_by_file_system_and_directory() -> None:
    told = ["1 0 8:1 /@ / rw - btrfs /dev/x rw", "2 1 8:1 /@home /home rw - btrfs /dev/x rw"]
    root, home = parse_mounts(told)
    assert place_of("/home/m/a", [root, home]).inner == "/@home/m/a"
    assert place_of("/srv", [root, home]).inner == "/@/srv" and place_of("/", [root, home]) is root
    # The directory that lies under the mount is another one, of the same file system.
    under = place_of("/home", [root])
    assert not is_same_place(under, home) and is_same_place(place_of("/home", [root, home]), home)
    assert not is_same_place(Mount("/home", "btrfs", "/dev/y", "8:2", "/@home"), home)


# --- real mounts --------------------------------------------------------------------------------------------------


def mount(point: Path, kind: str = "ramfs") -> None:
    point.mkdir(exist_ok=True)
    _call("mount", b"none", os.fsencode(point), kind.encode(), 0, None)
    (point / "file").write_text(str(point))


def unmount(point: Path) -> None:
    """As `umount`: what is in use is refused."""
    _call("umount2", os.fsencode(point), 0)


def _call(name: str, *words: Any) -> None:
    given = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in words]
    assert getattr(host_space._libc(), name)(*given) == 0, f"{name}: {os.strerror(ctypes.get_errno())}"


def mounted() -> set[str]:
    return {mount.point for mount in host_space.mounts_here()}


@contextmanager
def watched(place: Path) -> Iterator[Callable[[float], bool]]:
    """Whether the file system is gone altogether, after at most so many seconds: the kernel tells it when nobody has it
    mounted any more, wherever that was."""
    libc = host_space._libc()
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(descriptor, os.fsencode(place), _IN_ATTRIB) >= 0

    def is_gone(seconds: float) -> bool:
        if not select.select([descriptor], [], [], seconds)[0]:
            return False
        return bool(int.from_bytes(os.read(descriptor, 4096)[4:8], sys.byteorder) & _IN_UNMOUNT)

    try:
        yield is_gone
    finally:
        os.close(descriptor)


@dataclass
class Mover:
    """A process that has opened the server, as the agent's; it looks for others what is in the tree."""

    pipe: Connection
    number: int

    def ask(self, *words: str) -> Any:
        if words:
            self.pipe.send(words)
        assert self.pipe.poll(SECONDS), "the mover does not answer"
        return self.pipe.recv()

    def names(self, folder: str = ".") -> list[str]:
        return self.ask("names", folder)


@contextmanager
def moving(settings: HostSettings, *, also: Callable[[Connection], None] = lambda pipe: None) -> Iterator[Mover]:
    """Its first answer is what it warns of, or why it cannot."""
    here, there = Pipe()
    number = os.fork()
    if number == 0:
        here.close()
        code = 1
        try:
            also(there)
            HostDriver.configured = settings
            _moved(there)
            code = 0
        finally:
            os._exit(code)
    there.close()
    try:
        yield Mover(here, number)
    finally:
        here.close()
        assert os.waitpid(number, 0)[1] == 0


def _moved(pipe: Connection) -> None:
    try:
        with HostDriver().open_trees(ReadWish([DiskWish(DiskAddress("", "/", 1))], "point")) as [opened]:
            pipe.send([f"{warning.code}: {warning.message}" for warning in opened.facts.warnings])
            _answer(pipe, opened)
    except DriverError as error:
        pipe.send(error.message)


def _answer(pipe: Connection, opened: OpenedTree) -> None:
    while True:
        try:
            verb, *words = pipe.recv()
        except EOFError:
            return
        found: dict[str, Callable[..., object]] = {
            "names": lambda folder: sorted(os.listdir(opened.root / folder)),
            "points": lambda: sorted(mounted()),
            "mounts": lambda: opened.options.mounts,
        }
        pipe.send(found[verb](*words))


def server(folder: Path, *, shared: bool) -> Path:
    """In a namespace of its own: a server whose mounts reach others, as systemd has it, or do not."""
    _call("unshare", _NEW_NAMESPACE)
    _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    # Nothing has to be made of a disk: what is in memory counts as such here, of the one kind.
    host_mounts._MEMORY = frozenset({"ramfs"})
    mount(folder, "tmpfs")
    root = folder / "server"
    root.mkdir()
    for name, kind in (("nas", "ramfs"), ("needed", "ramfs"), ("out", "tmpfs"), ("kept", "tmpfs")):
        mount(root / name, kind)
    (root / "later").mkdir()
    _call("mount", b"none", b"/", None, _RECURSIVE | (_SHARED if shared else _PRIVATE), None)
    return root


def settings_of(root: Path) -> HostSettings:
    needs = (str(root / "needed" / "file"),)
    return HostSettings(str(root), root.parent / "work", excludes=("/out/",), needs=needs)


def unmounting(folder: Path, *, shared: bool) -> None:
    """While a backup runs: what is left out, or excluded, is free at once; what the program uses when it is shared."""
    root = server(folder, shared=shared)
    with (
        watched(root / "nas") as is_nas_gone,
        watched(root / "out") as is_out_gone,
        watched(root / "needed") as is_needed_gone,
        watched(root / "kept") as is_kept_gone,
    ):
        with moving(settings_of(root)) as mover:
            [warning] = mover.ask()
            assert warning.startswith("not_one_moment: ") and str(root / "out") not in warning, warning
            points = set(mover.ask("points"))
            assert str(root / "needed") in points
            assert not {str(root / name) for name in ("nas", "out", "kept")} & points, points
            assert str(root.parent / "work/tree/kept") in points and "/proc" in points
            for name in ("nas", "out", "needed", "kept"):
                unmount(root / name)
            assert is_nas_gone(SECONDS) and is_out_gone(SECONDS)
            assert is_needed_gone(SECONDS if shared else 0.1) == shared
            # What is being read is held by that alone.
            assert mover.names("kept") == ["file"] and not is_kept_gone(0)
        assert is_kept_gone(SECONDS)


def mounting(folder: Path) -> None:
    """What appears on the server while a backup runs is not in it, and the server sees nothing of ours."""
    root = server(folder, shared=True)
    before = mounted()
    with moving(settings_of(root)) as mover:
        assert len(mover.ask()) == 1
        assert mounted() == before
        for name in ("later", "kept/file-system", "nas"):
            mount(root / name)
        assert (root / "later/file").exists()
        assert [mover.names(name) for name in ("later", "kept/file-system", "nas")] == [[], [], []]
        assert mover.ask("mounts") == (b"kept",)
        for name in ("later", "kept/file-system", "nas"):
            unmount(root / name)
        assert mounted() == before
    assert mounted() == before


def told_of_binds(pipe: Connection) -> None:
    """Each time that a directory was bound, and is not cut off from the server yet, somebody else may act."""
    real = host_space._mount

    def mount(source: bytes, target: bytes, flags: int, **more: Any) -> None:
        real(source, target, flags, **more)
        if flags == host_space._MS_BIND:
            pipe.send("bound")
            pipe.recv()

    host_space._mount = mount


def mounting_in_between(folder: Path, *, times: int) -> None:
    """In the moment between two calls: what has got into the tree is taken out; who goes on with it ends the backup."""
    root = server(folder, shared=True)
    for name in ("needed", "kept", "nas", "out"):
        unmount(root / name)
    with moving(settings_of(root), also=told_of_binds) as mover:
        count = 0
        while (said := mover.ask()) == "bound":
            count += 1
            if count <= times:
                mount(root / "later" if count == 1 else root / f"later-{count}")
                (root / f"later-{count + 1}").mkdir()
            mover.pipe.send("go on")
        if times < host_space._TRIES:
            assert count == times + 1 and len(said) == 1 and said[0].startswith("not_one_moment"), (count, said)
            assert mover.names("later") == []
            assert [point for point in mover.ask("points") if "/tree/" in point] == []
        else:
            assert said == f"{root} cannot be opened: something is mounted inside of it all the time.", said


def unmounting_before(folder: Path) -> None:
    """What was there when the server was looked at, and is gone when it is bound: what it hid does not pass for it."""
    root = server(folder, shared=True)
    unmount(root / "kept")
    (root / "kept" / "hidden").touch()
    mount(root / "kept", "tmpfs")
    _call("mount", b"none", os.fsencode(root / "kept"), None, _SHARED, None)
    with moving(settings_of(root), also=told_of_binds) as mover:
        assert mover.ask() == "bound"
        unmount(root / "kept")
        mover.pipe.send("go on")
        assert mover.ask() == "bound"
        mover.pipe.send("go on")
        *_, warning = mover.ask()
        assert warning == f"tree_left_out: {root}/kept is not in the backup: something else is mounted there now."
        # So it counts as one that is not mounted, and the last backup's files as missed.
        assert mover.ask("mounts") == ()


def hooks_outside(folder: Path) -> None:
    """A hook acts on the server, also after the backup: it was started from within the mover's own mounts once."""
    root, hooks = server(folder, shared=False), folder / "hooks.d"
    hooks.mkdir(mode=0o700)
    hook = hooks / "post-x"
    hook.write_text(f"#!/bin/sh\nmount --bind {root / 'later'} {root / 'later'} && umount {root / 'nas'}\n")
    hook.chmod(0o700)
    HostDriver.configured = settings_of(root)
    before = mounted()
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    parent = os.fork()
    if parent == 0:
        with (
            hooks_around(hooks, seconds=SECONDS, trusted_owner=0),
            HostDriver().open_trees(ReadWish([DiskWish(DiskAddress("", "/", 1))], "point")),
        ):
            inside = Path("/proc/self/ns/mnt").stat().st_ino
        os._exit(inside == os.fstat(outside).st_ino)
    assert os.waitpid(parent, 0)[1] == 0
    assert mounted() ^ before == {str(root / "later"), str(root / "nas")}


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "unmounted while it runs, mounts shared": lambda folder: unmounting(folder, shared=True),
    "unmounted while it runs, mounts private": lambda folder: unmounting(folder, shared=False),
    "mounted while it runs": mounting,
    "mounted in between": lambda folder: mounting_in_between(folder, times=2),
    "mounted in between, again and again": lambda folder: mounting_in_between(folder, times=host_space._TRIES),
    "unmounted before it is bound": unmounting_before,
    "a hook": hooks_outside,
}


def play(name: str, folder: Path) -> None:
    SCENARIOS[name](folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are for root alone")
@pytest.mark.parametrize("name", SCENARIOS)
def test_mounts_of_the_server_and_of_the_backup(name: str, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts may be made here")
    program = "import pathlib, sys; from tests.drivers.test_host_space import play; play(sys.argv[1], pathlib.Path("
    words = [sys.executable, "-c", program + "sys.argv[2]))", name, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
