"""Jobs and restores: lists and one job, with progress that renews itself while something runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from backups.list_forms import JobFilters, RestoreFilters
from backups.models import Job
from backups.pace import Pace
from backups.serializers import JobSerializer
from backups.services import cancel_job
from backups.states import JobKind, JobState
from backups.watching import paces_of
from common.errors import BackupsiteError
from tenants.access import get_for_user, may
from tenants.listing import NOT_YET, Listed, Listing, Sort
from tenants.models import Person
from tenants.renewing import part_of
from tenants.roles import Action
from tenants.views import back_with_error, portal_page

# htmx: swap this answer in, and ask no more.
STATUS_STOP_POLLING = 286
# While nothing of a list is active, for what begins.
IDLE_SECONDS = 20
_JOBS = Job.objects.select_related("disk__server", "requested_by", "backup", "definition")


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a person does after a job, with the page for it."""

    sentence: str
    url: str = ""
    link: str = ""


# Of a job that stands still, for how long is said anew so often.
STILL_STEP_SECONDS = 10


def live_context(request: HttpRequest, jobs: Iterable[Job]) -> dict[str, Any]:
    """The jobs with their pace; `seen` tells the next poll whether anything has changed."""
    shown, now = list(jobs), timezone.now()
    paces = paces_of(request.user, shown, now=now)
    pairs = [(job, paces.get(job.pk)) for job in shown]
    seen = _digest(pairs)
    return {
        "jobs": pairs,
        "is_live": any(job.is_active() for job in shown),
        "seen": seen,
        "unchanged": request.GET.get("seen") == seen,
    }


def _digest(jobs: Iterable[tuple[Job, Pace | None]]) -> str:
    facts = [
        (
            *(str(job.pk), job.state, job.phase, job.done_bytes, job.total_bytes, job.stored_bytes),
            *(job.cancel_requested, job.waits, job.not_before, job.attempt, _still_steps(pace)),
        )
        for job, pace in jobs
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _still_steps(pace: Pace | None) -> int:
    """0 while it moves: a page that shows a rate must not keep it when nothing moves any more."""
    return 0 if pace is None or pace.still_seconds is None else int(pace.still_seconds // STILL_STEP_SECONDS)


_SORTS = {
    "job": Sort("Job", ("kind", "backup_name"), of_few=True),
    "disk": Sort(
        "Disk",
        ("disk__server__name", "disk__number"),
        of_few=True,
        empty={"disk__server__name": "", "disk__number": 0},
    ),
    "state": Sort("State", ("state",), of_few=True),
    "asked": Sort("Asked for", ("created_at",), falls=True),
    # What has not ended yet is the latest.
    "ended": Sort("Ended", ("finished_at",), falls=True, of_few=True, empty={"finished_at": NOT_YET}),
}
JOBS = Listing(name="jobs", form=JobFilters, sorts=_SORTS, order="-asked", serializer=JobSerializer)
RESTORES = Listing(name="restores", form=RestoreFilters, sorts=_SORTS, order="-asked", serializer=JobSerializer)


@require_GET
@portal_page
def job_list(request: HttpRequest) -> HttpResponseBase:
    return _list(request, JOBS, Job.objects.for_user(request.user), "Jobs")


@require_GET
@portal_page
def restore_list(request: HttpRequest) -> HttpResponseBase:
    restores = Job.objects.for_user(request.user).filter(kind=JobKind.RESTORE)
    return _list(request, RESTORES, restores, "Restores")


def _list(request: HttpRequest, listing: Listing, jobs: Any, title: str) -> HttpResponseBase:
    listed = listing.read(request, jobs.select_related("disk__server", "requested_by"))
    if not isinstance(listed, Listed):
        return listed
    live = live_context(request, listed.rows)
    context = {**live, "listed": listed, "title": title, "idle_seconds": IDLE_SECONDS}
    # What renews itself asks with the digest of what it has seen; everything else is the whole page.
    if request.htmx and not request.htmx.boosted and not part_of(request):
        return HttpResponse(status=204) if live["unchanged"] else render(request, "backups/_jobs.html", context)
    return render(request, "backups/jobs.html", context)


@require_GET
@portal_page
def job_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return render(request, "backups/job.html", _job_context(request, pk))


@require_GET
@portal_page
def job_progress(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The one fragment of a job's page that is asked for again while the job is active."""
    context = _job_context(request, pk)
    if context["unchanged"]:
        return HttpResponse(status=204)
    return render(request, "backups/_job.html", context, status=200 if context["is_live"] else STATUS_STOP_POLLING)


def _job_context(request: HttpRequest, pk: UUID) -> dict[str, Any]:
    job = _job(request.user, Action.VIEW, pk)
    events = list(job.events.order_by("pk"))
    live = live_context(request, [job])
    seen = f"{live['seen']}-{len(events)}"
    [(job, pace)] = live["jobs"]
    return {
        "job": job,
        "pace": pace,
        "events": events,
        "is_live": live["is_live"],
        "seen": seen,
        "unchanged": request.GET.get("seen") == seen,
        "next_step": None if job.is_active() else _next_step(request.user, job),
        "may_cancel": job.is_active() and may(request.user, Action.CANCEL, job),
    }


def _next_step(person: Person, job: Job) -> NextStep | None:
    """Only what this person may do."""
    if job.kind == JobKind.RESTORE and job.drill_storage_id is None:
        return _after_restore(person, job)
    backup = reverse("backup-detail", args=[job.backup_id]) if job.backup_id else ""
    if job.state == JobState.OK and job.kind == JobKind.BACKUP and backup:
        return NextStep("The backup can be restored now.", backup, "See the backup")
    if job.state == JobState.FAILED and job.definition is not None and may(person, Action.RUN, job.definition):
        definition = reverse("definition-detail", args=[job.definition_id])
        return NextStep("When the cause is mended, back up again.", definition, "Go to the definition")
    return None


def _after_restore(person: Person, job: Job) -> NextStep | None:
    if job.state == JobState.OK and job.disk is not None:
        said = "Everything was written and checked. Start the server and look whether it works"
        kept = "; what was there before is kept as a snapshot for seven days." if job.safety_point else "."
        return NextStep(said + kept, reverse("server-detail", args=[job.disk.server_id]), "Go to the server")
    if job.backup is None or job.creates_disk or not may(person, Action.RESTORE, job.backup):
        return None
    chosen = urlencode({"chosen": job.disk_id}) if job.disk_id else ""
    again = f"{reverse('backup-restore', args=[job.backup_id])}?{chosen}"
    return NextStep("The target is incomplete until a restore has ended well.", again, "Restore again")


@require_POST
@portal_page
def job_cancel(request: HttpRequest, pk: UUID) -> HttpResponse:
    job = _job(request.user, Action.CANCEL, pk)
    try:
        cancel_job(job=job, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("job-detail", args=[pk]))
    return redirect("job-detail", pk)


def _job(person: Person, action: Action, pk: UUID) -> Job:
    found: Job = get_for_user(_JOBS.all(), person=person, action=action, pk=pk)
    return found
