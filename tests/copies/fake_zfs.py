"""A `zfs` that keeps real state in a JSON file: pools as dictionaries, streams with checks, faults on demand.

    fake_zfs.py STATE verb ...          what a host's wrapper script calls

`content` of a dataset is a text; a stream carries that of its snapshot. In the state, `faults` maps a verb to what
happens at its next call: `fail`, `cut` (half a stream) or `package` (a stream with properties).
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
from itertools import pairwise
from pathlib import Path

MODERN = """usage:
\tlist [-Hp] [-r|-d max]
\tbookmark <snapshot> <bookmark>
\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]
\tsend [-nVvPe] -t <receive_resume_token>
\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ... <filesystem>
\treceive -A <filesystem|volume>
"""
OLD = "usage:\n\tlist [-rH]\n\tsend [-RDp] [-[iI] snapshot] <snapshot>\n\treceive [-vnFu] <filesystem>\n"


HEAD = 312
OWNER = "backupsite:disk"
# What nobody sets.
READ_ONLY = {"encryption", "type"}


class Refused(Exception):
    """The message of a failure."""


class Fake:
    def __init__(self, state: dict) -> None:
        self.state = state
        self.sets: dict[str, dict] = state["sets"]
        self.said: list[str] = []

    def say(self, *lines: object) -> None:
        self.said += [f"{line}\n" for line in lines]

    def dataset(self, name: str) -> dict:
        if name not in self.sets:
            raise Refused(f"cannot open '{name}': dataset does not exist")
        return self.sets[name]

    def snapshot_of(self, whole: str) -> dict:
        name, _, snap = whole.partition("@")
        found = self.dataset(name)["snapshots"].get(snap)
        if found is None:
            raise Refused(f"could not find any snapshots to send/destroy: '{whole}' does not exist")
        return found

    def guid(self) -> str:
        self.state["guid"] += 1
        return str(self.state["base"] + self.state["guid"])

    # --- verbs --------------------------------------------------------------------------------------------------------

    def list(self, args: list[str]) -> None:
        target, kind = args[-1], args[args.index("-t") + 1] if "-t" in args else ""
        if kind == "filesystem,volume":
            self.dataset(target)
            self.say(*[name for name in sorted(self.sets) if name == target or name.startswith(target + "/")])
        elif kind:
            mark = {"snapshot": "@", "bookmark": "#"}[kind]
            rows = self.dataset(target)[kind + "s"].items()
            for name, one in sorted(rows, key=lambda row: row[1]["txg"]):
                size = f"\t{len(one['content'])}" if "written" in args[args.index("-o") + 1] else ""
                disk = one["props"].get(OWNER) or self.inherited(OWNER, f"{target}@{name}")
                self.say(f"{target}{mark}{name}\t{one['guid']}\t{disk}{size}")
        elif "@" in target:
            self.snapshot_of(target)
            self.say(target)
        else:
            self.dataset(target)
            self.say(target)

    def get(self, args: list[str]) -> None:
        of, name = args[-2:]
        if "-s" in args:
            self.get_own(args, of, name)
            return
        one = self.snapshot_of(name) if "@" in name else self.dataset(name)
        if of == "receive_resume_token":
            self.say(json.dumps(one["partial"]["token"]).encode().hex() if one.get("partial") else "-")
        elif of == "written":
            newest = max(one["snapshots"].values(), key=lambda row: row["txg"], default={"content": None})
            self.say(0 if newest["content"] == one["content"] else 1)
        elif of == "available":
            self.say(self.state.get("available", 1 << 40))
        elif of == "used":
            self.say(self.state.get("used", 0))
        elif of == "referenced":
            self.say(len(one["content"]))
        else:
            self.say(one["props"].get(of) or self.inherited(of, name))

    def get_own(self, args: list[str], of: str, name: str) -> None:
        """What is set on the dataset itself, or on those below it."""
        self.dataset(name)
        below = [one for one in sorted(self.sets) if one == name or ("-r" in args and one.startswith(f"{name}/"))]
        columns = args[args.index("-o") + 1].split(",")
        for one in below:
            for prop, value in sorted(self.sets[one]["props"].items()):
                if of in {"all", prop} and prop not in READ_ONLY:
                    row = {"name": one, "property": prop, "value": value}
                    self.say("\t".join(row[column] for column in columns))

    def inherited(self, of: str, name: str) -> str:
        """What people name themselves holds for all below, snapshots too."""
        above = [one for one in self.sets if name.startswith((f"{one}/", f"{one}@")) and of in self.sets[one]["props"]]
        return self.sets[max(above, key=len)]["props"][of] if above and ":" in of else "-"

    def set(self, args: list[str]) -> None:
        key, _, value = args[0].partition("=")
        one = self.snapshot_of(args[1]) if "@" in args[1] else self.dataset(args[1])
        one["props"][key] = value

    def inherit(self, args: list[str]) -> None:
        self.dataset(args[1])["props"].pop(args[0], None)

    def create(self, args: list[str]) -> None:
        self.sets[args[-1]] = new_set()

    def snapshot(self, args: list[str]) -> None:
        name, _, snap = args[-1].partition("@")
        one, key, value = self.dataset(name), *args[args.index("-o") + 1].split("=")
        if snap in one["snapshots"]:
            raise Refused("dataset already exists")
        one["snapshots"][snap] = self.point(one["content"], {key: value})

    def point(self, content: str, props: dict, guid: str = "") -> dict:
        self.state["txg"] += 1
        return {"guid": guid or self.guid(), "txg": self.state["txg"], "content": content, "props": props, "holds": []}

    def hold(self, args: list[str]) -> None:
        self.snapshot_of(args[1])["holds"].append(args[0])

    def release(self, args: list[str]) -> None:
        holds = self.snapshot_of(args[1])["holds"]
        if args[0] not in holds:
            raise Refused("no such tag on this dataset")
        holds.remove(args[0])

    def bookmark(self, args: list[str]) -> None:
        name, _, mark = args[1].partition("#")
        self.dataset(name)["bookmarks"][mark] = {**self.snapshot_of(args[0]), "content": "", "props": {}}

    def destroy(self, args: list[str]) -> None:
        target = args[-1]
        if "@" in target:
            one = self.snapshot_of(target)
            if one["holds"]:
                raise Refused("dataset is busy")
            name, _, snap = target.partition("@")
            del self.sets[name]["snapshots"][snap]
        elif "#" in target:
            name, _, mark = target.partition("#")
            del self.sets[name]["bookmarks"][mark]
        else:
            below = [name for name in self.sets if name == target or name.startswith(target + "/")]
            if "-r" not in args and (len(below) > 1 or self.dataset(target)["snapshots"]):
                raise Refused("filesystem has children")
            if any(one["holds"] for name in below for one in self.sets[name]["snapshots"].values()):
                raise Refused("dataset is busy")
            for name in below:
                del self.sets[name]

    def rollback(self, args: list[str]) -> None:
        name, _, snap = args[0].partition("@")
        one = self.dataset(name)
        if self.snapshot_of(args[0])["txg"] != max(row["txg"] for row in one["snapshots"].values()):
            raise Refused("cannot rollback: more recent snapshots or bookmarks exist")
        one["content"] = one["snapshots"][snap]["content"]

    def rename(self, args: list[str]) -> None:
        old, new = args
        self.dataset(old)
        if new in self.sets:
            raise Refused("dataset already exists")
        for name in [name for name in self.sets if name == old or name.startswith(old + "/")]:
            self.sets[new + name[len(old) :]] = self.sets.pop(name)

    def send(self, args: list[str], version: int = 1) -> bytes:
        if "-t" in args:
            header = json.loads(bytes.fromhex(args[args.index("-t") + 1]))
            if "-n" in args:
                self.say(f"\ttoname = {header['name']}\nfull\t{header['name']}\t1000")
                return b""
            one, skip = self.snapshot_of(header["name"]), header["done"]
        else:
            one, skip = self.snapshot_of(args[-1]), 0
            header = {"name": args[-1], "guid": one["guid"], "from": "", "done": 0}
            # Keys are never loaded here.
            header["encryption"] = self.sets[args[-1].partition("@")[0]]["props"].get("encryption", "off")
            if header["encryption"] != "off" and "-w" not in args:
                raise Refused(f"cannot send {args[-1]}: dataset key must be loaded")
            if "-n" in args:
                self.say(f"full\t{args[-1]}\t{len(one['content'])}", f"size\t{len(one['content'])}")
                return b""
            if "-i" in args:
                header["from"] = self.origin(args[-1], args[args.index("-i") + 1])
        body = one["content"].encode()[skip:]
        kind = 3 if self.sets[header["name"].partition("@")[0]]["props"].get("type") == "volume" else 2
        head = struct.pack("<8xQQQI", 0x2F5BACBAC, version, 0, kind).ljust(HEAD, b"\0")
        return head + json.dumps({**header, "done": skip}).encode() + b"\n" + body + b"\nEND"

    def origin(self, whole: str, given: str) -> str:
        name = whole.partition("@")[0]
        if given.startswith("@"):
            return self.snapshot_of(name + given)["guid"]
        dataset, _, mark = given.partition("#")
        return self.dataset(dataset)["bookmarks"][mark]["guid"]

    def receive(self, args: list[str], stream: bytes) -> None:
        target = args[-1]
        if "-A" in args:
            one = self.dataset(target)
            if not one.pop("partial", None):
                raise Refused("does not have any resumable receive state to abort")
            if not one["snapshots"]:
                del self.sets[target]
            return
        head, found, rest = stream[HEAD:].partition(b"\n")
        header = json.loads(head) if found else {}
        there = self.sets.get(target)
        props = dict(value.split("=", 1) for option, value in pairwise(args) if option == "-o")
        if self.state.get("denied") in props:
            raise Refused(f"cannot receive: permission denied: {self.state['denied']}")
        self.check(target, header, there)
        if not rest.endswith(b"\nEND"):
            if "-s" in args and header:
                one = self.sets.setdefault(target, new_set())
                one["props"].update(props)
                done = header["done"] + len(rest)
                begun = one.get("partial", {"data": ""})["data"]
                one["partial"] = {"token": {**header, "done": done}, "data": begun + rest.decode()}
            raise Refused("cannot receive: failed to read from stream: incomplete stream")
        begun = there["partial"]["data"] if there and there.get("partial") else ""
        one = self.sets.setdefault(target, new_set())
        one.pop("partial", None)
        one["content"] = begun + rest[: -len(b"\nEND")].decode()
        one["props"].update({**props, "encryption": header["encryption"]})
        if struct.unpack_from("<I", stream, 32) == (3,):
            one["props"]["type"] = "volume"
        snap = header["name"].partition("@")[2]
        one["snapshots"][snap] = self.point(one["content"], {}, header["guid"])

    def check(self, target: str, header: dict, there: dict | None) -> None:
        if not header:
            raise Refused("cannot receive: failed to read from stream")
        if there is None:
            if header["from"]:
                raise Refused(f"cannot receive: destination '{target}' does not exist")
            if target.rpartition("/")[0] not in self.sets:
                raise Refused(f"cannot open '{target}': parent does not exist")
            return
        newest = max(there["snapshots"].values(), key=lambda one: one["txg"], default=None)
        if there.get("partial") and not header["done"]:
            raise Refused("destination contains partially-complete state")
        if not header["from"] and not header["done"]:
            raise Refused(f"cannot receive new filesystem stream: destination '{target}' exists")
        if header["from"] and (newest is None or newest["guid"] != header["from"]):
            raise Refused("cannot receive incremental stream: most recent snapshot does not match incremental source")
        if newest is not None and newest["content"] != there["content"]:
            raise Refused(f"cannot receive: destination {target} has been modified since most recent snapshot")


def new_set(content: str = "", **props: str) -> dict:
    return {"content": content, "props": dict(props), "snapshots": {}, "bookmarks": {}}


def call(path: str, verb: str, args: list[str], stream: bytes = b"") -> tuple[int, bytes, str]:
    """Exit status, standard output, standard error."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(Path(path).read_text())
        state["calls"].append(verb)
        # What is only asked how long it would be has no stream to cut.
        fault = "" if verb == "send" and "-n" in args else state["faults"].pop(verb, "")
        fake = Fake(state)
        code, out, words = 0, b"", ""
        try:
            if verb == "-?":
                return 2, b"", MODERN if state["modern"] else OLD
            if fault == "fail":
                raise Refused("internal error: out of luck")
            more = {"receive": [stream], "send": [2 if fault == "package" else 1]}.get(verb, [])
            out = getattr(fake, verb)(args, *more) or b""
        except Refused as refused:
            code, words = 1, f"cannot {verb}: {refused}"
        # A pool is written as a whole: who is killed on the way here, as a canceled receiver is, changed nothing.
        Path(f"{path}.new").write_text(json.dumps(state))
        os.replace(f"{path}.new", path)
    if fault == "cut":
        code, out, words = 1, out[: len(out) * 2 // 3], "warning: cannot send: signal received"
    return code, "".join(fake.said).encode() + out, words


def main() -> None:
    path, verb, *args = sys.argv[1:]
    stream = sys.stdin.buffer.read() if verb == "receive" and "-A" not in args else b""
    code, out, words = call(path, verb, args, stream)
    sys.stdout.buffer.write(out)
    sys.stdout.flush()
    print(words, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
