"""What an agent is told to do: made of the definition of its disk and the policy that this follows.

The number of what it is told only grows, and does so when something is another: an agent takes no older one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from django.conf import settings

from agents.agent_messages import AgentPolicy, BandwidthHours, SignedPolicy, WindowMessage
from agents.answer_signing import sign_policy
from agents.models import HOST_DRIVER, Agent
from definitions.agent_limits import AgentLimits, read_limits
from definitions.excludes import exclude_lines
from definitions.holds import is_held
from definitions.models import Definition
from tenants.models import Tenant

# Making the policy costs more than the rest of a poll. Whoever changes a definition or policy has it made at the next
# poll (`agents.fleet.look_again`); what else there is, as the end of a pause, counts after at most this time.
CHECKED_EVERY = timedelta(minutes=5)


def is_to_be_checked(agent: Agent, *, now: datetime) -> bool:
    """Whether what it is told may be another than at its last polls."""
    checked_at = agent.policy_checked_at
    return not agent.policy_number or checked_at is None or _turn(agent, checked_at) != _turn(agent, now)


def _turn(agent: Agent, at: datetime) -> int:
    """Which of its turns this is. Each agent has its own: those that ask together are not all looked at together."""
    every = int(CHECKED_EVERY.total_seconds())
    return (int(at.timestamp()) + agent.pk.int % every) // every


def current_policy(agent: Agent, *, now: datetime) -> dict[str, object]:
    """What of the agent's row is another now, so that it holds the policy that counts."""
    wanted = policy_of(agent, now=now)
    if agent.policy_number and _content(bytes(agent.policy)) == wanted:
        return {"policy_checked_at": now}
    number = agent.policy_number + 1
    encoded = msgspec.json.encode(msgspec.structs.replace(wanted, number=number, issued_at=now))
    return {"policy_checked_at": now, "policy_number": number, "policy": encoded}


def signed_policy(agent: Agent) -> SignedPolicy:
    """As it is sent. Only a process with the control key can."""
    policy = bytes(agent.policy)
    signature = sign_policy(private_key=settings.CONFIG.control_key_bytes, agent_id=agent.pk, policy=policy)
    return SignedPolicy(policy=policy, signature=signature)


def policy_of(agent: Agent, *, now: datetime) -> AgentPolicy:
    """Without number and time. Who has no definition, or is held, is paused: it is told so, and works on restores."""
    definition, pins = definition_of(agent), settings.CONFIG.tls_pin_hashes
    if definition is None:
        return AgentPolicy(number=0, issued_at=_NEVER, is_paused=True, tls_pins=pins)
    policy = definition.policy
    limits = read_limits(policy.agent_limits) if policy is not None else AgentLimits()
    is_open = policy is None or not policy.restricted
    is_active = definition.tenant.status == Tenant.Status.ACTIVE
    return AgentPolicy(
        number=0,
        issued_at=_NEVER,
        window=_window(definition),
        is_paused=not is_active or is_held(definition, now) is not None,
        excludes=exclude_lines(definition.excludes),
        allows_excludes=is_open and limits.allows_excludes,
        allows_hooks=is_open and limits.allows_hooks,
        allows_run_now=limits.allows_run_now,
        bandwidth=_bandwidth(definition, limits),
        bandwidth_zone=definition.time_zone,
        cpu_weight=limits.cpu_weight,
        idle_io=limits.idle_io,
        pause_on_battery=limits.pause_on_battery,
        pause_on_metered=limits.pause_on_metered,
        pause_above_load=limits.pause_above_load,
        start_jitter_seconds=limits.start_jitter_seconds,
        tls_pins=pins,
    )


def definition_of(agent: Agent) -> Definition | None:
    """The one that is due next, of those that are active."""
    found = Definition.objects.filter(disk__server=agent.server_id, disk__driver=HOST_DRIVER, active=True)
    related = found.select_related("policy", "tenant", "vault", "disk__server")
    first: Definition | None = related.order_by("next_run_at", "pk").first()
    return first


def _window(definition: Definition) -> WindowMessage | None:
    """A schedule that a person chose himself has no window: its jobs begin when they are there."""
    policy = definition.policy
    if policy is None or policy.time_zone != definition.time_zone:
        return None
    return WindowMessage(f"{policy.window_start:%H:%M}", f"{policy.window_end:%H:%M}", policy.time_zone)


def _bandwidth(definition: Definition, limits: AgentLimits) -> list[BandwidthHours]:
    """The definition's own limit holds all day, beside the others: the least of what holds counts."""
    own = [BandwidthHours(0, 24, definition.bandwidth_limit)] if definition.bandwidth_limit else []
    return [*own, *limits.bandwidth]


def _content(encoded: bytes) -> AgentPolicy:
    return msgspec.structs.replace(msgspec.json.decode(encoded, type=AgentPolicy), number=0, issued_at=_NEVER)


_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
