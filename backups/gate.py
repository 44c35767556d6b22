"""The session gate: the HTTP face of one session for its mover. Served only by the signer process.

Every call is authenticated by the session's token and refused with 409 once the session has lost its job.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from agents import protocol
from agents.models import Agent
from backups.copies.settling import settle_check, settle_copy
from backups.drills import settle_drill
from backups.models import Job, Session
from backups.moves import moves_for
from backups.new_targets import attached_note, note_defined, note_written
from backups.opening import open_session
from backups.points import bounded_warnings, safety_name
from backups.queue import hint_commit, hint_next
from backups.resuming import resumable_objects
from backups.serving import finish_serving, note_serving
from backups.states import JobKind, JobState
from backups.transitions import (
    end_session_job,
    finish_job,
    mark_restored,
    note_target,
    note_warnings,
    renew_lease,
    request_commit,
)
from backups.upload_quota import charge
from common.errors import (
    BackupsiteError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    NotSignedInError,
    TooManyAttemptsError,
)
from common.ids import hash_token
from engine.store.base import ObjectKind, ObjectRef
from engine.store.http import Grant, PutSpec
from tenants.api.throttling import count_request
from tenants.origin import AGENT, NODE, Origin, acting_as
from vaults.grants import GrantContext, grant_gets, grant_puts
from vaults.locks import LONGEST_SESSION
from vaults.models import StoredObject, Vault

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)
DONE = protocol.Refusal(code="done")


class SessionEndedError(ConflictError):
    """The session's job is finished, canceled or taken over."""

    code = "session_ended"


Endpoint = Callable[[Session, bytes], msgspec.Struct]


def _endpoint(function: Endpoint) -> Callable[[HttpRequest], HttpResponse]:
    """Authenticate, call, and give every error its one form."""

    @csrf_exempt
    @require_POST
    @functools.wraps(function)
    def view(request: HttpRequest) -> HttpResponse:
        try:
            session = _session_of(request)
            with acting_as(_origin_of(session)):
                return _json(function(session, request.body), status=200)
        except BackupsiteError as error:
            return _json(protocol.Refusal(code=error.code, message=error.message), status=error.http_status)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return _json(protocol.Refusal(code="invalid_message", message=str(error)), status=400)

    return view


def _origin_of(session: Session) -> Origin:
    """The node, or the agent, that moves the data: it acts by its session, and nobody else has the session's token."""
    node = session.job.node
    agent = getattr(session.job.disk.server, "agent", None) if node is None and session.job.disk else None
    if agent is not None:
        return Origin(AGENT, str(agent.pk), str(agent), token_id=str(session.pk))
    return Origin(NODE, str(node.pk) if node else "", str(node or ""), token_id=str(session.pk))


def _json(answer: msgspec.Struct, *, status: int) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(answer), status=status, content_type="application/json")


def _session_of(request: HttpRequest) -> Session:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    session = None
    if scheme.lower() == "bearer" and token:
        _refuse_too_many(hash_token(token.strip()))
        related = ("job__backup__vault__endpoint", "job__disk__server__domain", "job__disk__storage", "base__manifest")
        related += ("job__backup__storage", "job__backup__tenant", "job__disk__server__agent")
        found = Session.objects.select_related(*related, "job__definition__vault", "job__node")
        session = found.filter(token_hash=hash_token(token.strip())).first()
    if session is None:
        raise NotSignedInError("This token belongs to no session.")
    if not session.is_live(timezone.now()) and session.commit_requested_at is None:
        raise SessionEndedError("The job of this session has ended or was taken over.")
    _refuse_stopped_agent(session.job)
    return session


def _refuse_stopped_agent(job: Job) -> None:
    """Who was revoked, or may be on two machines, gets nothing more; what was granted ends within minutes."""
    if job.node_id is not None or job.disk is None:
        return
    agent = getattr(job.disk.server, "agent", None)
    if agent is None or agent.status != Agent.Status.ENROLLED:
        raise SessionEndedError("The agent of this session was revoked, or is in quarantine.", code="agent_revoked")


def _refuse_too_many(token_hash: str) -> None:
    """Before anything is read: a mover that asks without end costs the others nothing. Its next try comes later."""
    standing = count_request("session", token_hash, now=time.time())
    if standing is not None and not standing.allowed:
        raise TooManyAttemptsError(f"This session asks too often. Try again in {standing.reset_seconds} seconds.")


def _message(body: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(body, type=kind)


def _refuse_after_commit(session: Session) -> None:
    if session.commit_requested_at is not None:
        raise SessionEndedError("The session has asked for its commit; nothing more can be written.")


@_endpoint
def open_view(session: Session, body: bytes) -> Any:
    _refuse_after_commit(session)
    return open_session(session, tells_target=_message(body or b"{}", protocol.OpenRequest).tells_target)


@_endpoint
def heartbeat_view(session: Session, body: bytes) -> protocol.HeartbeatAnswer:
    progress = _message(body, protocol.Progress)
    if session.commit_requested_at is None and not renew_lease(session, progress=progress, now=timezone.now()):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return protocol.HeartbeatAnswer(cancel=session.job.cancel_requested)


@_endpoint
def put_grants_view(session: Session, body: bytes) -> protocol.GrantsAnswer:
    _refuse_after_commit(session)
    asked = _message(body, protocol.PutGrantsRequest).specs
    specs = [PutSpec(spec.key, spec.sha256, spec.md5_base64, spec.size_bytes) for spec in asked]
    vault = _vault_for_writing(session)
    for spec in specs:
        _refuse_foreign_manifest(session, spec.key)
    _refuse_overlong(session)
    charge(session, specs)
    context = GrantContext(
        domain=session.job.disk.server.domain,
        session_id=session.pk,
        now=timezone.now(),
        retain_until=session.retain_until,
    )
    context.domain.vault = vault
    return _answer(grant_puts(context, specs))


def _refuse_overlong(session: Session) -> None:
    """Locks are reckoned for sessions of a day at most; what a cut attempt stored is kept for the next as long."""
    if session.created_at + LONGEST_SESSION <= timezone.now():
        message = "The session is older than a day; the next one goes on with what it has stored."
        raise SessionEndedError(message, code="session_too_long")


def _vault_for_writing(session: Session) -> Vault:
    job = session.job
    if job.kind != JobKind.BACKUP or job.backup is None or session.retain_until is None:
        raise InvalidInputError("Only a backup that was opened may write.", code="not_a_writer")
    if job.disk.server.domain is None or job.disk.server.domain.vault_id != job.backup.vault_id:
        raise InvalidInputError("The server's data lies in another vault.", code="other_vault")
    return job.backup.vault


def _refuse_foreign_manifest(session: Session, key: str) -> None:
    kind, *names = key.split("/")[4:] or [""]
    beginning = f"{session.job.disk_id}/{session.sequence:020d}-"
    if kind == ObjectKind.MANIFEST and not "/".join(names).startswith(beginning):
        raise InvalidInputError("A manifest is named by this session's disk and sequence number.", code="foreign_key")


@_endpoint
def get_grants_view(session: Session, body: bytes) -> protocol.GrantsAnswer:
    _refuse_after_commit(session)
    asked = _message(body, protocol.GetGrantsRequest).objects
    readable, vault = _readable(session)
    rows = {row.key: row for row in readable.filter(key__in=[message.key for message in asked])}
    refs = []
    for message in asked:
        row = rows.get(message.key)
        if row is None:
            raise NotFoundError("This session may not read that object.")
        refs.append(ObjectRef(row.key, row.sha256, row.size_bytes, row.version_id or None))
    uncommitted = {row.key for row in rows.values() if row.status == StoredObject.Status.GRANTED}
    return _answer(grant_gets(vault, refs, uncommitted=uncommitted))


def _readable(session: Session) -> tuple[Any, Vault]:
    """A restore reads what its backup needs.

    A backup reads manifest and map of its base, never its content or keys; and what cut attempts at itself stored,
    whose content it cannot open either.
    """
    if session.job.kind == JobKind.BACKUP:
        base = Q(used_by__manifest=session.base.manifest_id, kind=ObjectKind.INDEX) if session.base else Q(pk=None)
        own = Q(pk__in=resumable_objects(session, timezone.now()).values("pk"))
        manifest = Q(pk=session.base.manifest_id) if session.base else Q(pk=None)
        return StoredObject.objects.filter(base | manifest | own).distinct(), _vault_for_writing(session)
    backup = session.job.backup
    if backup is None or backup.manifest is None:
        raise NotFoundError("This session has nothing to read.")
    moves = [row.pk for row in moves_for(backup.manifest)]
    own = Q(pk__in=[backup.manifest_id, *moves])
    needed = Q(used_by__manifest__in=[backup.manifest_id, *moves])
    return StoredObject.objects.filter(own | needed).distinct(), backup.vault


def _answer(grants: list[Grant]) -> protocol.GrantsAnswer:
    return protocol.GrantsAnswer([protocol.GrantMessage(g.method, g.url, dict(g.headers)) for g in grants])


@_endpoint
def commit_view(session: Session, body: bytes) -> protocol.Refusal:
    request = _message(body, protocol.CommitRequest)
    if session.commit_requested_at is None:
        if session.job.kind != JobKind.BACKUP:
            raise InvalidInputError("Only a backup is committed.", code="not_a_writer")
        _refuse_overlong(session)
        if not request_commit(session, request=msgspec.to_builtins(request), now=timezone.now()):
            raise SessionEndedError("The job of this session has ended or was taken over.")
    hint_commit(session.pk)
    return DONE


@_endpoint
def target_opened_view(session: Session, body: bytes) -> protocol.Refusal:
    opened = _message(body, protocol.TargetOpened)
    if session.job.kind != JobKind.RESTORE:
        raise InvalidInputError("Only a restore has a target.", code="not_a_restore")
    name = opened.safety_point if opened.safety_point == safety_name(session.job_id) else ""
    warnings = bounded_warnings(opened.warnings)
    if not note_target(session, safety_point=name, warnings=warnings, now=timezone.now()):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return DONE


@_endpoint
def restore_written_view(session: Session, body: bytes) -> protocol.DefineOrder:
    if session.job.kind != JobKind.RESTORE or not session.job.new_server:
        raise InvalidInputError("Only a restore of a new server ends like this.", code="not_a_restore")
    return note_written(session.job, now=timezone.now())


@_endpoint
def restore_done_view(session: Session, body: bytes) -> protocol.Refusal:
    done = _message(body, protocol.RestoreDone)
    job = session.job
    if job.kind == JobKind.VERIFY and job.drill_storage_id is not None:
        if not settle_drill(session, done):
            raise SessionEndedError("The job of this session has ended or was taken over.")
        return DONE
    if job.kind != JobKind.RESTORE:
        raise InvalidInputError("Only a restore ends like this.", code="not_a_restore")
    finished = finish_job(
        session,
        now=timezone.now(),
        message=f"{done.written_bytes} bytes were written to {_place_of(job)}; every block was checked."
        f"{attached_note(job, done.attached_as)}",
        usage=done.usage,
        also=lambda: _note_restored(job, done.server),
        warnings=[*job.warnings, *bounded_warnings(done.warnings)],
        done_bytes=job.total_bytes,
    )
    if not finished:
        raise SessionEndedError("The job of this session has ended or was taken over.")
    hint_next(job.disk_id)
    return DONE


@_endpoint
def copied_view(session: Session, body: bytes) -> protocol.Refusal:
    if not settle_copy(session, _message(body, protocol.CopyDone)):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return DONE


@_endpoint
def copy_checked_view(session: Session, body: bytes) -> protocol.Refusal:
    if not settle_check(session, _message(body, protocol.CopyChecked)):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return DONE


def _place_of(job: Job) -> str:
    folder = job.files.get("folder", "")
    return f"the folder {folder} of {job.disk}" if folder else str(job.disk)


@_endpoint
def serving_view(session: Session, body: bytes) -> protocol.Refusal:
    told = _message(body, protocol.Serving)
    _refuse_other_than(session, JobKind.SERVE)
    if not note_serving(session, told, now=timezone.now()):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return DONE


@_endpoint
def serve_done_view(session: Session, body: bytes) -> protocol.Refusal:
    done = _message(body, protocol.ServeDone)
    _refuse_other_than(session, JobKind.SERVE)
    if not finish_serving(session, done):
        raise SessionEndedError("The job of this session has ended or was taken over.")
    return DONE


def _refuse_other_than(session: Session, kind: JobKind) -> None:
    if session.job.kind != kind:
        raise InvalidInputError(f"Only a job of the kind {kind} says this.", code="other_kind")


def _note_restored(job: Job, server: str) -> None:
    mark_restored(job)
    if server and job.new_server:
        note_defined(job, server, now=timezone.now())


@_endpoint
def fail_view(session: Session, body: bytes) -> protocol.Refusal:
    _refuse_after_commit(session)
    failure = _message(body, protocol.Failure)
    canceled = failure.code == "canceled" and session.job.cancel_requested
    job = session.job
    note_warnings(session, bounded_warnings(failure.warnings))
    ended = end_session_job(
        session,
        state=JobState.CANCELED if canceled else JobState.FAILED,
        code=failure.code[:64],
        message=failure.message[:2000],
        now=timezone.now(),
    )
    if ended and failure.is_whole_but_damage and job.kind == JobKind.RESTORE:
        # Files that the backup has no more are no reason to make no backups of all the others.
        mark_restored(job)
    hint_next(job.disk_id)
    return DONE
