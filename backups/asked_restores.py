"""Restores that are asked for at a server. An agent's key alone reads nothing: a person who may restore confirms them.

Both sides show the same code, so that what is confirmed is what was asked for, and not what somebody else put there.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from agents.agent_messages import RestoreAsked, RestoreRequest
from agents.models import Agent, Disk, Server
from backups.file_restores import FileWish
from backups.models import AskedRestore, Backup, Job
from backups.services import refuse_restore, request_restore
from common.errors import ConflictError, InvalidInputError, NotFoundError, TooManyAttemptsError
from tenants.access import get_for_user
from tenants.audit import record
from tenants.models import Person
from tenants.roles import Action

GOOD_FOR = timedelta(hours=1)
MOST_WAITING = 5
# Without signs that look alike.
_SIGNS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
_State = AskedRestore.State


@transaction.atomic
def ask_restore(agent: Agent, message: RestoreRequest, *, now: datetime) -> AskedRestore:
    """Keep what the server asks for until somebody answers. What could not be done is refused at once.

    A backup of its own or of another server of its tenant: NotFoundError for all else. ConflictError, InvalidInputError
    as for every restore; TooManyAttemptsError while too many wait.
    """
    Server.objects.select_for_update(of=("self",), no_key=True).get(pk=agent.server_id)
    waiting = AskedRestore.objects.filter(agent=agent, state=_State.WAITS, expires_at__gt=now)
    if waiting.count() >= MOST_WAITING:
        raise TooManyAttemptsError(f"{MOST_WAITING} restores of this server wait for an answer already.")
    found = Backup.objects.in_catalogue().filter(tenant=agent.server.tenant_id, pk=_id(message.backup))
    backup = found.select_related("disk__server", "manifest", "server", "tenant", "storage").first()
    if backup is None:
        raise NotFoundError("There is no such backup of this server or its tenant.")
    wish = _wish(message)
    refuse_restore(backup=backup, target=_target(agent.server), files=wish)
    asked = AskedRestore.objects.create(
        agent=agent,
        backup=backup,
        target=message.target.strip()[:1000],
        paths=list(wish.paths),
        overwrite=message.overwrite,
        code=_new_code(),
        expires_at=now + GOOD_FOR,
    )
    told = {"backup": str(backup.pk), "target": asked.target, "paths": len(wish.paths), "overwrite": asked.overwrite}
    record(action="restore.ask", subject=asked, actor=None, tenant=agent.server.tenant, after=told)
    return asked


def asked_of(agent: Agent, key: UUID) -> AskedRestore:
    """What this agent asked for. Raises NotFoundError."""
    asked: AskedRestore | None = AskedRestore.objects.filter(agent=agent, pk=key).first()
    if asked is None:
        raise NotFoundError("This server asked for no such restore.")
    return asked


def asked_message(asked: AskedRestore, *, now: datetime) -> RestoreAsked:
    return RestoreAsked(
        request=str(asked.pk),
        code=asked.code,
        portal_url=settings.CONFIG.portal_url + f"/asked-restores/{asked.pk}/",
        expires_at=asked.expires_at,
        state=asked.shown_state(now),
        job=str(asked.job_id or ""),
    )


@transaction.atomic
def confirm_restore(*, asked: AskedRestore, code: str, actor: Person, now: datetime) -> Job:
    """Let it happen. The actor may restore the backup, and onto the server: else as if they were not there.

    Raises InvalidInputError for another code than the one at the server, ConflictError for what was answered or is too
    old, and whatever a restore is refused for.
    """
    backup = get_for_user(_BACKUPS, person=actor, action=Action.RESTORE, pk=asked.backup_id)
    target = _target(get_for_user(Server.objects.all(), person=actor, action=Action.RESTORE, pk=asked.agent.server_id))
    if not hmac.compare_digest(_plain_code(code).encode(), _plain_code(asked.code).encode()):
        raise InvalidInputError(
            "The server shows another code. Compare both, and confirm only what is yours.", field="code"
        )
    if asked.agent.status != Agent.Status.ENROLLED:
        raise ConflictError("The agent that asked is not enrolled any more.", code="wrong_agent_status")
    _answer(asked, _State.CONFIRMED, actor=actor, now=now)
    job = request_restore(
        backup=backup,
        target=target,
        confirmation=target.server.name,
        actor=actor,
        now=now,
        files=_wish(RestoreRequest(str(backup.pk), asked.target, asked.paths, asked.overwrite)),
    )
    AskedRestore.objects.filter(pk=asked.pk).update(job=job)
    record(action="restore.confirm", subject=asked, actor=actor, tenant=job.tenant, after={"job": str(job.pk)})
    return job


@transaction.atomic
def refuse_asked(*, asked: AskedRestore, actor: Person, now: datetime) -> None:
    """It does not happen; the server is told. Raises ConflictError for what was answered or is too old."""
    _answer(asked, _State.REFUSED, actor=actor, now=now)
    record(action="restore.refuse", subject=asked, actor=actor, tenant=asked.agent.server.tenant)


def forget_asked_restores(*, now: datetime) -> int:
    """What was answered or ran out a month ago. Returns how many; the audit keeps them."""
    return AskedRestore.objects.filter(expires_at__lte=now - timedelta(days=30)).delete()[0]


def _answer(asked: AskedRestore, state: AskedRestore.State, *, actor: Person, now: datetime) -> None:
    waiting = AskedRestore.objects.filter(pk=asked.pk, state=_State.WAITS, expires_at__gt=now)
    if not waiting.update(state=state, answered_by=actor, changed_at=now):
        asked.refresh_from_db()
        raise ConflictError(f"This was {asked.shown_state(now)} already. Ask again at the server.", code="answered")


def _wish(message: RestoreRequest) -> FileWish:
    """In place only when it was said that files may be overwritten; else into a new folder."""
    folder = message.target.strip()
    if not folder.startswith("/"):
        raise InvalidInputError("Name the target by its whole path, such as /srv/restored.", field="target")
    folder = folder.strip("/")
    if not folder and not message.overwrite:
        raise InvalidInputError(
            "A restore to / replaces files of this server. Say that it may overwrite, or name a new folder.",
            field="target",
        )
    return FileWish(paths=tuple(message.paths), folder=folder).check()


def _target(server: Server) -> Disk:
    disk: Disk | None = server.disks.select_related("server__node", "server__tenant").order_by("number").first()
    if disk is None:
        raise ConflictError(f"{server.name} has no disk to restore to.", code="no_disk")
    return disk


def _new_code() -> str:
    signs = "".join(secrets.choice(_SIGNS) for _ in range(8))
    return f"{signs[:4]}-{signs[4:]}"


def _plain_code(text: str) -> str:
    return "".join(sign for sign in text.upper() if sign in _SIGNS)


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInputError("This is no id of a backup.", field="backup") from None


_BACKUPS = Backup.objects.select_related("disk__server", "manifest", "server", "tenant", "storage")
