"""Releases of the agent program: taken in signed, offered ring by ring, and not again to who could not take one.

A ring is a share of all agents: which ones is settled by a hash of each agent's id, so a larger share has all of the
smaller one in it. Whether a release was taken, and whether the agent went back, is read from the version it reports.
One that is away or busy catches up later.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Count

from agents.agent_messages import ReleaseManifest, UpdateOffer
from agents.answer_signing import is_release_signed
from agents.fleet import look_again
from agents.models import Agent, Release
from agents.principals import LONGEST_VERSION
from common.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from tenants.audit import record
from tenants.models import Person

FOLDER = "releases"
# Who was offered a release, could have taken it all the time, and does not report it by then, cannot take it.
TAKEN_WITHIN = timedelta(hours=1)
# Agents poll once a minute: of one that was not heard of for longer nobody knows whether it ran at all.
AWAY_AFTER = timedelta(minutes=5)
# What an agent says of itself when an update did not work.
FAILURE_CODES = frozenset({"update_failed", "update_rolled_back"})
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")


def release_folder() -> Path:
    folder: Path = settings.CONFIG.data / FOLDER
    return folder


def import_release(*, manifest: bytes, signature: bytes, file: Path, actor: Person | None) -> Release:
    """Take a release in; it is offered to nobody yet. The file is copied.

    Raises InvalidInputError for a signature of another key, or a file that is not the manifest's; ConflictError for a
    number or a file that is there.
    """
    if not is_release_signed(settings.CONFIG.release_public_key_bytes, manifest=manifest, signature=signature):
        raise InvalidInputError("The manifest is not signed with the release key of this installation.")
    told = _read(manifest)
    content = file.read_bytes()
    if len(content) != told.size_bytes or hashlib.sha256(content).hexdigest() != told.sha256:
        raise InvalidInputError(f"{file.name} is not the file that the manifest names: size or SHA-256 are others.")
    try:
        with transaction.atomic():
            release = Release.objects.create(
                number=told.number, version=told.version, file=told.file, manifest=manifest, signature=signature
            )
    except IntegrityError:
        raise ConflictError(
            "There is a release of this number, or with this file, already.", code="name_taken"
        ) from None
    folder = release_folder()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copyfile(file, folder / told.file)
    record(action="release.import", subject=release, actor=actor, tenant=None, after=_told(release))
    return release


@transaction.atomic
def set_ring(*, release: Release, state: str, percent: int, actor: Person) -> Release:
    """To whom it is offered from now on. Who has it already keeps it. Raises NotAllowedError, InvalidInputError."""
    if not actor.is_superuser:
        raise NotAllowedError("Only a SuperAdmin offers releases.")
    if state not in Release.State.values:
        raise InvalidInputError(f"A release is {', '.join(Release.State.values)}.", field="state")
    if not 0 <= percent <= 100:
        raise InvalidInputError("A ring has 0 to 100 percent of the agents.", field="percent")
    before = _told(release)
    release.state, release.percent = state, percent
    release.save(update_fields=["state", "percent", "changed_at"])
    look_again(Agent.objects.all())
    record(action="release.ring", subject=release, actor=actor, tenant=None, before=before, after=_told(release))
    return release


def standing_of_releases() -> dict[int, dict[str, int]]:
    """How many agents took a release, were offered it, or could not take it, by its number: two queries."""
    agents = Agent.objects.exclude(status=Agent.Status.REVOKED).order_by()
    found: dict[int, dict[str, int]] = {}
    for number, is_taken, count in agents.exclude(release=None).values_list(
        "release__number", "release_taken", Count("pk")
    ):
        found.setdefault(number, {})["taken" if is_taken else "offered"] = count
    for number, count in agents.filter(release_failed__gt=0).values_list("release_failed", Count("pk")):
        found.setdefault(number, {})["failed"] = count
    return found


def release_file(name: str) -> Path:
    """The file of a release that is not withdrawn. Raises NotFoundError."""
    path = release_folder() / name
    if not Release.objects.filter(file=name).exclude(state=Release.State.WITHDRAWN).exists() or not path.is_file():
        raise NotFoundError("There is no such release.")
    return path


def place_in_ring(agent: Agent, release: Release) -> int:
    """0 to 99, another one for each release: it is not always the same agents that are first."""
    digest = hashlib.sha256(f"{release.number} {agent.pk}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100


@dataclass(frozen=True, slots=True)
class Reported:
    """What an agent says that it runs: a version, which several releases may have, and the release's number; 0 for an
    agent that tells none."""

    version: str
    number: int = 0

    def is_of(self, release: Release) -> bool:
        return self.number == release.number if self.number else self.version == release.version


def note_version(
    agent: Agent, reported: Reported, *, problem_code: str, is_busy: bool, is_due: bool, now: datetime
) -> dict[str, object]:
    """What the agent's row says of the release that it was offered, as it follows from what it reports.

    One that was away since, or works on a job (updates wait for its end), could not take it: its hour begins anew.
    """
    has_failed = problem_code in FAILURE_CODES
    # Of who has it all is well by far the most often. Within a version `is_due` looks every few minutes.
    if agent.release_taken and reported.version == agent.version and not (is_due or has_failed):
        return {}
    offered = agent.release
    if offered is None:
        return {}
    if reported.is_of(offered):
        return {} if agent.release_taken else {"release_taken": True}
    gone: dict[str, object] = {"release": None, "release_offered_at": None, "release_taken": False}
    if reported.number > offered.number:
        # A person installed a newer one.
        return gone
    if not (agent.release_taken or has_failed):
        if is_busy or _was_away(agent, now=now):
            return {"release_offered_at": now}
        if agent.release_offered_at is None or agent.release_offered_at + TAKEN_WITHIN > now:
            return {}
    return {**gone, "release_failed": max(agent.release_failed, offered.number)}


def _was_away(agent: Agent, *, now: datetime) -> bool:
    """Before the poll that is answered now."""
    return agent.last_seen_at is None or agent.last_seen_at + AWAY_AFTER <= now


def offer_for(agent: Agent, reported: Reported) -> Release | None:
    """The newest release for this agent; None when it has it, is in no ring, or could not take it or a newer one."""
    least = max(agent.release_failed, reported.number)
    offered = Release.objects.filter(state=Release.State.OFFERED, percent__gt=0, number__gt=least)
    for release in offered.order_by("-number")[:5]:
        if reported.is_of(release):
            return None
        if place_in_ring(agent, release) < release.percent:
            return release
    return None


def offer_message(release: Release) -> UpdateOffer:
    return UpdateOffer(manifest=bytes(release.manifest), signature=bytes(release.signature))


def _read(manifest: bytes) -> ReleaseManifest:
    try:
        told = msgspec.json.decode(manifest, type=ReleaseManifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidInputError(f"The manifest cannot be understood: {error}") from error
    if not _FILE.match(told.file) or not 1 <= len(told.version) <= LONGEST_VERSION or told.number < 1:
        raise InvalidInputError("The manifest's number, version or file name cannot be right.")
    return told


def _told(release: Release) -> dict[str, object]:
    return {"version": release.version, "number": release.number, "state": release.state, "percent": release.percent}
