"""Every call of `zfs` and `ssh`: argument lists, typed answers, mapped errors. Nothing else in the project runs them.

A host is this machine or one that is reached over SSH with a pinned host key; there, a forced command lets through only
what `zfs_gate` knows. Names are checked before they are put into a command.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO

from agents.drivers.base import DiskBusyError, DiskFullError, DriverError

SNAPSHOT_PREFIX = "bs-"
HOLD = "backupsite"
OWNER = "backupsite:disk"
# On a dataset of a backup node: the snapshot that is being received, or that nobody was told of yet.
UNFINISHED = "backupsite:unfinished"
CALL_SECONDS = 120
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)*")
_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")


class ZfsError(DriverError):
    """`zfs` says no, in its own words."""

    code = "zfs_failed"


class ZfsMissingError(ZfsError):
    """There is no such dataset, snapshot or bookmark."""

    code = "zfs_missing"


class ZfsDeniedError(ZfsError):
    """The user may not: see `zfs allow` in the documentation for operators."""

    code = "zfs_denied"


class ZfsModifiedError(ZfsError):
    """The receiving dataset was changed since its last snapshot. Nothing is ever rolled back for that."""

    code = "zfs_modified"


class HostUnreachableError(DriverError):
    """SSH does not get through, or the host has another key than the pinned one."""

    code = "host_unreachable"
    permanent = False


class StreamCutError(DriverError):
    """The stream ended before its end. What was received can be gone on with where both sides know how."""

    code = "stream_cut"
    permanent = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`name` is what stands behind the @ (or the #), `disk` our mark; bytes are 0 where the program does not tell."""

    name: str
    guid: str
    disk: str = ""
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the `zfs` of a host has: old ones lack all of it."""

    resumes: bool = False
    bookmarks: bool = False
    raw: bool = False
    compressed: bool = False
    written: bool = False
    # Properties can be given to `receive`.
    overrides: bool = False


@dataclass(frozen=True)
class Host:
    """Where `zfs` runs. `ssh` is the command up to the remote one; none for this machine.

    `takes_spaces`: names of datasets may have blanks, which no forced command on the other side takes.
    """

    ssh: tuple[str, ...] = ()
    program: str = "zfs"
    name: str = field(default="this machine")
    takes_spaces: bool = False

    @staticmethod
    def over_ssh(*, user: str, address: str, key_path: str, known_hosts_path: str, port: int = 22) -> Host:
        """No shared connection: one that is shared keeps a cut stream open."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": known_hosts_path,
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "ControlMaster": "no",
            "ControlPath": "none",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "ConnectTimeout": "15",
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return Host(
            ("ssh", "-F", "none", *given, "-i", key_path, "-p", str(port), "-l", user, "--", address), name=address
        )

    def command(self, *arguments: str) -> list[str]:
        """The remote side gets one line, which its forced command takes apart as a shell would."""
        words = [self.program, *arguments]
        return [*self.ssh, shlex.join(words)] if self.ssh else words

    def run(self, *arguments: str) -> str:
        done = self._done(*arguments)
        if done.returncode != 0:
            raise self.error(done.stderr, done.returncode)
        return done.stdout

    def _done(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603  # an argument list; names are checked
                self.command(*arguments), capture_output=True, text=True, timeout=CALL_SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise ZfsError(f"There is no {self.command(*arguments)[0]} on this machine.") from error
        except subprocess.TimeoutExpired as error:
            raise HostUnreachableError(f"zfs {arguments[0]} on {self.name} did not end in {CALL_SECONDS} s.") from error

    def error(self, said: str, code: int) -> DriverError:
        """What the words on standard error mean."""
        words = " ".join(said.split())[-500:]
        if self.ssh and code == 255:
            return HostUnreachableError(f"{self.name} cannot be reached: {words}")
        for kind, marks in _MEANINGS:
            if any(mark in words.lower() for mark in marks):
                return kind(f"zfs on {self.name}: {words}")
        return ZfsError(f"zfs on {self.name}: {words or f'exit status {code}'}")

    def start(self, *arguments: str, reads: bool = False) -> subprocess.Popen[bytes]:
        """A process whose stream is read, or (`reads`) that reads one. Its words are on `stderr`."""
        return subprocess.Popen(  # noqa: S603  # an argument list; names are checked
            self.command(*arguments),
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if reads else subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    # --- what is there ------------------------------------------------------------------------------------------------

    def is_there(self) -> bool:
        return bool(self.ssh) or shutil.which(self.program) is not None

    @cached_property
    def abilities(self) -> Abilities:
        """Asked once, by the words that the program has for wrong usage."""
        usage = self._usage()
        receive, send = usage.get("receive", ""), usage.get("send", "")
        return Abilities(
            resumes="-A" in receive,
            bookmarks="bookmark" in usage,
            raw="w" in _flags(send),
            compressed="c" in _flags(send),
            written="bookmark" in usage,
            overrides="-x" in receive,
        )

    def _usage(self) -> dict[str, str]:
        """Verb -> its lines of the usage message."""
        done = self._done("-?")
        found: dict[str, str] = {}
        verb = ""
        for line in (done.stdout + done.stderr).splitlines():
            words = line.split()
            if line.startswith("\t") and not line.startswith("\t\t") and not line.startswith("\t ") and words:
                verb = words[0].split("|")[0]
            found[verb] = f"{found.get(verb, '')} {line}"
        return found

    def exists(self, name: str) -> bool:
        try:
            self.run("list", "-H", "-o", "name", self._whole(name))
        except ZfsMissingError:
            return False
        return True

    def datasets_below(self, dataset: str) -> list[str]:
        """The dataset and all below it."""
        return self.run("list", "-H", "-r", "-t", "filesystem,volume", "-o", "name", self._name(dataset)).splitlines()

    def snapshots(self, dataset: str) -> list[Snapshot]:
        """Oldest first; none where the dataset is not there."""
        return self._listed(dataset, "snapshot", "@")

    def bookmarks(self, dataset: str) -> list[Snapshot]:
        return self._listed(dataset, "bookmark", "#") if self.abilities.bookmarks else []

    def _listed(self, dataset: str, kind: str, mark: str) -> list[Snapshot]:
        columns, exact = f"name,guid,{OWNER}", []
        if self.abilities.written:
            exact = ["-p", "-d", "1"]
            columns += ",written" if kind == "snapshot" else ""
        try:
            told = self.run(
                "list", "-H", *(exact or ["-r"]), "-t", kind, "-o", columns, "-s", "creation", self._name(dataset)
            )
        except ZfsMissingError:
            return []
        rows = [line.split("\t") for line in told.splitlines()]
        return [
            Snapshot(name.split(mark)[1], guid, disk, int(size[0]) if size and size[0].isdigit() else 0)
            for name, guid, disk, *size in rows
            if name.startswith(f"{dataset}{mark}")
        ]

    def snapshots_below(self, dataset: str) -> dict[str, Snapshot]:
        """All of the dataset and what is below it, by `dataset@snapshot`."""
        return {f"{name}@{one.name}": one for name in self.datasets_below(dataset) for one in self.snapshots(name)}

    def value(self, name: str, of: str) -> str:
        """A property; `-` where it is not set."""
        return self.run("get", "-H", "-p", "-o", "value", of, self._whole(name)).strip()

    def own_value(self, name: str, of: str) -> str:
        """A property that is set on just this; empty where it is not: also where one above it has it."""
        told = self.run("get", "-H", "-p", "-s", "local", "-o", "value", of, self._whole(name)).strip()
        return "" if told == "-" else told

    def own_values(self, dataset: str) -> dict[str, str]:
        """All properties that are set on just this dataset."""
        told = self.run("get", "-H", "-p", "-s", "local", "-o", "property,value", "all", self._name(dataset))
        rows = (line.partition("\t") for line in told.splitlines())
        return {name: value for name, mark, value in rows if mark}

    def own_values_below(self, dataset: str, of: str) -> dict[str, str]:
        """Dataset -> the property, of the dataset and those below it that have it themselves."""
        told = self.run("get", "-H", "-p", "-r", "-s", "local", "-o", "name,value", of, self._name(dataset))
        rows = (line.partition("\t") for line in told.splitlines())
        return {name: value for name, mark, value in rows if mark and "@" not in name}

    def stream_bytes(self, arguments: Sequence[str]) -> int:
        """How long a stream of `zfs send` will be, about; 0 where the program cannot tell."""
        if not self.abilities.written:
            return 0
        found = re.search(r"^size\s+(\d+)", self.run("send", "-n", "-v", "-P", *arguments), re.MULTILINE)
        return int(found[1]) if found else 0

    # --- what is changed ----------------------------------------------------------------------------------------------

    def snapshot(self, dataset: str, name: str, *, disk: str) -> None:
        """Marked as that of the disk, and held: a person who tidies up does not take the next backup's base."""
        self.snapshot_together([dataset], name, disk=disk)

    def snapshot_together(self, datasets: Sequence[str], name: str, *, disk: str) -> None:
        """Of datasets of one pool, all at the same moment; all of them or none, but for the holds."""
        whole = [f"{self._name(dataset)}@{own_snapshot(name)}" for dataset in datasets]
        self.run("snapshot", "-o", f"{OWNER}={disk}", *whole)
        self.run("hold", HOLD, *whole)

    def release(self, dataset: str, name: str) -> None:
        """Nothing, where it is not held."""
        try:
            self.run("release", HOLD, f"{self._name(dataset)}@{own_snapshot(name)}")
        except ZfsError as error:
            if "no such tag" not in error.message and not isinstance(error, ZfsMissingError):
                raise

    def bookmark(self, dataset: str, name: str) -> None:
        name = own_snapshot(name)
        self.run("bookmark", f"{self._name(dataset)}@{name}", f"{self._name(dataset)}#{name}")

    def destroy_own(self, dataset: str, name: str, *, mark: str = "@") -> None:
        """A snapshot (or bookmark, `#`) of ours and never anything else: no option of this call removes more."""
        if mark == "@":
            self.release(dataset, name)
        try:
            self.run("destroy", f"{self._name(dataset)}{mark}{own_snapshot(name)}")
        except ZfsMissingError:
            return

    def destroy_dataset(self, dataset: str, *, disk: str) -> None:
        """A dataset that carries our mark for this disk, with its snapshots. Raises ZfsError when it does not, and when
        other datasets are below it.
        """
        if disk in {"", "-"} or self.own_value(dataset, OWNER) != disk or self.datasets_below(dataset) != [dataset]:
            raise ZfsError(f"{dataset} was not made by us for this disk, or others are below it; it is left alone.")
        for one in self.snapshots(dataset):
            if one.name.startswith(SNAPSHOT_PREFIX):
                self.release(dataset, one.name)
        self.run("destroy", "-r", self._name(dataset))

    def is_unchanged(self, dataset: str) -> bool:
        """Whether nothing was written to it since its last snapshot; False where the program cannot tell."""
        return self.abilities.written and self.value(dataset, "written") == "0"

    def rollback_to_last(self, dataset: str, name: str) -> None:
        """To its last snapshot: without options the program refuses any other."""
        self.run("rollback", f"{self._name(dataset)}@{own_snapshot(name)}")

    def set(self, dataset: str, name: str, value: str) -> None:
        self.run("set", f"{name}={value}", self._name(dataset))

    def mark(self, snapshot: str, disk: str) -> None:
        self.run("set", f"{OWNER}={disk}", self._whole(snapshot))

    def unmark(self, dataset: str, mark: str = OWNER) -> None:
        self.run("inherit", mark, self._name(dataset))

    def rename(self, dataset: str, to: str) -> None:
        self.run("rename", self._name(dataset), self._name(to))

    def create_parents(self, dataset: str) -> None:
        """The datasets above it, which mount nothing."""
        parts = self._name(dataset).split("/")
        for depth in range(2, len(parts)):
            parent = "/".join(parts[:depth])
            if not self.exists(parent):
                self.run("create", "-o", "mountpoint=none", parent)

    def abort_receive(self, dataset: str) -> None:
        """Forget what a cut stream left in the dataset."""
        if self.abilities.resumes and self.exists(dataset) and self.resume_token(dataset):
            self.run("receive", "-A", self._name(dataset))

    def resume_token(self, dataset: str) -> str:
        if not self.abilities.resumes:
            return ""
        try:
            told = self.value(dataset, "receive_resume_token")
        except ZfsMissingError:
            return ""
        return "" if told == "-" else told

    def _name(self, dataset: str) -> str:
        """The name, when it is one. Raises ZfsError."""
        if not is_name(dataset, with_spaces=self.takes_spaces):
            raise ZfsError(f"{dataset!r} is no name of a dataset.")
        return dataset

    def _whole(self, name: str) -> str:
        """A dataset, snapshot or bookmark."""
        for mark in "@#":
            dataset, found, rest = name.partition(mark)
            if found:
                if not _SNAPSHOT.fullmatch(rest):
                    raise ZfsError(f"{name!r} is no name of a snapshot.")
                return f"{self._name(dataset)}{mark}{rest}"
        return self._name(name)


_CUT = (
    *("incomplete stream", "failed to read from stream", "checksum mismatch", "signal received", "broken pipe"),
    *("partially complete", "unexpected eof", "stream was not complete"),
)
_MEANINGS: Sequence[tuple[type[DriverError], Sequence[str]]] = (
    (ZfsModifiedError, ("has been modified",)),
    (DiskFullError, ("out of space", "no space left", "quota exceeded")),
    (ZfsDeniedError, ("permission denied", "not permitted")),
    (StreamCutError, _CUT),
    (ZfsMissingError, ("does not exist", "no such pool", "could not find any snapshots")),
    (DiskBusyError, ("busy", "in use")),
)


def own_snapshot(name: str) -> str:
    """The name, when it is one of ours. Raises ZfsError."""
    if not name.startswith(SNAPSHOT_PREFIX) or not _SNAPSHOT.fullmatch(name):
        raise ZfsError(f"{name!r} is no snapshot of ours.")
    return name


def is_name(dataset: str, *, with_spaces: bool = False) -> bool:
    """Whether it is the name of a dataset as we take them."""
    plain = dataset.replace(" ", "_") if with_spaces else dataset
    return _DATASET.fullmatch(plain) is not None and ".." not in dataset.split("/")


def _flags(usage: str) -> str:
    """The single letters that a verb takes."""
    return "".join(re.findall(r"\[-([A-Za-z]+)\]", usage))


def words_of(process: subprocess.Popen[bytes]) -> str:
    """What it said on standard error, once it has ended."""
    stream: IO[bytes] | None = process.stderr
    return stream.read().decode(errors="replace") if stream is not None else ""
