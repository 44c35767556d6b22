"""The forced command of a key with which a backup node reaches the datasets of this node over SSH.

    command="/path/to/python -m agents.program.zfs_gate tank/vms",restrict ssh-ed25519 AAAA... backup-node

It lets through what a backup needs of the datasets below the one that it names, and with `--restore` also what a
restore does. Everything else is refused before `zfs` is called. Words are compared one by one; no shell sees them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from agents.drivers.zfs_commands import HOLD, OWNER, Host, ZfsError
from agents.drivers.zfs_properties import RISKY, is_kept

REFUSED = 126
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"
_OWN = r"bs-[A-Za-z0-9_.:-]+"
_MARK = r"[A-Za-z0-9-]+"


def allowed(prefix: str, *, restore: bool) -> list[re.Pattern[str]]:
    """The lines that are let through; words stand between single blanks, and no word holds one."""
    dataset = rf"{re.escape(prefix)}(?:/{_PART})+"
    point, mark = rf"{dataset}@{_PART}", rf"{dataset}#{_PART}"
    lines = [
        r"-\?",
        rf"list -H -o name (?:{dataset}|{point})",
        rf"list -H -r -t filesystem,volume -o name {dataset}",
        rf"list -H (?:-p -d 1|-r) -t (?:snapshot|bookmark) -o [a-z:,]+ -s creation {dataset}",
        rf"get -H -p(?: -s local)? -o value [a-z_:]+ (?:{dataset}|{point})",
        rf"snapshot -o {OWNER}={_MARK} {dataset}@{_OWN}",
        rf"hold {HOLD} {dataset}@{_OWN}",
        rf"release {HOLD} {dataset}@{_OWN}",
        rf"bookmark {dataset}@{_OWN} {dataset}#{_OWN}",
        rf"destroy {dataset}[@#]{_OWN}",
        rf"send(?: -n -v -P)?(?: -[Lecw])*(?: -i (?:@{_PART}|{mark}))? {point}",
        r"send(?: -n -v -P)? -t [0-9a-f-]+",
    ]
    if restore:
        lines += [
            rf"receive -u(?: -o \S+=\S*| -x (?:{'|'.join(RISKY)}))* {dataset}-new-[0-9a-f]+",
            rf"get -H -p -s local -o property,value all {dataset}",
            rf"rename {dataset} {dataset}",
            rf"set {OWNER}={_MARK} (?:{dataset}|{point})",
            rf"inherit {OWNER} {dataset}",
            rf"destroy -r {dataset}-(?:new|before)-[0-9a-f]+",
        ]
    return [re.compile(line) for line in lines]


def check(line: str, prefix: str, *, restore: bool = False, zfs: str = "zfs") -> list[str]:
    """The words for `zfs`. Raises ValueError when the line is not let through."""
    words = shlex.split(line)
    told = " ".join(words[1:])
    if len(words) < 2 or words[0] != zfs or any(not word or re.search(r"[^\x21-\x7e]", word) for word in words):
        raise ValueError("only zfs is called here")
    if not any(pattern.fullmatch(told) for pattern in allowed(prefix, restore=restore)):
        raise ValueError(f"not let through: {told[:200]}")
    if words[1] == "send" and "-t" in words:
        _check_token(words[-1], prefix, zfs=zfs)
    if words[1] == "receive":
        _check_properties(words, Host(program=zfs))
    return words


def _check_properties(words: Sequence[str], host: Host) -> None:
    """A restore sets what the dataset in whose place it comes has already, and our own mark; never anything new."""
    settings = [value.partition("=") for option, value in pairwise(words) if option == "-o"]
    asked = {name: value for name, _, value in settings if name != OWNER or not re.fullmatch(_MARK, value)}
    if not asked:
        return
    old = words[-1].rpartition("-new-")[0]
    try:
        there = host.own_values(old)
    except ZfsError as error:
        raise ValueError(f"the properties of {old} cannot be read: {error.message}") from error
    for name, value in asked.items():
        if not is_kept(name, is_volume=False) or there.get(name) != value:
            raise ValueError(f"{old} does not have {name}={value[:100]}")


def _check_token(token: str, prefix: str, *, zfs: str) -> None:
    """A token names its snapshot itself: whoever made it may have meant another one."""
    told = subprocess.run([zfs, "send", "-n", "-v", "-P", "-t", token], capture_output=True, text=True, check=False)  # noqa: S603  # an argument list
    names = re.findall(r"toname = (\S+)", told.stdout + told.stderr)
    if not names or any(not name.startswith(f"{prefix}/") for name in names):
        raise ValueError("the token is not of a dataset that is let through")


def main(arguments: Sequence[str]) -> NoReturn:
    prefix = next((word for word in arguments if not word.startswith("-")), "")
    try:
        if not prefix:
            raise ValueError("the forced command does not say for which datasets it is")
        words = check(os.environ.get("SSH_ORIGINAL_COMMAND", ""), prefix, restore="--restore" in arguments)
    except ValueError as error:
        sys.stderr.write(f"permission denied: {error}\n")
        sys.exit(REFUSED)
    os.execvp(words[0], words)  # noqa: S606  # checked word by word, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
