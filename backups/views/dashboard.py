"""The first page: what is protected, what runs, and what needs a person."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from agents.models import Disk, Node, Server
from backups.figures import Totals, totals_of
from backups.models import Backup, Job
from backups.server_states import ServerState
from backups.states import ON_A_NODE, BackupHealth, BackupStatus, JobKind, JobState
from backups.views.jobs import IDLE_SECONDS, live_context
from definitions.models import Definition
from tenants.access import may_create
from tenants.models import Person
from tenants.renewing import part_of
from tenants.roles import Action
from tenants.views import portal_page
from vaults.models import Alarm, TenantKey, Vault
from vaults.recovery_keys import hint

SHOWN_BACKUPS = 8
SHOWN_JOBS = 10
SHOWN_PER_REASON = 5
FAILURES_MATTER_FOR = timedelta(days=7)
OVERDUE_AFTER = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a person should look at. `needs_others`: he cannot mend it himself."""

    title: str
    text: str
    address: str = ""
    needs_others: bool = False


@require_GET
@portal_page
def dashboard(request: HttpRequest) -> HttpResponse:
    """The page; for htmx its running jobs, or with `part=state` what is above them. 204: nothing has changed."""
    if request.htmx and not part_of(request):
        return _state_answer(request) if request.GET.get("part") == "state" else _live_answer(request)
    person = request.user
    backups = Backup.objects.for_user(person).in_catalogue()
    context = {
        **_live(request),
        **_state(request),
        "last_backups": backups.order_by("-created_at", "-pk")[:SHOWN_BACKUPS],
        "sees_vaults": Vault.objects.for_user(person).exists(),
    }
    return render(request, "backups/dashboard.html", context)


def _state(request: HttpRequest) -> dict[str, Any]:
    """How servers are protected, what needs a person, and the next step."""
    person, totals = request.user, totals_of(request.user)
    concerns = list(_concerns(person, timezone.now()))
    return {
        "totals": totals,
        "tiles": [_tile(state, totals) for state in ServerState if _is_shown(state, totals)],
        "concerns": concerns,
        "may_create_server": may_create(person, Server),
        "may_create_definition": may_create(person, Definition),
        "state_seen": hashlib.sha256(repr((totals, concerns)).encode()).hexdigest()[:16],
    }


def _live(request: HttpRequest) -> dict[str, Any]:
    """What runs and waits. A page that is left open asks again, seldom, when there is nothing."""
    jobs = Job.objects.for_user(request.user).active().select_related("disk__server").order_by("-created_at", "-pk")
    return {**live_context(request, jobs[:SHOWN_JOBS]), "idle_seconds": IDLE_SECONDS}


def _state_answer(request: HttpRequest) -> HttpResponse:
    state = _state(request)
    if request.GET.get("seen") == state["state_seen"]:
        return HttpResponse(status=204)
    return render(request, "dashboard/_state.html", {**state, "is_part": True})


def _live_answer(request: HttpRequest) -> HttpResponse:
    live = _live(request)
    return HttpResponse(status=204) if live["unchanged"] else render(request, "backups/_jobs.html", live)


@dataclass(frozen=True, slots=True)
class Tile:
    """Servers in one state; the list of them is behind it. `count` is None while nobody counted."""

    state: ServerState
    meaning: str
    count: int | None


_MEANINGS = {
    ServerState.PROTECTED: "a good backup in time, locked and checked",
    ServerState.HELD: "paused by somebody",
    ServerState.WAITING: "no good backup yet",
    ServerState.LATE: "a run has not finished in time",
    ServerState.UNVERIFIED: "no check for too long",
    ServerState.UNLOCKED: "a backup could be deleted too soon",
    ServerState.FAILED: "a run was missed, or the last good backup is too old",
    ServerState.UNPROTECTED: "no active definition",
}
# Shown only where there are some.
_PASSING = frozenset({ServerState.HELD, ServerState.WAITING})


def _tile(state: ServerState, totals: Totals) -> Tile:
    return Tile(state, _MEANINGS[state], totals.states.get(str(state)))


def _is_shown(state: ServerState, totals: Totals) -> bool:
    return state not in _PASSING or bool(totals.states.get(str(state)))


def _damage_concerns(person: Person) -> Iterator[Concern]:
    """Backups that cannot be read in part or at all, and what stands against whole vaults."""
    bad = [BackupHealth.DAMAGED, BackupHealth.MISSING]
    backups = Backup.objects.for_user(person).in_catalogue().filter(health__in=bad)
    for backup in backups.order_by("-created_at", "-pk")[:SHOWN_PER_REASON]:
        text = f"{backup.name} of {backup.server_name}: {backup.damaged_bytes:,} bytes of it cannot be restored."
        yield Concern("Backup damaged", text, _to("backup-detail", backup))
    alarms = Alarm.objects.for_user(person).needing_a_person().select_related("vault").worst_first()
    for alarm in alarms[:SHOWN_PER_REASON]:
        title = f"{alarm.get_severity_display().capitalize()}: {alarm.code.replace('_', ' ')}"
        yield Concern(title, f"{alarm.vault.name}: {alarm.message}", _to("vault-detail", alarm.vault))


def _key_concerns(person: Person) -> Iterator[Concern]:
    """A recovery key that nobody printed and tested is no recovery key; those who may look after it are told."""
    keys = TenantKey.objects.for_user(person, Action.EDIT).filter(status=TenantKey.Status.ACTIVE, tested_at=None)
    for key in keys.select_related("tenant").order_by("tenant__title", "pk")[:SHOWN_PER_REASON]:
        yield Concern("Recovery key not tested", f"{key.tenant.title}: {hint(key)}", _to("key-detail", key))


def _concerns(person: Person, now: datetime) -> Iterator[Concern]:
    for job in _unanswered_failures(person, now):
        text = f"{job.disk or job.backup_name}: {job.message}"
        yield Concern(f"{job.kind.capitalize()} failed", text, _to("job-detail", job))
    for disk in (
        Disk.objects.for_user(person).exclude(incomplete_since=None).select_related("server")[:SHOWN_PER_REASON]
    ):
        text = f"{disk} holds an unfinished restore: what is on it is no system."
        yield Concern("Restore not finished", text, _to("server-detail", disk.server))
    for backup in Backup.objects.for_user(person).in_catalogue().filter(status=BackupStatus.LOST)[:SHOWN_PER_REASON]:
        yield Concern("Backup lost", f"{backup.name} of {backup.server_name}", _to("backup-detail", backup))
    yield from _damage_concerns(person)
    for definition in _overdue(person, now):
        mends = "Look under Health whether the scheduler runs." if person.is_superuser else "The operator has to look."
        text = f"{definition} should have run. {mends}"
        yield Concern("Backup overdue", text, _to("definition-detail", definition), not person.is_superuser)
    for vault in Vault.objects.for_user(person).filter(status=Vault.Status.REFUSED)[:SHOWN_PER_REASON]:
        yield Concern("Vault refused", f"{vault.name}: {vault.refusal}", _to("vault-detail", vault))
    yield from _key_concerns(person)
    for node in Node.objects.for_user(person).filter(status=Node.Status.OFFLINE)[:SHOWN_PER_REASON]:
        yield Concern("Node offline", _offline(node, person), _to("node-detail", node), not person.is_superuser)


def _offline(node: Node, person: Person) -> str:
    if not person.is_superuser:
        return f"The worker of {node.name} does not report. Jobs there wait until the operator has started it again."
    mends = "On the node, look at the log of backupsite-node.service and start it: it goes on where it was."
    return f"The worker of {node.name} does not report. Jobs there wait for it. {mends}"


def _unanswered_failures(person: Person, now: datetime) -> Any:
    """Failures of the last days that no later success of the same work has answered.

    A check that found damage has not failed at its work: the backup is listed as damaged.
    """
    same_work = Q(disk=OuterRef("disk"), kind__in=ON_A_NODE) | Q(backup=OuterRef("backup"), kind=JobKind.VERIFY)
    later = Job.objects.filter(
        same_work, kind=OuterRef("kind"), state=JobState.OK, created_at__gt=OuterRef("created_at")
    )
    failed = Job.objects.for_user(person).filter(state=JobState.FAILED, finished_at__gte=now - FAILURES_MATTER_FOR)
    failed = failed.exclude(kind=JobKind.VERIFY, code="backup_damaged")
    unanswered = failed.exclude(Exists(later)).select_related("disk__server")
    return unanswered.order_by("-created_at", "-pk")[:SHOWN_PER_REASON]


def _overdue(person: Person, now: datetime) -> Any:
    due = Definition.objects.for_user(person).filter(active=True, next_run_at__lt=now - OVERDUE_AFTER)
    return due.select_related("disk__server").order_by("next_run_at", "pk")[:SHOWN_PER_REASON]


def _to(name: str, instance: Any) -> str:
    return reverse(name, args=[instance.pk])
