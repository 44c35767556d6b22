"""LVM's programs with real state: volumes are files, what differs is found by comparing them, faults on demand.

    fake_lvm.py FOLDER PROGRAM ARGUMENT...      what the wrapper of each program calls

FOLDER has `state.json`, written as a whole, `data/` with the content of each volume, and `dev/GROUP/` with a link to it
for each one that is active. It refuses what LVM refuses.
"""

from __future__ import annotations

import json
import os
import sys

BLOCK = 65536
PROGRAMS = ("lvs", "vgs", "lvcreate", "lvchange", "lvremove", "dmsetup", "thin_delta", "thin_dump")


class Refused(Exception):
    """The message of a failure."""


class Fake:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        with open(f"{folder}/state.json") as file:
            self.state = json.load(file)
        self.volumes: dict[str, dict] = self.state["volumes"]

    def save(self) -> None:
        beside = f"{self.folder}/state.new"
        with open(beside, "w") as file:
            json.dump(self.state, file)
        os.replace(beside, f"{self.folder}/state.json")

    def content(self, name: str) -> str:
        return f"{self.folder}/data/{name}"

    def read(self, name: str) -> bytes:
        with open(self.content(name), "rb") as file:
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        with open(self.content(name), "wb") as file:
            file.write(content)

    def link(self, name: str, *, active: bool) -> None:
        link = f"{self.folder}/dev/{self.state['group']}/{name}"
        if os.path.lexists(link):
            os.unlink(link)
        if active:
            os.symlink(self.content(name), link)

    def one(self, whole: str) -> dict:
        group, _, name = whole.partition("/")
        if group != self.state["group"] or name not in self.volumes:
            raise Refused(f"Failed to find logical volume {whole!r}")
        return self.volumes[name]

    def vgs(self, args: list[str]) -> str:
        return json.dumps({"report": [{"vg": [{"vg_free": str(self.state["free"])}]}]})

    def lvs(self, args: list[str]) -> str:
        if args[-1] == "vg_name,lv_name,lv_kernel_major,lv_kernel_minor":
            rows = [
                {
                    "vg_name": self.state["group"],
                    "lv_name": name,
                    "lv_kernel_major": "253",
                    "lv_kernel_minor": str(number),
                }
                for number, name in enumerate(self.volumes)
            ]
            return json.dumps({"report": [{"lv": rows}]})
        if args[-1] != self.state["group"]:
            raise Refused(f'Volume group "{args[-1]}" not found')
        rows = []
        for name, one in self.volumes.items():
            full = {"data_percent": str(self.state["data_percent"]), "metadata_percent": "1.5"}
            pool = {"chunk_size": str(BLOCK), "kernel_discards": "passdown", "lv_attr": "twi-aotz--", **full}
            volume = {"chunk_size": "0", "kernel_discards": "", "lv_attr": "Vwi-a-tz--"}
            rows.append(
                {
                    "lv_name": name,
                    "lv_uuid": one["uuid"],
                    "pool_lv": one["pool"],
                    "origin": one["origin"],
                    "thin_id": str(one["id"] or ""),
                    "lv_size": str(one["size"]),
                    "lv_active": "active" if one["active"] else "",
                    "lv_device_open": "open" if one["open"] else "",
                    "data_percent": "",
                    "metadata_percent": "",
                    **(pool if one["is_pool"] else volume),
                    **one.get("told", {}),
                }
            )
        return json.dumps({"report": [{"lv": rows}]})

    def lvcreate(self, args: list[str]) -> None:
        name, target = args[args.index("--name") + 1], self.one(args[-1])
        if name in self.volumes:
            raise Refused(f'Logical Volume "{name}" already exists in volume group')
        self.state["next"] += 1
        one = {"uuid": f"u{self.state['next']}", "id": self.state["next"], "is_pool": False, "open": False}
        if "--snapshot" in args:
            origin = args[-1].partition("/")[2]
            self.write(name, self.read(origin))
            if ("--size" in args) == bool(target["pool"]):
                raise Refused("Snapshots of thin volumes have no size of their own, others need one")
            if "--size" in args:
                self.state["free"] -= int(args[args.index("--size") + 1].rstrip("b"))
            is_classic = not target["pool"]
            one |= {"pool": target["pool"], "origin": origin, "size": target["size"], "active": is_classic}
            self.volumes[name] = one
            self.link(name, active=is_classic)
        else:
            size = int(args[args.index("--virtualsize") + 1].rstrip("b"))
            self.write(name, bytes(size))
            self.volumes[name] = one | {"pool": args[-1].partition("/")[2], "origin": "", "size": size, "active": True}
            self.link(name, active=True)

    def lvchange(self, args: list[str]) -> None:
        one, name = self.one(args[-1]), args[-1].partition("/")[2]
        if one["origin"] and not one["pool"]:
            raise Refused(f"Change of snapshot {args[-1]} will also change its origin. Proceed? [y/n]: [n]")
        one["active"] = args[args.index("--activate") + 1] == "y"
        self.link(name, active=one["active"])

    def lvremove(self, args: list[str]) -> None:
        name = args[-1].partition("/")[2]
        if self.one(args[-1])["open"]:
            raise Refused(f"Logical volume {args[-1]} in use.")
        del self.volumes[name]
        self.link(name, active=False)
        os.unlink(self.content(name))

    def dmsetup(self, args: list[str]) -> str:
        if args[0] == "status":
            held = self.state["held"] or "-"
            return f"0 2048 thin-pool 1 10/1024 5/320 {held} rw discard_passdown queue_if_no_space - 1024"
        wanted = {"reserve_metadata_snap": ("", "77"), "release_metadata_snap": ("77", "")}[args[3]]
        if self.state["held"] != wanted[0]:
            raise Refused(f"device-mapper: message ioctl on {args[1]} failed: Device or resource busy")
        self.state["held"] = wanted[1]
        return ""

    def by_id(self, text: str) -> bytes:
        if self.state["held"] != "77":
            raise Refused("no current metadata snap")
        [name] = [name for name, one in self.volumes.items() if one["id"] == int(text)]
        return self.read(name)

    def thin_delta(self, args: list[str]) -> str:
        before, after = (self.by_id(args[args.index(name) + 1]) for name in ("--thin1", "--thin2"))
        lines = []
        for number in range(-(-len(after) // BLOCK)):
            old, new = (data[number * BLOCK : (number + 1) * BLOCK] for data in (before, after))
            word = "same" if any(new) else ""
            if old != new:
                word = "different" if any(old) and any(new) else "right_only" if any(new) else "left_only"
            if word:
                lines.append(f'    <{word} begin="{number}" length="1"/>')
        return _xml(lines)

    def unwritten(self, number: str) -> bytes:
        """What is read where the pool has nothing: of the volume outside of it that the origins lead to, else zeros."""
        [one] = [one for one in self.volumes.values() if one["id"] == int(number)]
        pool, name = one["pool"], ""
        while one["pool"] == pool and one["origin"]:
            name = one["origin"]
            one = self.volumes[name]
        return self.read(name) if one["pool"] != pool else b""

    def thin_dump(self, args: list[str]) -> str:
        number = args[args.index("--dev-id") + 1]
        data, below = self.by_id(number), self.unwritten(number).ljust(1 << 24, b"\0")
        places = range(0, len(data), BLOCK)
        blocks = [at // BLOCK for at in places if data[at : at + BLOCK] != below[at : min(at + BLOCK, len(data))]]
        lines = [f'    <single_mapping origin_block="{number}" data_block="{number}" time="0"/>' for number in blocks]
        if blocks == list(range(len(blocks))) and len(blocks) > 1:
            lines = [f'    <range_mapping origin_begin="0" data_begin="9" length="{len(blocks)}" time="0"/>']
        head = f'  <device dev_id="{number}" mapped_blocks="{len(blocks)}" transaction="0" creation_time="0">'
        return _xml([head, *lines, "  </device>"])


def _xml(lines: list[str]) -> str:
    head = f'<superblock uuid="" time="1" transaction="2" data_block_size="{BLOCK // 512}" nr_data_blocks="0">'
    return "\n".join([head, *lines, "</superblock>"])


def make(folder: str, *, group: str) -> None:
    """A group with a pool, and a wrapper for each program in `bin/`."""
    for name in ("data", f"dev/{group}", "bin"):
        os.makedirs(f"{folder}/{name}")
    pool = {"uuid": "u0", "id": 0, "pool": "", "origin": "", "size": 1 << 30, "active": True, "open": False}
    volumes = {"pool": {**pool, "is_pool": True}}
    state = {"group": group, "next": 0, "held": "", "data_percent": 10.0, "free": 1 << 30, "volumes": volumes}
    with open(f"{folder}/state.json", "w") as file:
        json.dump(state, file)
    for name in PROGRAMS:
        wrapper = f"{folder}/bin/{name}"
        with open(wrapper, "w") as file:
            file.write(f'#!/bin/sh\nexec "{sys.executable}" -ISE "{__file__}" "{folder}" {name} "$@"\n')
        os.chmod(wrapper, 0o755)


def main() -> int:
    fake = Fake(sys.argv[1])
    try:
        told = getattr(fake, sys.argv[2])(sys.argv[3:])
    except Refused as error:
        print(f"  {error}", file=sys.stderr)
        return 5
    fake.save()
    if told:
        print(told)
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
