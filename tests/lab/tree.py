"""A server's files for the lab: many small ones, some large ones, and whatever a backup may stumble over."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from tests.e2e.files import odd_tree

FOLDER_FILES = 500
LARGE_BYTES = 16 << 20


def big_tree(root: Path, *, files: int, large: int) -> None:
    """`files` (2,000 at least) of up to 3 kB each, `large` ones of 16 MiB that do not compress, and odd ones."""
    noise = random.Random(1).randbytes(1 << 20)
    for number in range(files):
        folder = root / "many" / f"{number // FOLDER_FILES:04}"
        if not number % FOLDER_FILES:
            folder.mkdir(parents=True)
        start = number * 37 % 900_000
        (folder / f"file {number}").write_bytes(noise[start : start + number * 7 % 3000])
    fill(root, large)
    odd_tree(root)
    _marked(root)


def fill(root: Path, large: int) -> None:
    """The large files, anew."""
    (root / "large").mkdir(exist_ok=True)
    for number in range(large):
        (root / "large" / f"noise-{number}").write_bytes(os.urandom(LARGE_BYTES))


def _marked(root: Path) -> None:
    """Owners, modes, links, attributes, access control lists, and a file with holes."""
    some = [path for path in sorted((root / "many" / "0000").iterdir()) if path.is_file()]
    for number, path in enumerate(some[:200]):
        os.chown(path, 1000 + number, 2000 + number % 7)
        path.chmod((0o600, 0o755, 0o4755, 0o1644, 0o2711, 0o000)[number % 6])
        os.setxattr(path, "user.number", str(number).encode())
        os.setxattr(path, "trusted.odd", bytes([number]))
    for path in some[200:260]:
        os.link(path, path.with_name(f"{path.name} again"))
    acl = ["setfacl", "-m", "u:1234:rwx,g:77:r--"]
    subprocess.run([*acl, *map(str, some[260:300])], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:4321:r-x", str(root / "many" / "0001")], check=True)
    (root / "many" / "0002").chmod(0o1777)
    with (root / "holes").open("wb") as file:
        for number in range(5):
            file.seek(number * 50_000_000)
            file.write(b"data" * 4096)
        file.truncate(1_50_000_000)
