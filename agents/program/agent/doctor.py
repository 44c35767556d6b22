"""`doctor`: what could keep this agent from backing up, and what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from agents.drivers.host import HostDriver
from agents.drivers.host_lvm import why_not
from agents.drivers.host_snapshots import LVM
from agents.program.agent.assembling import control_of
from agents.program.agent.conditions import why_paused
from agents.program.agent.errors import AgentError, PolicyRefusedError, RefusedError
from agents.program.agent.files import holder
from agents.program.agent.identity import Identity, load_identity
from agents.program.agent.memory import NOTABLE_SECONDS, ControlClock, load_memory
from agents.program.agent.moving import host_settings
from agents.program.agent.places import Places, Settings, read_settings
from agents.program.agent.policy import kept_policy
from agents.program.agent.tls import connect, read_url
from agents.program.agent.trees import tree_facts

_LEAST_FREE_BYTES = 512 * 1024 * 1024
_OLD_POLICY = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class Finding:
    """`is_bad` is something to mend; without it and with `advice`, something to know."""

    name: str
    said: str
    is_bad: bool = False
    advice: str = ""


def examine(places: Places) -> list[Finding]:
    """Every check, also after one that failed."""
    found: list[Finding] = []
    try:
        settings = read_settings(places)
        identity = load_identity(places)
    except AgentError as error:
        return [Finding("configuration", error.message, True, "Mend this first; then ask the doctor again.")]
    clock = ControlClock(load_memory(places).anchor)
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _service(places),
        lambda: _rights(),
        lambda: _name(identity),
        lambda: _tls(identity, settings),
        lambda: _control(places, settings, identity, clock),
        lambda: _clock(clock),
        lambda: _policy(places, identity, clock),
        lambda: _space(places),
        lambda: _part(settings),
        lambda: _snapshots(places, settings),
    )
    for check in checks:
        try:
            found.extend(check())
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            found.append(Finding("state", f"{where}{error.strerror or error}", True, f"Look at {places.state}."))
    return found


def _service(places: Places) -> Iterator[Finding]:
    process = holder(places.lock)
    if process is None:
        yield Finding("service", "not running", True, "Start it: systemctl start backupsite-agent (see docs/agent.md).")
    else:
        yield Finding("service", f"runs as process {process}")


def _rights() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("rights", "not root", True, "Only root can read and restore the whole server: run it as root.")


def _name(identity: Identity) -> Iterator[Finding]:
    host = read_url(identity.url).host
    try:
        addresses = sorted({str(one[4][0]) for one in socket.getaddrinfo(host, None)})
    except OSError as error:
        yield Finding("name", f"{host} cannot be resolved: {error}", True, "Look at /etc/resolv.conf and the network.")
    else:
        yield Finding("name", f"{host} is {', '.join(addresses[:4])}")


def _tls(identity: Identity, settings: Settings) -> Iterator[Finding]:
    endpoint = read_url(identity.url)
    try:
        connect(endpoint, pins=identity.tls_pins, ca_file=settings.ca_file).close()
    except AgentError as error:
        yield Finding("tls", error.message, True, "Ask whoever runs the control plane whether its key was changed.")
    except OSError as error:
        yield Finding("tls", f"{endpoint.url} does not answer: {error}", True, "Look at firewalls: port and HTTPS out.")
    else:
        pins = len(identity.tls_pins)
        advice = "" if pins else "A proxy whose certificate this server trusts can read along; pins keep it out."
        yield Finding("tls", f"connected; {pins or 'no'} pinned keys", False, advice)


def _control(places: Places, settings: Settings, identity: Identity, clock: ControlClock) -> Iterator[Finding]:
    try:
        control_of(places, settings, identity, clock).backups()
    except RefusedError as error:
        advice = "Approve this agent in the portal." if error.code == "agent_pending" else "Look at it in the portal."
        yield Finding("control plane", f"{error.message} ({error.code})", True, advice)
    except AgentError as error:
        yield Finding("control plane", error.message, True, "See the findings above.")
    else:
        yield Finding("control plane", f"answers, and its signature is right: server {identity.server}")


def _clock(clock: ControlClock) -> Iterator[Finding]:
    off = clock.wrong_by_seconds
    if clock.anchor is None:
        yield Finding("clock", "the control plane's time is not known yet")
    elif abs(off) > NOTABLE_SECONDS:
        how = "ahead" if off > 0 else "behind"
        yield Finding(
            "clock",
            f"{abs(off):.0f} seconds {how}",
            True,
            "Set it, and let chrony or systemd-timesyncd keep it: with a wrong clock TLS to the vault may fail.",
        )
    else:
        yield Finding("clock", f"{abs(off):.0f} seconds off")


def _policy(places: Places, identity: Identity, clock: ControlClock) -> Iterator[Finding]:
    try:
        policy = kept_policy(places, identity)
    except PolicyRefusedError as error:
        yield Finding("policy", error.message, True, "The next poll brings it again; look whether the disk is damaged.")
        return
    last = load_memory(places).last_answer_at
    if policy is None:
        yield Finding("policy", "none yet", True, "Assign a policy to this server in the portal.")
    elif last is None or clock.now() - last > _OLD_POLICY:
        yield Finding("policy", f"number {policy.number}, and days without an answer", True, "See the findings above.")
    else:
        paused = why_paused(policy)
        yield Finding("policy", f"number {policy.number}", False, paused and f"Nothing begins now: {paused}")


def _space(places: Places) -> Iterator[Finding]:
    if os.statvfs(places.state).f_flag & os.ST_RDONLY:
        advice = f"Mount it so that it can be written; until then no job of this server begins: {places.state}."
        yield Finding("state", "its file system is read-only", True, advice)
    free = shutil.disk_usage(places.state).free
    if free < _LEAST_FREE_BYTES:
        yield Finding("space", f"{free >> 20} MiB free for the agent's state", True, f"Make room at {places.state}.")
    else:
        yield Finding("space", f"{free >> 20} MiB free for the agent's state")


def _part(settings: Settings) -> Iterator[Finding]:
    if not settings.is_whole_server:
        advice = "`root` of agent.toml says so, and each backup warns of it (part_of_server). Without it: all of it."
        yield Finding("root", f"only {settings.root} of this server is protected", False, advice)


def _snapshots(places: Places, settings: Settings) -> Iterator[Finding]:
    HostDriver.configured = host_settings(places, settings, None)
    driver = HostDriver()
    trees = tree_facts(driver)
    if not trees:
        yield Finding("file systems", "none were found", True, "Look into the log: backupsite-agent logs")
    for tree in trees:
        if tree.left_out:
            yield Finding(f"file system {tree.mount_point}", f"not in the backup: {tree.left_out}")
        elif tree.snapshot == "none":
            advice = "Its files are of different moments in a backup; btrfs, ZFS and volumes of LVM can hold still."
            yield Finding(f"file system {tree.mount_point}", f"{tree.kind}, no snapshot", False, advice)
        elif tree.snapshot == LVM and (why := _no_room(driver, tree.mount_point)):
            advice = f"Its files are of different moments in a backup: {why}."
            yield Finding(f"file system {tree.mount_point}", f"{tree.kind} on LVM, no snapshot", False, advice)
        else:
            yield Finding(f"file system {tree.mount_point}", f"{tree.kind}, held still by a snapshot")


def _no_room(driver: HostDriver, point: str) -> str:
    return next((why_not(mount) for mount in driver.mounts() if mount.point == point), "")
