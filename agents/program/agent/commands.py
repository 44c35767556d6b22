"""What the commands of `backupsite-agent` do; each returns its exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from agents.agent_messages import AgentPolicy, BackupMessage, RestoreRequest
from agents.drivers.host_mounts import is_below
from agents.program.agent import enrolling, logs, moving, rotating
from agents.program.agent.assembling import control_of
from agents.program.agent.carrying import carry_out, poke, say_done
from agents.program.agent.control import ControlClient
from agents.program.agent.daemon import run_daemon
from agents.program.agent.doctor import examine
from agents.program.agent.errors import (
    EXIT_FAILED,
    EXIT_OK,
    BusyError,
    PolicyRefusedError,
    RefusedError,
    UsageError,
)
from agents.program.agent.files import holder, only_one, try_writing
from agents.program.agent.identity import PENDING, Identity, load_identity
from agents.program.agent.memory import NOTABLE_SECONDS, ControlClock, load_memory
from agents.program.agent.moving import ENDED
from agents.program.agent.places import Places, Settings, read_settings
from agents.program.agent.policy import kept_policy
from agents.program.agent.showing import moment, say, say_json, size
from agents.program.agent.version import VERSION, release_number
from agents.program.agent.worker import Progress, shown

_LOOK_SECONDS = 0.5
_ASK_SECONDS = 3.0
# A backup is not one yet: the control plane looks at every object, which may take it hours when the vault is away.
_WELL = {
    "last_backup": "all sent; it counts when the control plane has looked at it, `backupsite-agent list` shows it then",
    "last_restore": "well",
}


def run_enrol(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    token = sys.stdin.readline() if options.token == "-" else options.token  # noqa: S105  # a sign for standard input
    identity = enrolling.enrol(places, settings, token=token, url=options.url, version=VERSION)
    if options.json:
        say_json({"server": identity.server, "tenant": identity.tenant, "status": identity.status})
    elif identity.status == PENDING:
        say(f"Enrolled as {identity.server} of {identity.tenant}; it waits for the approval of an administrator.")
    else:
        say(f"Enrolled as {identity.server} of {identity.tenant}.")
    return EXIT_OK


def run_daemon_command(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    load_identity(places)
    logs.set_up(places)
    return run_daemon(places, settings)


def run_move(options: argparse.Namespace) -> int:
    logs.set_up(None)
    return moving.main()


def run_status(options: argparse.Namespace) -> int:
    places, _ = _of(options)
    identity, memory = load_identity(places), load_memory(places)
    policy, damage = _policy_as_kept(places, identity)
    problem = (memory.problem_code, memory.problem) if memory.problem_code else damage
    process = holder(places.lock)
    running = [one for path in _job_files(places) if (one := shown(places, path)) and one.event.phase != ENDED]
    document = {
        "server": identity.server,
        "tenant": identity.tenant,
        "control_plane": identity.url,
        "status": memory.status or identity.status,
        "version": VERSION,
        "release": release_number(),
        "service": "running" if process else "stopped",
        "last_contact": memory.last_answer_at,
        "policy": policy.number if policy else None,
        "window": _window(policy.window) if policy else None,
        "last_backup": _outcome(memory.last_backup),
        "last_restore": _outcome(memory.last_restore),
        "running": [_running(one) for one in running if process],
        "waiting": [{"job": one.job, "kind": one.kind, "why": one.why} for one in memory.waiting if process],
        "problem": {"code": problem[0], "message": problem[1]} if problem else None,
        "clock_ahead_seconds": round(ControlClock(memory.anchor).wrong_by_seconds),
    }
    if options.json:
        say_json(document)
    else:
        _say_status(document, memory.last_answer_at)
    return EXIT_OK


def run_run(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    identity = load_identity(places)
    # The control plane knows the policy where the one here is damaged.
    policy, _ = _policy_as_kept(places, identity)
    if policy is not None and not policy.allows_run_now:
        message = (
            "The policy of this server allows no backup beside its schedule. Ask who administers it in the portal."
        )
        raise RefusedError(message, code="run_not_allowed")
    _refuse_unwritable(places)
    offer = _control(places, settings, identity).start()
    return carry_out(places, settings, offer.id, "backup", options, wait=not options.no_wait)


def run_list(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    control = _control(places, settings, load_identity(places))
    found = _all_backups(control, options.limit)
    if options.json:
        say_json({"backups": [_backup(one) for one in found]})
        return EXIT_OK
    if not found:
        say("There is no backup of this server yet.")
    for one in found:
        what = f"{one.status:<8} {one.health:<10} {size(one.size_bytes):>10}"
        say(f"{one.id}  {moment(one.created_at)}  {what}  {one.name}")
    return EXIT_OK


def run_restore(options: argparse.Namespace) -> int:
    """An agent's key alone reads nothing: somebody who may restore confirms it in the portal."""
    if not options.to.startswith("/"):
        raise UsageError("--to takes an absolute path of a directory on this server; / restores in place.")
    places, settings = _of(options)
    control = _control(places, settings, load_identity(places))
    _refuse_unwritable(places)
    backup, name = _wanted(control, options.backup)
    target = _in_tree(settings, options.to)
    paths = [_in_tree(settings, path).lstrip("/") for path in options.path]
    asked = control.ask_restore(RestoreRequest(backup, target, paths, options.overwrite))
    say(
        f"Restore {name} to {options.to}. Confirm it in the portal, if the code there is {asked.code}:\n"
        f"  {asked.portal_url}\nIt can be confirmed until {moment(asked.expires_at)}.",
        to=sys.stderr,
    )
    while asked.state == "waits":
        time.sleep(_ASK_SECONDS)
        asked = control.restore_asked(asked.request)
    if asked.state != "confirmed":
        raise RefusedError(f"The restore was not confirmed: {asked.state}.", code=f"restore_{asked.state}")
    return carry_out(places, settings, asked.job, "restore", options, wait=True)


def _in_tree(settings: Settings, path: str) -> str:
    """As the backup has it: `root` of agent.toml is its root. A path without a slash before it begins there."""
    whole = os.path.normpath(os.path.join(settings.root, path))
    if not is_below(whole, settings.root):
        raise UsageError(f"{path} is not in {settings.root}, which this agent protects.")
    return "/" if whole == settings.root else f"/{os.path.relpath(whole, settings.root)}"


def run_logs(options: argparse.Namespace) -> int:
    places, _ = _of(options)
    if options.json and options.follow:
        raise UsageError("--json gives one document, and --follow has no end. Leave one of the two out.")
    lines = logs.last_lines(places.log, options.n)
    if options.json:
        say_json({"lines": lines})
        return EXIT_OK
    for line in lines:
        say(line)
    if options.follow:
        _follow(places)
    return EXIT_OK


def run_doctor(options: argparse.Namespace) -> int:
    places = Places.of(options.home)
    found = examine(places)
    is_bad = any(one.is_bad for one in found)
    if options.json:
        rows = [{"name": f.name, "said": f.said, "bad": f.is_bad, "advice": f.advice} for f in found]
        say_json({"well": not is_bad, "findings": rows})
    else:
        for one in found:
            say(f"{'BAD ' if one.is_bad else 'ok  '} {one.name}: {one.said}")
            if one.advice:
                say(f"       {one.advice}")
    return EXIT_FAILED if is_bad else EXIT_OK


def run_rotate(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    control = _control(places, settings, load_identity(places))
    rotating.rotate(places, control)
    poke(places, signal.SIGTERM)
    say_done(options, "The control plane knows the new key. The service starts anew with it.")
    return EXIT_OK


def run_unenrol(options: argparse.Namespace) -> int:
    places, settings = _of(options)
    if holder(places.lock) is not None:
        raise BusyError("The service runs. Stop it first: systemctl stop backupsite-agent")
    with only_one(places.lock):
        client = _control(places, settings, load_identity(places)) if places.identity.exists() else None
        untold = enrolling.unenrol(places, client, purge=options.purge)
    if untold:
        say(f"The control plane could not be told: {untold} Revoke this agent in the portal.", to=sys.stderr)
    say_done(
        options, "Keys and state are wiped." if options.purge else "The control plane knows; the keys are still here."
    )
    return EXIT_OK


# --- shared -----------------------------------------------------------------------------------------------------------


def _of(options: argparse.Namespace) -> tuple[Places, Settings]:
    places = Places.of(options.home)
    return places, read_settings(places)


def _control(places: Places, settings: Settings, identity: Identity) -> ControlClient:
    return control_of(places, settings, identity, ControlClock(load_memory(places).anchor))


def _policy_as_kept(places: Places, identity: Identity) -> tuple[AgentPolicy | None, tuple[str, str] | None]:
    """The policy on disk; code and words of what is wrong with it."""
    try:
        return kept_policy(places, identity), None
    except PolicyRefusedError as error:
        return None, (error.code, error.message)


def _refuse_unwritable(places: Places) -> None:
    """Without the service this process does the job: what it cannot do is not asked for. Raises OSError."""
    if holder(places.lock) is None:
        try_writing(places.state)


def _all_backups(control: ControlClient, limit: int) -> list[BackupMessage]:
    found: list[BackupMessage] = []
    after = ""
    while len(found) < limit:
        page = control.backups(after=after)
        found += page.backups
        after = page.after
        if not after or not page.backups:
            break
    return found[:limit]


def _wanted(control: ControlClient, told: str) -> tuple[str, str]:
    """Id and name. A whole id may be of a backup of another server, which the control plane decides about."""
    with suppress(ValueError):
        return str(UUID(told)), told
    found = [one for one in _all_backups(control, 10_000) if told in {one.id, one.name}]
    if len(found) != 1:
        message = (
            f"There is no backup {told!r} of this server; `list` shows them. One of another server goes by its whole "
            "id, as the portal shows it."
        )
        raise UsageError(message, code="no_such_backup")
    return found[0].id, found[0].name


def _follow(places: Places) -> None:
    place = places.log.stat().st_size if places.log.exists() else 0
    while True:
        time.sleep(_LOOK_SECONDS)
        with suppress(FileNotFoundError), open(places.log, encoding="utf-8", errors="replace") as file:
            if os.fstat(file.fileno()).st_size < place:
                place = 0
            file.seek(place)
            for line in file.read().splitlines():
                say(line)
            place = file.tell()


def _job_files(places: Places) -> list[str]:
    try:
        return [path.stem for path in places.jobs.glob("*.json")]
    except OSError:
        return []


def _window(window: object) -> str | None:
    begin, end, zone = (getattr(window, name, "") for name in ("begin", "end", "time_zone"))
    return f"{begin} to {end} {zone}" if begin else None


def _running(one: Progress) -> dict[str, str]:
    return {"job": one.job, "kind": one.kind, "phase": one.event.phase, "held": one.event.held}


def _outcome(outcome: object) -> dict[str, object] | None:
    if outcome is None:
        return None
    names = ("job", "ended_at", "code", "message", "read_bytes", "stored_bytes")
    return {name: getattr(outcome, name) for name in names}


def _backup(one: BackupMessage) -> dict[str, object]:
    names = ("id", "name", "created_at", "status", "health", "size_bytes", "content", "note")
    return {name: getattr(one, name) for name in names}


def _say_status(document: dict[str, Any], last: datetime | None) -> None:
    if document["service"] != "running":
        document = {**document, "service": "stopped; start it: systemctl start backupsite-agent"}
    for name in ("server", "tenant", "control_plane", "status", "version", "service", "policy", "window"):
        say(f"{name.replace('_', ' '):<14} {document[name] if document[name] is not None else 'none'}")
    say(f"{'last contact':<14} {moment(last)}")
    for name in ("last_backup", "last_restore"):
        outcome = document[name]
        if isinstance(outcome, dict):
            how = f"{outcome['code']}: {outcome['message']}" if outcome["code"] else _WELL[name]
            say(f"{name.replace('_', ' '):<14} {moment(outcome['ended_at'])}, {how}")
    for one in document["running"]:
        say(f"{'running':<14} {one['kind']}: {one['phase']}{', held: ' + one['held'] if one['held'] else ''}")
    for one in document["waiting"]:
        say(f"{'waiting':<14} {one['kind'] or 'a job'}: {one['why'] or 'begins now'}")
    if abs(ahead := document["clock_ahead_seconds"]) > NOTABLE_SECONDS:
        say(f"{'clock':<14} {abs(ahead)} seconds {'ahead' if ahead > 0 else 'behind'}; set it")
    problem = document["problem"]
    if isinstance(problem, dict):
        say(f"{'trouble':<14} {problem['message']} ({problem['code']})")
