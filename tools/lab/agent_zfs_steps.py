"""Runs inside of the guest of `make lab-agent-zfs`: the agent program on a server whose data lie on real ZFS.

The control plane, its gate and the vault are in this process and in memory; the agent and its mover are processes of
their own. Each step goes on from what the one before left; the first that fails ends it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agents import agent_messages as messages
from agents.program.agent.places import Places
from tests.agents.stand_in import ControlPlane

SERVER, HOME = Path("/srv"), "/tmp/home"
PLACES = Places.of(HOME)
PLANE = ControlPlane(
    policy=messages.AgentPolicy(
        number=1, issued_at=datetime(2026, 1, 1, tzinfo=UTC), start_jitter_seconds=0, excludes=["/scratch/"]
    )
)
GATE = PLANE.gate
SECONDS = 600


def sh(line: str, *, fails: bool = False) -> str:
    done = subprocess.run(["sh", "-ec", line], capture_output=True, text=True)
    if bool(done.returncode) != fails:
        raise SystemExit(f"{line}: {done.returncode} {done.stderr}{done.stdout}")
    return (done.stderr if fails else done.stdout).strip()


def ours() -> list[str]:
    return [name for name in sh("zfs list -H -o name -t snapshot -r tank").splitlines() if "@bs-" in name]


def mounted() -> str:
    """Snapshots that somebody looked at are mounted for minutes, and no more."""
    return "\n".join(sorted(line for line in sh("cat /proc/mounts").splitlines() if "@daily" not in line))


def log() -> str:
    return PLACES.log.read_text() if PLACES.log.exists() else ""


def until(is_so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen: {log()[-3000:]}")
        time.sleep(0.1)


def agent(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agents.program.agent", "--home", HOME, *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def asked(kind: str) -> str:
    """A job that the agent finds when it is woken; how it ended."""
    job = f"{kind}-{len(PLANE.asked)}"
    PLANE.offers.append(messages.JobOffer(job, kind, begins_at_once=True))
    SERVICE[0].send_signal(signal.SIGUSR1)
    return job


def done(job: str) -> None:
    def ended() -> bool:
        place = PLACES.jobs / f"{job}.json"
        return place.exists() and b'"ended"' in place.read_bytes()

    until(ended, job)
    event = json.loads((PLACES.jobs / f"{job}.json").read_text())["event"]
    assert not event["code"], event


SERVICE: list[subprocess.Popen[str]] = []


@dataclass(frozen=True)
class Facts:
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int
    content: str
    xattrs: dict[str, bytes]
    links: int


def facts(root: Path) -> dict[bytes, Facts]:
    found: dict[bytes, Facts] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders[:] = [name for name in folders if name not in {b"restored", b".zfs", b"lost+found"}]
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            state = os.lstat(path)
            is_file = stat.S_ISREG(state.st_mode)
            content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest() if is_file else ""
            content = str(Path(os.fsdecode(path)).readlink()) if stat.S_ISLNK(state.st_mode) else content
            names = os.listxattr(path, follow_symlinks=False)
            found[os.path.relpath(path, os.fsencode(root))] = Facts(
                state.st_mode,
                (state.st_uid, state.st_gid),
                state.st_mtime_ns,
                state.st_size if is_file else 0,
                content,
                {one: os.getxattr(path, one, follow_symlinks=False) for one in names},
                state.st_nlink if is_file else 0,
            )
    return found


class Writer(threading.Thread):
    """The same number into the first and the last file, one after the other, for as long as it is let."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.is_over = False
        self.count = 0

    def run(self) -> None:
        while not self.is_over:
            self.count += 1
            for name in ("data/a", "data/zz", "data/inner/zz"):
                (SERVER / f"{name}.new").write_text(str(self.count))
                (SERVER / f"{name}.new").replace(SERVER / name)
            time.sleep(0.05)


# --- steps ------------------------------------------------------------------------------------------------------------


def pool() -> None:
    sh("zpool create -f -O compression=lz4 -O acltype=posix -O xattr=sa -m /srv tank /dev/vdb1")
    sh("zfs create tank/data; zfs create tank/data/inner; zfs create -o mountpoint=legacy tank/legacy")
    sh("zfs create -o canmount=off tank/off; zfs create -o snapdir=visible tank/off/child; zfs create 'tank/two words'")
    sh("mkdir /srv/legacy /srv/vol /srv/zagain; mount -t zfs tank/legacy /srv/legacy")
    sh("mkdir /srv/legacy/sub /srv/hidden; echo lower > /srv/hidden/lower; zfs create tank/hidden")
    key = "head -c 32 /dev/urandom > /tmp/key; zfs create -o encryption=on -o keyformat=raw"
    sh(f"busybox {key} -o keylocation=file:///tmp/key tank/enc")
    sh("zfs create -V 32M tank/vol")
    until(Path("/dev/zd0").exists, "the volume")
    sh("/sbin/mke2fs -q -F -t ext4 /dev/zd0; mount -t ext4 /dev/zd0 /srv/vol")
    sh("mount -o bind /srv/legacy/sub /srv/zagain")
    print(sh("cat /proc/mounts | busybox grep zd0"))
    for place in ("data", "data/inner", "legacy", "legacy/sub", "off/child", "two words", "enc", "vol"):
        fill(SERVER / place)
    sh("zfs snapshot tank/data@daily; zfs hold theirs tank/data@daily; zfs snapshot tank/off/child@daily; sync")
    # Whoever looks at a snapshot has it mounted, and it stays mounted.
    sh("ls /srv/data/.zfs/snapshot/daily/")
    assert "tank/data@daily" in sh("cat /proc/mounts")


def fill(folder: Path) -> None:
    for number in range(14):
        (folder / f"f{number:02}").write_bytes(os.urandom(number * 1777))
    odd = folder / os.fsdecode(b"\xff\xfe" + b"n" * 240)
    odd.mkdir()
    sparse = folder / "sparse"
    with sparse.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"island" * 1000)
    os.link(folder / "f07", folder / "f07-again")
    (folder / "link").symlink_to("../nowhere")
    os.mkfifo(folder / "fifo")
    owned = folder / "owned"
    owned.write_text("x")
    os.setxattr(owned, "user.note", b"\0kept" * 50)
    os.setxattr(owned, "trusted.note", b"root's")
    entries = [(0x01, 6, -1), (0x02, 4, 1234), (0x04, 4, -1), (0x10, 4, -1), (0x20, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    if folder.name != "two words":
        os.setxattr(owned, "system.posix_acl_access", acl)
        os.setxattr(odd, "system.posix_acl_default", acl)
    os.chown(owned, 1001, 1002)
    owned.chmod(0o4750)
    os.utime(owned, ns=(0, 1_234_567_890_123_456_789))


def enrolled() -> None:
    PLANE.start()
    PLACES.config.mkdir(parents=True, mode=0o700)
    PLACES.settings.write_text(f'root = "{SERVER}"\nprograms = "/tmp/programs"\n')
    PLACES.settings.chmod(0o600)
    process = agent("enrol", PLANE.token, "--url", PLANE.url)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    SERVICE[:] = [agent("daemon")]
    until(lambda: PLANE.polls, "the first poll")
    trees = {tree.mount_point: (tree.snapshot, tree.left_out) for tree in PLANE.polls[-1].trees}
    print(f"      {trees}")


def backup_while_written_to() -> None:
    """Of one moment, held against whoever tidies up, and gone afterwards. What is excluded is not held at all."""
    sh("zfs create tank/scratch; zfs create tank/scratch/inner")
    writer, before, seen = Writer(), mounted(), []
    after = "\n".join(line for line in before.splitlines() if "/scratch" not in line)
    writer.start()
    until(lambda: writer.count > 3, "writing")

    def looked(count: int) -> int:
        if not seen:
            seen.extend(ours())
            held = [name for name in seen if name.startswith("tank/data@")]
            print(f"      {seen}")
            print(f"      {sh(f'zfs destroy {held[0]}', fails=True)}")
            assert mounted() == before, mounted()
            sh("zfs destroy -r tank/scratch")
            # What is read by its snapshot can be renamed as well.
            sh("zfs unmount tank/hidden; zfs rename tank/hidden tank/was; zfs rename tank/was tank/hidden")
            sh("zfs mount tank/hidden")
            assert mounted() == after, mounted()
        return 200

    GATE.before_put = looked
    GATE.back_up()
    done(asked("backup"))
    writer.is_over = True
    writer.join()
    print(f"      {[warning.message for warning in GATE.commits[-1].facts.warnings]}")
    assert {name.partition("@")[0] for name in seen} == {
        *("tank", "tank/data", "tank/data/inner", "tank/legacy", "tank/off/child", "tank/hidden", "tank/enc"),
        "tank/two words",
    }, seen
    assert not ours() and mounted() == after, (ours(), mounted())
    told = {warning.code: warning.message for warning in GATE.commits[-1].facts.warnings}
    assert set(told) == {"not_one_moment", "part_of_server"}, told
    assert told["not_one_moment"].endswith(": /srv/vol."), told
    assert sh("zfs holds -H tank/data@daily").split()[1] == "theirs"


def unchanged() -> None:
    GATE.before_put = lambda count: 200
    time.sleep(3)
    GATE.back_up()
    done(asked("backup"))
    commit = GATE.commits[-1]
    print(f"      {commit.read_bytes} bytes read, {commit.stored_bytes} stored")
    assert commit.read_bytes < 1 << 17, commit


def restored() -> None:
    GATE.restore()
    expected = facts(SERVER)
    done(asked("restore"))
    warnings = [warning.message for warning in GATE.restored[-1].warnings]
    print(f"      {warnings}")
    found = facts(SERVER / "restored")
    # Mounted a second time: it is in the backup once, and of this place what the mount hides.
    expected = {path: one for path, one in expected.items() if not path.startswith(b"zagain")}
    assert not list((SERVER / "restored" / "zagain").iterdir())
    del found[b"zagain"]
    assert set(found) == set(expected), set(found) ^ set(expected)
    differing = {path for path in expected if found[path] != expected[path]}
    for path in sorted(differing)[:5]:
        print(f"      {path!r}: {expected[path]} {found[path]}")
    assert not differing
    for place in ("data", "enc", "vol", "legacy"):
        blocks = (SERVER / "restored" / place / "sparse").stat().st_blocks
        assert blocks * 512 < 2 << 20, (place, blocks)
    assert len({(SERVER / "restored" / "data" / name).stat().st_ino for name in ("f07", "f07-again")}) == 1
    print(f"      {len(found)} names")


def of_one_moment() -> None:
    """The backup during which somebody wrote: numbers of files that were written one after the other."""
    GATE.restore(folder="restored-first")
    done(asked("restore"))
    first = SERVER / "restored-first"
    a, zz, inner = (int((first / name).read_text()) for name in ("data/a", "data/zz", "data/inner/zz"))
    print(f"      {a} {zz} {inner}")
    assert a - zz in {0, 1} and zz - inner in {0, 1}, (a, zz, inner)
    sh("busybox rm -rf /srv/restored-first; sync")


def killed() -> None:
    """In the middle: snapshots stay until the next start, and no mount does. Then all is as ever."""
    sh("for i in 1 2 3 4; do busybox head -c 2000000 /dev/urandom > /srv/data/big$i; done; sync")
    before, reached = mounted(), threading.Event()
    go_on = threading.Event()

    def waiting(count: int) -> int:
        reached.set()
        go_on.wait(SECONDS)
        return 503

    GATE.before_put = waiting
    GATE.back_up()
    asked("backup")
    assert reached.wait(SECONDS)
    SERVICE[0].kill()
    SERVICE[0].communicate()
    go_on.set()
    GATE.before_put = lambda count: 200
    until(lambda: mounted() == before, "the mover's end")
    left = ours()
    assert left, left
    # One of somebody who has looked into a snapshot of ours: mounted, and so in use.
    sh(f"ls /srv/data/.zfs/snapshot/{left[-1].partition('@')[2]} || true")
    SERVICE[:] = [agent("daemon")]
    until(lambda: not ours(), "cleaning up")
    assert sh("zfs list -H -o name -t snapshot -r tank").split("\n") == ["tank/data@daily", "tank/off/child@daily"]
    GATE.back_up()
    done(asked("backup"))
    assert not ours()
    print(f"      {left}")


def sound() -> None:
    SERVICE[0].terminate()
    SERVICE[0].communicate(timeout=60)
    said = [line for line in log().splitlines() if " WARNING " in line or " ERROR " in line]
    print("\n".join(f"      {line}" for line in said[-10:]))
    sh("zfs destroy -r tank/off/child; zfs release theirs tank/data@daily; zfs destroy tank/data@daily")
    sh("umount /srv/zagain; umount /srv/legacy; umount /srv/vol; zpool export tank")


STEPS: tuple[Callable[[], None], ...] = (
    *(pool, enrolled, backup_while_written_to, of_one_moment, killed, unchanged, restored, sound),
)

if __name__ == "__main__":
    try:
        for step in STEPS:
            begun = time.monotonic()
            step()
            print(f"LAB-OK {step.__name__} {time.monotonic() - begun:.1f} s", flush=True)
    except BaseException:
        traceback.print_exc()
        print(log()[-4000:], flush=True)
        sys.exit(1)
    print("LAB-PASSED", flush=True)
