"""Runs Dataset and File backups between two guests with real OpenZFS, over SSH with a pinned host key.

    make lab-zfs       builds what is missing (6 minutes the first time), then runs this (8 to 16 minutes)

Each guest is an emulated machine of its own with one disk. What is run here is the drivers' own code; only the pools
and their content are made by hand. Every step says what it proves, and how long it took; the first that fails ends it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agents.drivers import zfs_sets
from agents.drivers.base import DiskBusyError, DiskFullError, DriverError
from agents.drivers.copy_files import CopyPlace, CopySpec, read_copy, write_copy
from agents.drivers.zfs_commands import OWNER, UNFINISHED, Host, HostUnreachableError, StreamCutError, ZfsError
from agents.drivers.zfs_head import StreamRefusedError
from agents.drivers.zfs_sets import (
    Base,
    SendWish,
    SentSet,
    drop_unfinished,
    finish_set,
    forget_points,
    remove_set,
    send_set,
)
from agents.drivers.zfs_streams import receive, sent
from agents.drivers.zfs_swap import SwapWish, restore_set, settle_swap, swap_in
from engine.waiting import never_cancel

LAB = Path(__file__).resolve().parents[2] / "var" / "lab"
GUEST = LAB / "guest"
DISK_MIB = 768
DISK = "disk-1"
MEMORY_MIB = 640
READY_SECONDS = 180


class Guest:
    """One emulated machine."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.log = LAB / f"{name}.log"
        self.known_hosts = LAB / f"{name}.known_hosts"
        key = (GUEST / "host_key.pub").read_text().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{port} {key}\n")
        self.host = Host.over_ssh(
            user="root",
            address="127.0.0.1",
            port=port,
            key_path=str(GUEST / "id"),
            known_hosts_path=str(self.known_hosts),
        )

    @contextmanager
    def running(self) -> Iterator[Guest]:
        disk = LAB / f"{self.name}.disk"
        _partition(disk)
        self.log.unlink(missing_ok=True)
        process = subprocess.Popen(self._command(disk))
        try:
            self._wait_for_ready(process)
            yield self
        finally:
            process.kill()
            process.wait()
            disk.unlink()

    def _command(self, disk: Path) -> list[str]:
        kernel = "console=ttyS0 quiet panic=-1 edd=off mitigations=off spl.spl_hostid=0x1234"
        return [
            *("nice", "qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY_MIB), "-display", "none", "-no-reboot"),
            *("-monitor", "none", "-serial", f"file:{self.log}"),
            *("-kernel", str(GUEST / "vmlinuz"), "-initrd", str(GUEST / "initramfs.gz"), "-append", kernel),
            *("-drive", f"file={disk},if=virtio,format=raw,discard=unmap"),
            *("-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
            *("-device", "virtio-rng-pci"),
        ]

    def _wait_for_ready(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if self.log.exists() and b"GUEST-READY" in self.log.read_bytes():
                with suppress(HostUnreachableError):
                    self.sh("true")
                    return
            time.sleep(0.2)
        raise SystemExit(f"the guest {self.name} did not start; see {self.log}")

    def sh(self, line: str) -> str:
        """A line for the guest's own shell: what a person does there."""
        done = subprocess.run([*self.host.ssh, line], capture_output=True, text=True, timeout=300)
        if done.returncode == 255:
            raise HostUnreachableError(done.stderr)
        if done.returncode:
            raise SystemExit(f"{self.name}: {line}: {done.stderr}")
        return done.stdout.strip()


def _partition(disk: Path) -> None:
    """One partition, so that `zpool create` needs no udev."""
    sectors = DISK_MIB * 2048
    entry = b"\0\xfe\xff\xff\x83\xfe\xff\xff" + (2048).to_bytes(4, "little") + (sectors - 2048).to_bytes(4, "little")
    with open(disk, "wb") as file:
        file.truncate(sectors * 512)
        file.seek(446)
        file.write(entry)
        file.seek(510)
        file.write(b"\x55\xaa")


class Lab:
    """The steps, in their order: each goes on from what the one before left."""

    def __init__(self, source: Guest, target: Guest) -> None:
        self.source, self.target = source, target
        self.a, self.b = source.host, target.host
        self.sent: dict[str, list[SentSet]] = {}
        self.count = 0

    def send(self, dataset: str, *, counts: bool = True, **changes: object) -> SentSet:
        """The next backup of the dataset, as the control plane would ask for it. `counts`: it is told of it."""
        self.count += 1
        earlier = self.sent.setdefault(dataset, [])
        names = [one.place.partition("@")[2] for one in earlier]
        wish = SendWish(
            source=dataset,
            disk=DISK,
            snapshot=f"bs-{self.count}",
            chain=f"bak/copies/{dataset.rpartition('/')[2]}-{self.count}",
            bases=[Base(one.place, one.guid) for one in earlier],
            kept=frozenset(names[:1]),
            known=frozenset(names),
        )
        wish = replace(wish, **changes)  # type: ignore[arg-type]  # of SendWish
        done = send_set(self.a, self.b, wish)
        if counts:
            finish_set(self.b, done.place)
            earlier.insert(0, done)
        print(f"      {done.place} {done.full_reason or 'incremental'}: {done.moved_bytes} bytes moved")
        return done

    # --- steps --------------------------------------------------------------------------------------------------------

    def pools(self) -> None:
        self.source.sh("zpool create -f -O compression=lz4 -O mountpoint=/src src /dev/vda1")
        self.target.sh("zpool create -f -O mountpoint=none bak /dev/vda1")
        self.source.sh("zfs create src/ds; zfs create -s -V 64M src/vol")
        self.source.sh("for i in 1 2 3; do head -c 8000000 /dev/urandom > /src/ds/f$i; done; echo one > /src/ds/t")
        self.source.sh("head -c 8000000 /dev/urandom > /dev/zd0; sync")
        print(f"      {self.a.abilities}")
        assert self.a.abilities == self.b.abilities and self.a.abilities.resumes and self.a.abilities.raw

    def dataset_full_and_incremental(self) -> None:
        first = self.send("src/ds")
        self.source.sh("echo two > /src/ds/t; head -c 300000 /dev/urandom > /src/ds/small; sync")
        second = self.send("src/ds")
        assert (first.full_reason, second.full_reason) == ("first_backup", "")
        assert first.moved_bytes > 24_000_000 and second.moved_bytes < 1_000_000, (first, second)
        assert 0 < second.written_bytes < 1_000_000
        assert self.a.stream_bytes(["-i", "@bs-1", "src/ds@bs-2"]) > 300_000
        unchanged = self.send("src/ds")
        assert unchanged.full_reason == "" and unchanged.moved_bytes < 65536, unchanged
        assert [one.name for one in self.a.snapshots("src/ds")] == ["bs-2", "bs-3"]
        assert [one.name for one in self.a.bookmarks("src/ds")] == ["bs-1"]

    def received_does_nothing(self) -> None:
        """A hostile source: properties that would mount, share and run. Nothing of it holds on the backup node."""
        hostile = ("mountpoint=/src/ds", "canmount=on", "setuid=on", "exec=on", "devices=on", "snapdir=visible")
        self.source.sh("; ".join(f"zfs set {one} src/ds" for one in hostile))
        chain = self.send("src/ds").place.partition("@")[0]
        names = ("canmount", "mountpoint", "sharenfs", "sharesmb", "exec", "setuid", "devices", "readonly")
        found = {name: self.b.own_value(chain, name) for name in names}
        assert set(found.values()) == {"off", "none", "on"} and found["mountpoint"] == "none", found
        assert (found["readonly"], self.b.value(chain, "snapdir")) == ("on", "hidden"), found
        refused = 0
        for arguments in (["-p", "src/ds@bs-3"], ["-R", "src/ds@bs-3"]):
            try:
                stream = sent(self.a, arguments, cancel=never_cancel)
                receive(self.b, "bak/copies/hostile", stream, options=lambda _: [], cancel=never_cancel)
            except StreamRefusedError:
                refused += 1
        assert refused == 2 and not self.b.exists("bak/copies/hostile")
        # Even where one comes through: told not to take them, the program takes none.
        line = "receive -u -o canmount=off -o mountpoint=none -o setuid=off -x exec -x snapdir bak/copies/hostile"
        stream = b"".join(sent(self.a, ["-p", "src/ds@bs-3"], cancel=never_cancel))
        subprocess.run([*self.b.ssh, f"zfs {line}"], input=stream, check=True, timeout=300)
        told = self.b.own_values("bak/copies/hostile")
        assert told == {"canmount": "off", "mountpoint": "none", "setuid": "off"}, told
        self.target.sh("zfs mount -a; zfs destroy -r bak/copies/hostile")
        assert self.target.sh("mount | grep -c ' zfs ' || true") == "0", self.target.sh("mount")
        self.source.sh(
            "for one in mountpoint canmount setuid exec devices snapdir; do zfs inherit -S $one src/ds; done"
        )

    def killed_before_anybody_was_told(self) -> None:
        """A whole backup, and half a first one, whose worker was killed: told apart from what counts, and removed."""
        before = self.sent["src/ds"][0]
        orphan = self.send("src/ds", counts=False)
        chain, _, name = orphan.place.partition("@")
        assert self.b.own_values_below("bak", UNFINISHED) == {chain: name}
        # The next backup goes on from the one before, as if it had never been.
        self.source.sh("echo three > /src/ds/t; sync")
        after = self.send("src/ds")
        assert after.full_reason == "" and after.place.startswith(before.place.partition("@")[0]), after
        assert name not in [one.name for one in self.b.snapshots(chain)]
        real, undo, most = zfs_sets.receive, zfs_sets._undo, zfs_sets.MOST_RESUMES

        def cutting(host: Host, dataset: str, steps: Iterator[bytes], **options: object) -> int:
            def cut() -> Iterator[bytes]:
                count = 0
                for step in steps:
                    yield step
                    count += len(step)
                    if count > 3_000_000:
                        raise StreamCutError("cut by the lab")

            return real(host, dataset, cut(), **options)  # type: ignore[arg-type]  # passed on

        zfs_sets.receive, zfs_sets._undo = cutting, lambda *_: None  # type: ignore[assignment]  # for one step
        zfs_sets.MOST_RESUMES = 0
        try:
            with suppress(StreamCutError):
                self.send("src/vol", chain="bak/copies/killed", bases=[])
        finally:
            zfs_sets.receive, zfs_sets._undo, zfs_sets.MOST_RESUMES = real, undo, most
        name = f"bs-{self.count}"
        assert self.b.own_values_below("bak", UNFINISHED) == {"bak/copies/killed": name}
        assert self.b.resume_token("bak/copies/killed") and self.b.own_value("bak/copies/killed", OWNER) == DISK
        assert drop_unfinished(self.b, "bak/copies/killed", known=frozenset()) == name
        assert not self.b.exists("bak/copies/killed")
        self.a.destroy_own("src/vol", name)

    def full_pool(self) -> None:
        """Said with numbers before a byte is sent; nothing is left on either side."""
        self.target.sh("zfs create -o quota=1M -o mountpoint=none bak/small")
        free = int(self.b.value("bak/small", "available"))
        newest = self.sent["src/ds"][0].place.partition("@")[2]
        estimated = self.a.stream_bytes(["-L", "-e", "-c", f"src/ds@{newest}"])
        assert 0 < free < 1 << 20 < 24_000_000 < estimated < 30_000_000, (free, estimated)
        try:
            self.send("src/ds", chain="bak/small/ds", bases=[])
        except DiskFullError as error:
            print(f"      {error.message}")
        else:
            raise AssertionError("a full pool was not seen")
        assert self.b.datasets_below("bak/small") == ["bak/small"]
        assert not any(one.name == f"bs-{self.count}" for one in self.a.snapshots("src/ds"))
        self.target.sh("zfs destroy bak/small")

    def volume(self) -> None:
        self.send("src/vol")
        self.source.sh("dd if=/dev/urandom of=/dev/zd0 bs=64k count=2 seek=40 conv=notrunc 2>/dev/null; sync")
        second = self.send("src/vol")
        assert second.full_reason == "" and second.moved_bytes < 2_000_000, second
        chain = second.place.partition("@")[0]
        assert self.b.value(chain, "volsize") == str(64 << 20)
        # On the backup node it is no device, which the system there would look into.
        assert self.b.own_value(chain, "volmode") == "none" and self.target.sh("ls /dev | grep -c '^zd' || true") == "0"

    def resume_after_a_cut(self) -> None:
        """The receiving SSH connection is cut in the middle; the rest is sent, and not the whole again."""
        self.source.sh("head -c 12000000 /dev/urandom > /src/ds/big; sync")
        real, seen = zfs_sets.receive, []

        def cutting(host: Host, dataset: str, steps: Iterator[bytes], **options: object) -> int:
            def cut() -> Iterator[bytes]:
                count = 0
                for step in steps:
                    yield step
                    count += len(step)
                    if not seen and count > 5_000_000:
                        seen.append(count)
                        raise StreamCutError("cut by the lab")

            return real(host, dataset, cut(), **options)  # type: ignore[arg-type]  # passed on

        zfs_sets.receive = cutting  # type: ignore[assignment]  # for one step
        try:
            done = self.send("src/ds")
        finally:
            zfs_sets.receive = real
        assert seen and done.full_reason == "" and done.moved_bytes < 14_000_000, done

    def lost_base(self) -> None:
        """The base is gone from the source: a new chain, and the old one can still be restored."""
        self.source.sh("zfs release backupsite src/ds@bs-11; zfs destroy src/ds@bs-11")
        for one in self.a.bookmarks("src/ds"):
            self.source.sh(f"zfs destroy src/ds#{one.name}")
        done = self.send("src/ds")
        assert done.full_reason == "base_lost" and done.place.startswith("bak/copies/ds-12@"), done
        assert len(self.b.snapshots("bak/copies/ds-1")) == 6

    def target_changed(self) -> None:
        """Somebody writes to the target: nothing is rolled back, a new chain begins."""
        chain = self.sent["src/ds"][0].place.partition("@")[0]
        self.target.sh(
            f"zfs set readonly=off {chain}; mkdir -p /m; mount -t zfs -o zfsutil {chain} /m; echo x > /m/x; umount /m"
        )
        done = self.send("src/ds")
        assert done.full_reason == "target_changed", done
        assert self.b.exists(chain)

    def encrypted_raw(self) -> None:
        """A key file: a passphrase is stretched for minutes in an emulated machine."""
        key = "head -c 32 /dev/urandom > /tmp/key; zfs create -o encryption=on -o keyformat=raw"
        self.source.sh(f"{key} -o keylocation=file:///tmp/key src/enc; echo s > /src/enc/s; sync")
        self.send("src/enc")
        self.source.sh("echo more > /src/enc/more; sync")
        done = self.send("src/enc")
        chain = done.place.partition("@")[0]
        assert done.full_reason == "" and self.b.value(chain, "keystatus") == "unavailable"

    def restore(self) -> None:
        """An older backup in the place of the dataset; what was there goes. The next backup goes on from it."""
        place = self.sent["src/ds"][-2].place
        own = {"quota": str(400 << 20), "recordsize": "65536", "setuid": "off", "org.example:note": "ours"}
        self.source.sh("; ".join(f"zfs set {name}={value} src/ds" for name, value in own.items()))
        count = restore_set(self.b, place, self.a, SwapWish("src/ds", DISK, "abc1"))
        assert self.a.own_values("src/ds") == own, self.a.own_values("src/ds")
        self.source.sh("zfs mount src/ds 2>/dev/null || true")
        assert self.source.sh("cat /src/ds/t") == "two" and count > 24_000_000
        assert not any("-before-" in name or "-new-" in name for name in self.a.datasets_below("src"))
        volume = self.sent["src/vol"][0].place
        new = SwapWish("src/vol2", "disk-2", "abc2", create=True)
        restore_set(self.b, volume, self.a, new)
        assert self.a.own_value("src/vol2", OWNER) == "disk-2"
        # A worker that was killed before it could tell makes it anew; under another name nothing is touched.
        assert settle_swap(self.a, new) and not self.a.exists("src/vol2")
        restore_set(self.b, volume, self.a, new)
        try:
            restore_set(self.b, volume, self.a, SwapWish("src/vol2", "disk-9", "abc9", create=True))
        except DiskBusyError as error:
            print(f"      {error.message}")
        else:
            raise AssertionError("a dataset that is there was replaced")
        checks = [self.source.sh(f"sha256sum < {device}") for device in ("/dev/zd0", "/dev/zd16")]
        assert checks[0] == checks[1], checks

    def failed_restore_changes_nothing(self) -> None:
        before = self.source.sh("zfs list -H -o name,guid -t all -r src")
        steps = (
            step
            for number, step in enumerate(sent(self.b, [self.sent["src/ds"][-1].place], cancel=never_cancel))
            if number < 20
        )
        try:
            swap_in(self.a, SwapWish("src/ds", DISK, "abc3"), steps)
        except DriverError as error:
            print(f"      {error.code}")
        else:
            raise AssertionError("half a stream was taken")
        assert self.source.sh("zfs list -H -o name,guid -t all -r src") == before

    def file_type(self) -> None:
        """A full stream into a file of a directory storage, off and zstd, and back into a dataset."""
        folder = LAB / "storage"
        folder.mkdir(exist_ok=True)
        self.source.sh("zfs snapshot -o backupsite:disk=disk-1 src/ds@bs-file")
        hashes = self.source.sh("cat /src/ds/f* | sha256sum")
        for compression in ("off", "zstd"):
            at = CopyPlace(str(folder), "lab", f"backups/lab/ds/copy-{compression}.zfs")
            steps = sent(self.a, ["src/ds@bs-file"], cancel=never_cancel)
            made = write_copy(at, CopySpec(compression, "zfs", 0, is_first=True), steps)
            with read_copy(at, compression=compression, sha256=made.sha256, file_bytes=made.file_bytes) as read:
                swap_in(self.a, SwapWish(f"src/from-{compression}", "disk-4", "abc4", create=True), read)
            assert self.a.own_value(f"src/from-{compression}", OWNER) == "disk-4"
            self.source.sh(f"zfs mount src/from-{compression} 2>/dev/null || true")
            assert self.source.sh(f"cat /src/from-{compression}/f* | sha256sum") == hashes
            print(f"      {compression}: {made.file_bytes} bytes")

    def removal_and_sweep(self) -> None:
        """Newest first and oldest first: nothing of ours is left, and nothing of others is touched."""
        self.source.sh("zfs snapshot src/ds@daily")
        for one in [*self.sent["src/ds"], *self.sent["src/vol"], *self.sent["src/enc"]]:
            assert remove_set(self.b, one.place, disk=DISK), one
        assert self.b.datasets_below("bak") == ["bak", "bak/copies"], self.b.datasets_below("bak")
        nothing: frozenset[str] = frozenset()
        for dataset in ("src/ds", "src/vol", "src/enc"):
            forget_points(self.a, dataset, disk=DISK, kept=nothing, known=nothing)
        left = self.source.sh("zfs list -H -o name -t snapshot,bookmark -r src").split()
        assert [
            name for name in left if name.startswith(("src/ds@", "src/ds#", "src/vol@", "src/vol#", "src/enc"))
        ] == ["src/ds@daily"], left

    def pinned_key(self) -> None:
        """Another host key than the pinned one is no way in."""
        other = LAB / "other_hosts"
        key = hashlib.sha256(b"other").hexdigest()
        generated = LAB / f"other-{key[:6]}"
        for path in (generated, generated.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(generated)], check=True)
        public = generated.with_suffix(".pub").read_text().split()[:2]
        other.write_text(f"[127.0.0.1]:{self.source.port} {' '.join(public)}\n")
        host = Host.over_ssh(
            user="root",
            address="127.0.0.1",
            port=self.source.port,
            key_path=str(GUEST / "id"),
            known_hosts_path=str(other),
        )
        try:
            host.run("list")
        except HostUnreachableError as error:
            assert "verification failed" in error.message, error
        else:
            raise AssertionError("an unknown host key was accepted")
        with suppress(ZfsError):
            self.a.destroy_own("src/ds", "daily")
            raise AssertionError("a snapshot of others was destroyed")


STEPS: list[Callable[[Lab], None]] = [
    Lab.pools,
    Lab.dataset_full_and_incremental,
    Lab.received_does_nothing,
    Lab.volume,
    Lab.killed_before_anybody_was_told,
    Lab.full_pool,
    Lab.resume_after_a_cut,
    Lab.lost_base,
    Lab.target_changed,
    Lab.encrypted_raw,
    Lab.restore,
    Lab.failed_restore_changes_nothing,
    Lab.file_type,
    Lab.removal_and_sweep,
    Lab.pinned_key,
]


def main() -> None:
    begun = time.monotonic()
    with ExitStack() as stack:
        source, target = (
            stack.enter_context(Guest(name, port).running()) for name, port in (("za", 46022), ("zb", 46023))
        )
        print(f"two guests, OpenZFS {source.sh('cat /sys/module/zfs/version')}, {time.monotonic() - begun:.0f} s")
        lab = Lab(source, target)
        for step in STEPS:
            at = time.monotonic()
            step(lab)
            print(f"ok    {step.__name__.replace('_', ' ')} ({time.monotonic() - at:.1f} s)", flush=True)
    print(f"passed in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a text stream
    # The guests end with this program, also when it is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    os.chdir(LAB)
    main()
