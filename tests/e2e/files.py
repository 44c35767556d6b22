"""A tree of odd files on a server of the running stack."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.conftest import PATIENCE_SECONDS, Running, far_from_now
from tests.engine.support import noise

_MAKE = """
import json
from agents.models import Node, Storage
from agents.services import add_disk, add_server
from tenants.models import Tenant
node = Node.objects.get(name="local")
storage = Storage.objects.get(node=node, name="disks")
server = add_server(tenant=Tenant.objects.get(title="Demo"), name="files", region_code="RBX", node=node, actor=None)
disk = add_disk(server=server, number=1, driver="filesystem", storage=storage, path="files", size_bytes=1, actor=None)
print(json.dumps({"disk": str(disk.pk), "path": storage.path + "/files"}))
"""


def odd_tree(root: Path) -> None:
    """Some three hundred: names that are no text, hard links, a sparse file, attributes, a tree of folders."""
    for number in range(290):
        folder = root / f"d{number % 7}" / "inner"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(noise(number * 37, f"odd{number}"))
    raw = os.fsencode(root)
    for name in (b"\xff\xfe", b"new\nline", b"-rf *", "ümläut".encode(), b" "):
        with open(raw + b"/d0/" + name, "wb") as file:
            file.write(name)
    os.link(root / "d0" / "inner" / "f7", root / "d6" / "linked")
    os.symlink(b"/nowhere/\xff", raw + b"/d1/link")
    os.mkfifo(root / "d1" / "fifo")
    with (root / "sparse").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    with suppress(OSError):  # a file system without them
        os.setxattr(root / "sparse", "user.colour", b"blue")


def tree_of(running: Running) -> tuple[Path, dict[str, Any]]:
    """The tree, old enough to be known by its times, and its definition."""
    made = json.loads(running.stack.run_manage("shell", "--no-imports", "-c", _MAKE, role="manage").splitlines()[-1])
    root = Path(made["path"])
    odd_tree(root)
    written_at = time.time()
    body = {"disk": made["disk"], "name": "files", "cron": far_from_now(), "time_zone": "UTC", "excludes": "*.tmp\n"}
    definition = running.api.post("definitions/", body)
    # A file that was changed within two seconds of being read is read again: clocks of file systems are coarse.
    running.api.wait(
        lambda: {"old": True} if time.time() > written_at + 2.2 else None,
        timeout_seconds=PATIENCE_SECONDS,
        what="time stood still",
    )
    return root, definition
