"""A second person for what cannot be undone.

A service calls `require` before it does such a thing. Without a rule it returns. With one it looks for a request of
this person, for exactly this, that somebody else approved, and uses it up; else it makes the request and raises
ApprovalNeededError. The person does the same thing again once it was approved.

The second person is another active person who has the right himself, who did not get his account or right from the
requester a short while before or at any time after the request. What the audit tells is what counts as such.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import IntegrityError, models, transaction
from django.db.models import Max, Q
from django.utils import timezone

from common.errors import ApprovalNeededError, ConflictError, InvalidInputError, NotAllowedError
from common.transitions import change_status
from tenants.approval_states import (
    ALONE_AFTER,
    COOLING,
    GOOD_FOR,
    KINDS,
    RULE_KINDS,
    WAITS,
    ApprovalKind,
    ApprovalStatus,
    sources_of,
)
from tenants.audit import cleaned, record, tenant_of
from tenants.models.approvals import ApprovalEvent, ApprovalRequest, ApprovalRule
from tenants.models.audit import AuditEvent
from tenants.models.core import ADMINISTER_TENANT, Person, Tenant, TenantGroupPermission, TenantUserPermission
from tenants.notices import publish
from tenants.origin import current_visit

MOST_PENDING = 50
LONGEST_REASON = 300


# --- asking -----------------------------------------------------------------------------------------------------------


def require(
    *,
    kind: str,
    subject: models.Model,
    actor: Person | None,
    parameters: Mapping[str, Any] | None = None,
    tenant: Tenant | None = None,
    now: datetime | None = None,
) -> None:
    """Return when the person may do it now; raise ApprovalNeededError when a second person has to agree first.

    Call it inside the transaction of the action, after everything else was checked: an approval is used up with what it
    was given for, or not at all. `actor` None is the installation itself (a command on the machine): it is not asked.
    The request that is made is kept though the caller's transaction is rolled back: in a request of HTTP it is written
    after the answer was made; elsewhere the caller gets it with the error and calls `keep`.
    """
    if actor is None:
        return
    tenant = tenant or tenant_of(subject)
    if not is_required(kind, tenant):
        return
    _require_second(ApprovalKind(kind), subject, actor, parameters or {}, tenant, now or timezone.now())


def is_required(kind: str, tenant: Tenant | None) -> bool:
    """Whether a rule, of the tenant or for everywhere, asks for a second person."""
    here = Q(tenant=None) | Q(tenant=tenant) if tenant is not None else Q(tenant=None)
    return ApprovalRule.objects.filter(here, kind=kind, required=True).exists()


def _require_second(
    kind: ApprovalKind,
    subject: models.Model,
    actor: Person,
    parameters: Mapping[str, Any],
    tenant: Tenant | None,
    now: datetime,
) -> None:
    wanted = _new_request(kind, subject, actor, parameters, tenant, now)
    same = ApprovalRequest.objects.filter(
        kind=kind,
        subject_type=wanted.subject_type,
        subject_id=wanted.subject_id,
        parameters_hash=wanted.parameters_hash,
        requested_by=actor,
        expires_at__gt=now,
    )
    for approved in same.filter(status=ApprovalStatus.APPROVED).select_related("tenant", "decided_by"):
        if _why_not(approved, approved.decided_by) is None and _move(approved, ApprovalStatus.USED, actor, now):
            return
    waiting = same.filter(status=ApprovalStatus.PENDING).first()
    if waiting is not None:
        raise _needed(waiting, "A second person has not agreed yet")
    if ApprovalRequest.objects.open(now).filter(requested_by=actor).count() >= MOST_PENDING:
        raise ConflictError(
            f"You have {MOST_PENDING} requests that wait for a second person. Withdraw some first.",
            code="too_many_approvals",
        )
    _keep_whatever_happens(wanted)
    raise _needed(wanted, "This needs a second person, who was asked now")


def _new_request(
    kind: ApprovalKind,
    subject: models.Model,
    actor: Person,
    parameters: Mapping[str, Any],
    tenant: Tenant | None,
    now: datetime,
) -> ApprovalRequest:
    shown = cleaned(parameters)
    return ApprovalRequest(
        tenant=tenant,
        kind=kind,
        subject_type=subject._meta.model_name or "",
        subject_id=str(subject.pk),
        subject_name=str(subject)[:200],
        parameters=shown,
        parameters_hash=hashlib.sha256(msgspec.json.encode(shown, order="sorted")).hexdigest(),
        requested_by=actor,
        requested_by_name=str(actor)[:200],
        expires_at=now + WAITS,
    )


def _needed(request: ApprovalRequest, beginning: str) -> ApprovalNeededError:
    error = ApprovalNeededError(
        f"{beginning}: request {request.pk}, until {request.expires_at:%Y-%m-%d %H:%M} UTC. "
        "Do the same again once it was approved.",
        extra={"approval": str(request.pk), "approval_url": f"/api/v1/approvals/{request.pk}/"},
    )
    error.request = request  # type: ignore[attr-defined]  # for callers outside of HTTP
    return error


def _keep_whatever_happens(request: ApprovalRequest) -> None:
    visit = current_visit()
    if visit is not None:
        visit.afterwards.append(lambda: keep(request))


def _tell_approvers(request: ApprovalRequest) -> None:
    facts = {
        "kind": request.kind,
        "requested_by": request.requested_by_name,
        "expires_at": f"{request.expires_at:%Y-%m-%d %H:%M} UTC",
    }
    publish(event="approval.requested", tenant=request.tenant, subject=request, facts=facts, name=request.subject_name)


def keep(request: ApprovalRequest) -> bool:
    """Write the request. False when the same was asked at the same moment, or what it is about is gone."""
    now = timezone.now()
    same = ApprovalRequest.objects.filter(kind=request.kind, subject_id=request.subject_id)
    same = same.filter(parameters_hash=request.parameters_hash, requested_by=request.requested_by)
    try:
        with transaction.atomic():
            # One that is over, and that the sweep has not come to yet, would stand in the way.
            for late in same.filter(status=ApprovalStatus.PENDING, expires_at__lt=request.expires_at):
                _move(late, ApprovalStatus.EXPIRED, None, late.expires_at)
            request.save(force_insert=True)
            _note(request, code="requested", actor=request.requested_by, now=now)
            _tell_approvers(request)
    except IntegrityError:
        return False
    return True


# --- answering --------------------------------------------------------------------------------------------------------


@transaction.atomic
def approve(*, request: ApprovalRequest, actor: Person, now: datetime) -> ApprovalRequest:
    """Agree. The requester may do it once within a day. Raises NotAllowedError with the reason for who may not."""
    current = _locked(request)
    reason = _why_not(current, actor)
    if reason is not None:
        raise NotAllowedError(reason, code="not_the_second_person")
    # What was decided is the second person's, and from here the day runs in which it can be used.
    facts = {"decided_by": actor, "decided_by_name": str(actor)[:200], "decided_at": now, "expires_at": now + GOOD_FOR}
    _must_move(current, ApprovalStatus.APPROVED, actor, now, **facts)
    return current


@transaction.atomic
def decline(*, request: ApprovalRequest, reason: str, actor: Person, now: datetime) -> ApprovalRequest:
    """Refuse, or take an approval back that was not used yet. Everybody who has the right may, but the requester."""
    if len(reason) > LONGEST_REASON:
        raise InvalidInputError(f"A reason has at most {LONGEST_REASON} characters.", field="reason")
    current = _locked(request)
    if actor.pk == current.requested_by_id:
        raise NotAllowedError("It is your own request: withdraw it instead.", code="not_the_second_person")
    if not _has_right(actor, KINDS[ApprovalKind(current.kind)].tenant_admins, current.tenant):
        raise NotAllowedError("Only who may approve it may decline it.", code="not_the_second_person")
    facts = {"decided_by": actor, "decided_by_name": str(actor)[:200], "decided_at": now, "reason": reason}
    _must_move(current, ApprovalStatus.DECLINED, actor, now, **facts)
    return current


@transaction.atomic
def withdraw(*, request: ApprovalRequest, actor: Person, now: datetime) -> ApprovalRequest:
    """Take one's own request back, also after it was approved."""
    current = _locked(request)
    if actor.pk != current.requested_by_id:
        raise NotAllowedError("Only who made the request may withdraw it; you may decline it.")
    _must_move(current, ApprovalStatus.WITHDRAWN, actor, now)
    return current


def expire_requests(*, now: datetime) -> int:
    """End what nobody answered, or used, in time; how many."""
    late = ApprovalRequest.objects.filter(status__in=sources_of(ApprovalStatus.EXPIRED), expires_at__lte=now)
    return sum(_move(request, ApprovalStatus.EXPIRED, None, now) for request in late.select_related("tenant"))


def _locked(request: ApprovalRequest) -> ApprovalRequest:
    rows = ApprovalRequest.objects.select_for_update(of=("self",)).select_related("tenant", "requested_by")
    return rows.get(pk=request.pk)


def _must_move(request: ApprovalRequest, status: ApprovalStatus, actor: Person, now: datetime, **facts: Any) -> None:
    if not _move(request, status, actor, now, **facts):
        request.refresh_from_db()
        shown = request.status if request.expires_at > now else ApprovalStatus.EXPIRED
        raise ConflictError(f"The request is {shown}: nothing can be done about it any more.", code="approval_closed")


def _move(request: ApprovalRequest, status: ApprovalStatus, actor: Person | None, now: datetime, **facts: Any) -> bool:
    """The one way in which a request's status changes; False when it may not come from where it is, or is too late."""
    rows = ApprovalRequest.objects.filter(pk=request.pk, status__in=sources_of(status))
    rows = rows.filter(expires_at__lte=now) if status is ApprovalStatus.EXPIRED else rows.filter(expires_at__gt=now)
    done = change_status(
        queryset=rows,
        changes={"status": status, "changed_at": now, **facts},
        record=lambda: _note(request, code=status, actor=actor, now=now),
    )
    if done:
        request.refresh_from_db()
    return done


def _note(request: ApprovalRequest, *, code: str, actor: Person | None, now: datetime) -> None:
    ApprovalEvent.objects.create(request=request, at=now, code=code, actor_name=str(actor or "")[:200])
    facts = {"kind": request.kind, "subject": request.subject_name, "parameters": request.parameters}
    record(action=f"approval.{code}", subject=request, tenant=request.tenant, actor=actor, after=facts)


# --- who is the second person -----------------------------------------------------------------------------------------


def may_approve(request: ApprovalRequest, person: Person) -> bool:
    """Whether the person can be the second one for this request, for showing or hiding a button."""
    return _why_not(request, person) is None


def which_may_approve(requests: Collection[ApprovalRequest], person: Person) -> set[UUID]:
    """As `may_approve`, the keys of those where he can, in a few statements for all of them."""
    current = Person.objects.filter(pk=person.pk, is_active=True).first()
    if current is None:
        return set()
    tenants = {request.tenant_id for request in requests} - {None}
    administered = set(current.administered_tenants().filter(pk__in=tenants).values_list("pk", flat=True))
    others = {request.requested_by_id for request in requests} - {None, person.pk}
    earliest = min((request.created_at for request in requests), default=timezone.now())
    given = _changes_of(person, by=others, since=earliest - COOLING)
    last_given = dict(given.values("actor_id").annotate(last=Max("at")).values_list("actor_id", "last"))
    return {
        request.pk
        for request in requests
        if request.requested_by_id in others
        and _right_is_enough(request, current, administered)
        and not _is_warm(request, last_given.get(str(request.requested_by_id)))
    }


def answerable_by(person: Person, *, now: datetime) -> Q:
    """The pending requests that the person can approve now, as `may_approve` finds them one by one."""
    nothing = Q(pk__in=[])
    current = Person.objects.filter(pk=person.pk, is_active=True).first()
    if current is None:
        return nothing
    found = Q(status=ApprovalStatus.PENDING, expires_at__gt=now, requested_by__isnull=False) & ~Q(requested_by=current)
    if not current.is_superuser:
        kinds = [str(kind) for kind, facts in KINDS.items() if facts.tenant_admins]
        found &= Q(kind__in=kinds, tenant__in=current.administered_tenants())
    waiting = ApprovalRequest.objects.filter(found).order_by()
    # None that can still be answered was asked for longer ago than requests wait.
    given = _changes_of(person, by=set(waiting.values_list("requested_by_id", flat=True)), since=now - WAITS - COOLING)
    for actor_id, last in given.values("actor_id").annotate(last=Max("at")).values_list("actor_id", "last"):
        found &= ~Q(requested_by=actor_id, created_at__lte=last + COOLING)
    return found


def _right_is_enough(request: ApprovalRequest, person: Person, administered: Collection[UUID]) -> bool:
    by_tenant = KINDS[ApprovalKind(request.kind)].tenant_admins and request.tenant_id in administered
    return person.is_superuser or by_tenant


def _is_warm(request: ApprovalRequest, last_given: datetime | None) -> bool:
    return last_given is not None and last_given >= request.created_at - COOLING


def _changes_of(person: Person, *, by: Collection[UUID], since: datetime) -> models.QuerySet[AuditEvent]:
    """What these persons did to the account or the rights of the person."""
    done = AuditEvent.objects.filter(subject_type="person", subject_id=str(person.pk), at__gte=since)
    return done.filter(actor_id__in=[str(key) for key in by], outcome=AuditEvent.Outcome.DONE).order_by()


def _why_not(request: ApprovalRequest, person: Person | None) -> str | None:
    """Why the person cannot be the second one; None when he can."""
    if person is None or not _has_right(person, KINDS[ApprovalKind(request.kind)].tenant_admins, request.tenant):
        return "Your role is not enough to be the second person for this."
    if person.pk == request.requested_by_id:
        return "It is your own request: a second person has to approve it."
    if request.requested_by_id is None:
        return "Who asked is not there any more."
    if _changes_of(person, by=[request.requested_by_id], since=request.created_at - COOLING).exists():
        hours = int(COOLING.total_seconds() // 3600)
        return (
            f"Your account or rights were changed by {request.requested_by_name} less than {hours} hours before this "
            "request, or after it: somebody else has to approve it."
        )
    return None


def _has_right(person: Person, tenant_admins: bool, tenant: Tenant | None) -> bool:
    current = Person.objects.filter(pk=person.pk, is_active=True).first()
    if current is None:
        return False
    if current.is_superuser:
        return True
    return tenant_admins and tenant is not None and current.administered_tenants().filter(pk=tenant.pk).exists()


def approvers(kind: str, tenant: Tenant | None) -> models.QuerySet[Person]:
    """All active persons who have the right to answer requests of the kind in the tenant."""
    reach = Q(is_superuser=True)
    if KINDS[ApprovalKind(kind)].tenant_admins and tenant is not None:
        held = {"content_object": tenant, "permission__codename": ADMINISTER_TENANT}
        reach |= Q(pk__in=TenantUserPermission.objects.filter(**held).values("user_id"))
        reach |= Q(groups__in=TenantGroupPermission.objects.filter(**held).values("group_id"))
    return Person.objects.filter(reach, is_active=True).distinct()


# --- rules ------------------------------------------------------------------------------------------------------------


@transaction.atomic
def set_rule(*, kind: str, tenant: Tenant | None, required: bool, actor: Person, now: datetime) -> ApprovalRule:
    """Switch a rule on or off, in one tenant or everywhere. Doing what is so already changes nothing.

    On: only while at least two people could answer. Off: itself needs a second person, as long as there is one.
    Everywhere: SuperAdmins only. The caller has checked the person's right to the tenant.
    """
    if kind not in RULE_KINDS:
        raise InvalidInputError(f"There is no such kind; known: {', '.join(RULE_KINDS)}.", field="kind")
    if tenant is None and not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin makes rules for everywhere.")
    rule = ApprovalRule.objects.select_for_update(of=("self",)).filter(kind=kind, tenant=tenant).first()
    if (rule is not None and rule.required) == required:
        return rule or ApprovalRule.objects.create(kind=kind, tenant=tenant)
    if required:
        _refuse_without_two(kind, tenant)
    elif rule is not None:
        _require_for_off(rule, actor, now)
    rule = rule or ApprovalRule(kind=kind, tenant=tenant)
    rule.required = required
    rule.save()
    facts = {"kind": kind, "everywhere": tenant is None}
    record(
        action="approval_rule.on" if required else "approval_rule.off",
        subject=rule,
        tenant=tenant,
        actor=actor,
        after=facts,
    )
    return rule


def _refuse_without_two(kind: str, tenant: Tenant | None) -> None:
    count = approvers(kind, tenant).count()
    if count < 2:
        raise ConflictError(
            "A second person cannot be asked for: nobody else has the right to approve this "
            f"({count} can). Make another administrator first; else nobody could do it at all.",
            code="no_second_person",
        )


def _require_for_off(rule: ApprovalRule, actor: Person, now: datetime) -> None:
    kind = ApprovalKind.APPROVALS_OFF
    if approvers(kind, rule.tenant).exclude(pk=actor.pk).exists():
        _require_second(kind, rule, actor, {"kind": rule.kind}, rule.tenant, now)
        return
    sent_away = AuditEvent.objects.filter(actor_id=str(actor.pk), subject_type="person", at__gte=now - ALONE_AFTER)
    if sent_away.exclude(subject_id=str(actor.pk)).exists():
        raise ConflictError(
            f"You are the only administrator now, and changed accounts of others within the last {ALONE_AFTER.days} "
            "days. Until these are over, make a second administrator, or wait.",
            code="no_second_person",
        )
