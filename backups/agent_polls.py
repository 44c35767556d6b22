"""One poll of an agent: what it told is kept, and it is told what there is for it to do. A few statements, no more.

A key that two machines have is noticed here: each poll and each claim has a number that only grows and is kept on the
machine's disk, and a poll tells a hash of the machine. Without a claim nothing is to be had at the session gate.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NoReturn
from uuid import UUID

import msgspec
from django.db.models import Exists, OuterRef, Q

from agents.accepting import ReplayedError
from agents.agent_messages import JobOffer, PollAnswer, PollRequest, TreeFacts
from agents.host_disks import note_trees
from agents.models import Agent
from agents.principals import (
    LONGEST_HEALTH_BYTES,
    LONGEST_VERSION,
    AgentQuarantinedError,
    note_back,
    plain,
    quarantine_agent,
)
from agents.releases import Reported, note_version, offer_for, offer_message
from agents.signing import Proof
from agents.troubles import tell_of_trouble
from backups.agent_jobs import NOT_HEARD
from backups.agent_policies import current_policy, is_to_be_checked, signed_policy
from backups.models import Job
from backups.poll_statement import Noted, note_poll
from backups.states import ON_A_NODE, JobState, Priority
from backups.transitions import claimable
from common.errors import ConflictError, InvalidInputError

MOST_OFFERS = 10
MOST_TREES = 1000
LONGEST_TEXT = 300
LONGEST_CODE = 64
LONGEST_WAITS = 200
LARGEST_NUMBER = 2**31 - 1
POLL_SECONDS, POLL_SPREAD = 60, 6
AGENT_SAYS = "the agent says: "


class OvertakenError(ConflictError):
    """Two requests of one machine came in the other order; nothing was done."""

    code = "overtaken"


def poll(agent: Agent, message: PollRequest, *, proof: Proof, now: datetime) -> PollAnswer:
    """Keeps the nonce of the request. Raises ReplayedError, AgentQuarantinedError for a machine that is another, or an
    earlier state of one, InvalidInputError."""
    _check_count(message.count)
    if len(message.trees or ()) > MOST_TREES:
        raise InvalidInputError(f"At most {MOST_TREES} file systems.", code="invalid_message")
    before = {"code_before": agent.health_code, "failed_before": agent.release_failed}
    noted = _note(agent, message, proof=proof, now=now)
    if noted.is_known:
        tell_of_trouble(agent, **before, now=now)
    else:
        _refuse_copy(agent, message, asked_at_seconds=proof.time_seconds)
    if agent.silent_since is not None:
        note_back(agent, now=now)
    if message.trees is not None:
        note_trees(agent, message.trees)
    has_policy = message.policy_number == agent.policy_number
    # Nearly every poll ends here.
    jobs, waiting = _offers(agent, message.waits, now) if noted.has_work else ([], "")
    return PollAnswer(
        time=now,
        # Those that began together do not stay together.
        next_poll_seconds=POLL_SECONDS + random.randint(-POLL_SPREAD, POLL_SPREAD),  # noqa: S311  # no secret
        policy=signed_policy(agent) if agent.policy_number and not has_policy else None,
        jobs=jobs,
        waiting=waiting,
        canceled=_canceled(agent, message.jobs),
        update=offer_message(agent.release) if not agent.release_taken and agent.release is not None else None,
    )


def note_count(agent: Agent, count: int, *, asked_at_seconds: int) -> None:
    """Of a claim. Raises AgentQuarantinedError for one that was there before, OvertakenError, InvalidInputError."""
    _check_count(count)
    same = Agent.objects.filter(pk=agent.pk, status=Agent.Status.ENROLLED)
    if same.filter(Q(poll_time=0) | Q(poll_count__lt=count)).update(poll_count=count, poll_time=asked_at_seconds):
        return
    current = Agent.objects.get(pk=agent.pk)
    if count < current.poll_count and asked_at_seconds < current.poll_time:
        raise OvertakenError("A later request of this agent was here first. Ask again.")
    _quarantine(agent, f"A job was claimed with its key, and its count went back from {current.poll_count} to {count}.")


def _check_count(count: int) -> None:
    if not 0 <= count < 2**62:
        raise InvalidInputError("The count has to fit.", code="invalid_message")


def _note(agent: Agent, message: PollRequest, *, proof: Proof, now: datetime) -> Noted:
    """One conditional statement. Raises ReplayedError; nothing is written then."""
    version = plain(message.version)[:LONGEST_VERSION]
    code = plain(message.problem_code)[:LONGEST_CODE]
    reported = Reported(version, max(0, min(message.release, LARGEST_NUMBER)))
    is_due = is_to_be_checked(agent, now=now)
    changes: dict[str, object] = {
        "last_seen_at": now,
        "version": version,
        "health": plain(message.problem)[:LONGEST_HEALTH_BYTES],
        "health_code": code,
        "poll_count": message.count,
        "poll_time": proof.time_seconds,
        "policy_seen": max(0, min(message.policy_number, LARGEST_NUMBER)),
        **({} if agent.machine else {"machine": _machine(message)}),
        **({} if message.trees is None else {"trees": [_bounded(tree) for tree in message.trees]}),
        **note_version(agent, reported, problem_code=code, is_busy=bool(message.jobs), is_due=is_due, now=now),
    }
    is_offered = agent.release_id is not None and not agent.release_taken
    changes = {name: value for name, value in changes.items() if getattr(agent, name) != value}
    if is_due:
        changes |= current_policy(agent, now=now)
    if is_due or is_offered or {"release", "version"} & set(changes):
        _offer_release(agent, changes, reported, now=now)
    noted = note_poll(agent, proof, changes=changes, count=message.count, machine=_machine(message))
    if not noted.is_new:
        raise ReplayedError("This request was made before.")
    if noted.is_known:
        for name, value in changes.items():
            setattr(agent, name, value)
    return noted


def _machine(message: PollRequest) -> str:
    """As it is kept."""
    return plain(message.host.machine)[:128]


def _bounded(tree: TreeFacts) -> dict[str, object]:
    """As it is kept and shown: texts short and plain."""
    told = msgspec.to_builtins(tree)
    return {name: plain(value)[:LONGEST_TEXT] if isinstance(value, str) else value for name, value in told.items()}


def _offer_release(agent: Agent, changes: dict[str, object], reported: Reported, *, now: datetime) -> None:
    """What it was offered stays offered until it has it, or could not take it, or it is taken back."""
    for name in ("release", "release_taken", "release_failed"):
        if name in changes:
            setattr(agent, name, changes[name])
    release = offer_for(agent, reported)
    if agent.release_taken and release is None:
        return
    if release != agent.release:
        changes |= {
            "release": release,
            "release_offered_at": now if release is not None else None,
            "release_taken": False,
        }


def _refuse_copy(agent: Agent, message: PollRequest, *, asked_at_seconds: int) -> None:
    """Raise for a copy. A poll that a later one of the same machine overtook is answered, and changes nothing."""
    current = Agent.objects.get(pk=agent.pk)
    is_machine = current.machine in {"", _machine(message)}
    if is_machine and current.status == Agent.Status.ENROLLED:
        if current.poll_count < message.count:
            # Something else of the row changed at this moment: the next poll tells it again.
            return
        if message.count < current.poll_count and asked_at_seconds < current.poll_time:
            return
    host = plain(message.host.hostname)[:64] or "a machine without a name"
    what = (
        f"its count went back from {current.poll_count} to {message.count}" if is_machine else "it is another machine"
    )
    _quarantine(agent, f"{host} polled with its key, and {what}.")


def _quarantine(agent: Agent, reason: str) -> NoReturn:
    quarantine_agent(agent=agent, reason=reason)
    raise AgentQuarantinedError("This agent is in quarantine: its key is on two machines. An administrator decides.")


def _offers(agent: Agent, waits: Mapping[str, str], now: datetime) -> tuple[list[JobOffer], str]:
    """What waits for it, and what it lost hold of, the first to be served first and one at a time on a disk; and why
    something waits that it is not offered."""
    there = Job.objects.active().filter(node=None, kind__in=ON_A_NODE, disk__server=agent.server_id)
    busy = Job.objects.filter(
        disk_id=OuterRef("disk_id"), state=JobState.RUNNING, kind__in=ON_A_NODE, lease_until__gt=now
    )
    own = claimable(now).filter(~Exists(busy), node=None, kind__in=ON_A_NODE, disk__server=agent.server_id)
    rows = own.order_by("-priority", "created_at", "pk").values_list("pk", "kind", "priority", "waits")[:MOST_OFFERS]
    for pk, _, _, known in rows:
        _say_why(pk, known, waits.get(str(pk), ""))
    offers = [
        JobOffer(id=str(pk), kind=kind, begins_at_once=priority > Priority.SCHEDULED) for pk, kind, priority, _ in rows
    ]
    held = there.filter(state=JobState.PENDING).exclude(pk__in=[row[0] for row in rows])
    first = held.order_by("created_at", "pk").first()
    return offers, _sentence(first) if first is not None else ""


def _sentence(job: Job) -> str:
    if job.waits:
        return f"A {job.kind} waits: {job.waits}."
    at = f" not before {job.not_before:%Y-%m-%d %H:%M} UTC" if job.not_before is not None else " when the disk is free"
    return f"A {job.kind} begins{at}."


def _say_why(job_id: UUID, known: str, told: str) -> None:
    """What the agent says of a job that it does not begin. What the control plane itself knows better stays."""
    says = f"{AGENT_SAYS}{plain(told)}"[:LONGEST_WAITS] if told else ""
    if says != known and (not known or known.startswith((AGENT_SAYS, NOT_HEARD))):
        Job.objects.filter(pk=job_id, state=JobState.PENDING, waits=known).update(waits=says)


def _canceled(agent: Agent, jobs: Collection[str]) -> list[str]:
    """Those that it works on and that are canceled, or not its own any more."""
    asked = [key for key in list(jobs)[:MOST_OFFERS] if _is_id(key)]
    if not asked:
        return []
    going_on = Job.objects.filter(
        pk__in=asked, disk__server=agent.server_id, node=None, state=JobState.RUNNING, cancel_requested=False
    )
    kept = {str(pk) for pk in going_on.values_list("pk", flat=True)}
    return [key for key in asked if str(UUID(key)) not in kept]


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
