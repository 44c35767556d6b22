"""Backups: list, detail, note, removal."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.models import Server
from backups.drills import can_be_drilled, request_drill
from backups.forms import NoteForm, ServeForm
from backups.list_forms import BackupFilters
from backups.lock_coverage import locked_until
from backups.models import Backup, Job
from backups.outside import facts_command, file_command, restore_command
from backups.serializers import BackupSerializer
from backups.services import remove_backups, set_note
from backups.states import BackupStatus, JobKind
from backups.verifier import request_verification
from backups.views.jobs import STATUS_STOP_POLLING, live_context
from common.errors import BackupsiteError
from definitions.models import Definition
from engine.manifest import CONTENT_DISK, CONTENT_TREE
from tenants.access import get_for_user, may
from tenants.listing import NEVER, Listed, Listing, Sort
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error
from vaults.custody import restore_needs_customer_key

SHOWN_JOBS = 10
SHOWN_RANGES = 10


BACKUPS = Listing(
    name="backups",
    form=BackupFilters,
    sorts={
        "name": Sort("Backup", ("name",), of_few=True),
        "server": Sort("Server", ("server_name", "disk_number"), of_few=True),
        "status": Sort("Status", ("status",), of_few=True),
        "made": Sort("Made", ("created_at",), falls=True),
        "took": Sort("Duration", ("duration_seconds",), falls=True, of_few=True, empty={"duration_seconds": 0}),
        "size": Sort("Size", ("size_bytes",), falls=True),
        "stored": Sort("Stored", ("stored_bytes",), falls=True, of_few=True, empty={"stored_bytes": -1}),
        "locked": Sort("Locked until", ("immutable_until",), falls=True, of_few=True, empty={"immutable_until": NEVER}),
    },
    order="-made",
    serializer=BackupSerializer,
    related=("manifest", "vault"),
)


@require_GET
@portal_page
def backup_list(request: HttpRequest) -> HttpResponseBase:
    person = request.user
    listed = BACKUPS.read(request, Backup.objects.for_user(person))
    if not isinstance(listed, Listed):
        return listed
    keys = [backup.pk for backup in listed.rows]
    own, writable = (Backup.objects.for_user(person, action) for action in (Action.DELETE, Action.EDIT))
    context = {
        "listed": listed,
        "of": _named_by_link(person, listed),
        # What can be chosen: what he may delete and is still there.
        "deletable": set(own.in_catalogue().filter(pk__in=keys).values_list("pk", flat=True)) if keys else set(),
        "writable": set(writable.filter(pk__in=keys).values_list("pk", flat=True)) if keys else set(),
    }
    return render(request, "backups/list.html", context)


def _named_by_link(person: Person, listed: Listed) -> list[str]:
    """What a link from elsewhere narrowed the list to, in words."""
    wanted = listed.form.wanted if listed.form.is_valid() else {}
    rows = {"server": Server.objects, "definition": Definition.objects.select_related("disk__server")}
    found = [rows[name].for_user(person).filter(pk=wanted[name]).first() for name in rows if name in wanted]
    return [str(one) for one in found if one is not None]


@require_GET
@portal_page
def backup_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    backup = backup_for(request.user, Action.VIEW, pk)
    return show_backup(request, backup)


@require_http_methods(["GET", "POST"])
@portal_page
def backup_note(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Keep the note. In a list its cell becomes the form (GET) and the note again (POST, or GET with `shown`)."""
    backup = backup_for(request.user, Action.EDIT, pk)
    form = NoteForm(request.POST if request.method == "POST" else None, initial={"note": backup.note})
    if form.is_bound and form.is_valid():
        try:
            set_note(backup=backup, note=form.cleaned_data["note"])
        except BackupsiteError as error:
            show_error(form, error)
    is_kept = form.is_bound and not form.errors
    if request.htmx:
        is_shown = is_kept or "shown" in request.GET
        template = "backups/_note.html" if is_shown else "backups/_note_form.html"
        return render(request, template, {"backup": backup, "may_note": True, "form": form, "is_kept": is_kept})
    if is_kept:
        messages.success(request, "The note is kept.")
    if is_kept or not form.is_bound:
        return redirect("backup-detail", pk)
    return show_backup(request, backup, note=form, status=STATUS_WRONG_INPUT)


@require_POST
@portal_page
def backup_verify(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Ask for a check with keys; its progress is on the backup's page."""
    backup = backup_for(request.user, Action.RUN, pk)
    try:
        request_verification(backup=backup, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("backup-detail", args=[pk]))
    return redirect("backup-detail", pk)


@require_POST
@portal_page
def backup_drill(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Restore it for real to a scratch file, and compare."""
    backup = backup_for(request.user, Action.RUN, pk)
    try:
        job = request_drill(backup=backup, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("backup-detail", args=[pk]))
    return redirect("job-detail", job.pk)


@require_GET
@portal_page
def backup_check(request: HttpRequest, pk: UUID) -> HttpResponse:
    """How the last check is getting on: asked for again while it is active."""
    context = _check_context(request, backup_for(request.user, Action.VIEW, pk))
    if context["unchanged"]:
        return HttpResponse(status=204)
    return render(request, "backups/_verify.html", context, status=200 if context["is_live"] else STATUS_STOP_POLLING)


def _check_context(request: HttpRequest, backup: Backup) -> dict[str, Any]:
    """The last check of the backup, with its pace; one that began before this page was asked for may have ended."""
    person = request.user
    checks = Job.objects.for_user(person).filter(backup=backup, kind=JobKind.VERIFY).order_by("-created_at", "-pk")
    live = live_context(request, checks[:1])
    check, pace = live.pop("jobs")[0] if live["jobs"] else (None, None)
    return {
        **live,
        "backup": backup,
        "check": check,
        "pace": pace,
        "may_cancel": check is not None and check.is_active() and may(person, Action.CANCEL, check),
        "may_verify": _can_be_checked(backup) and not live["is_live"] and may(person, Action.RUN, backup),
    }


def _can_be_checked(backup: Backup) -> bool:
    return backup.removed_at is None and backup.status in {BackupStatus.OK, BackupStatus.RESTORE}


def _can_be_served(backup: Backup) -> bool:
    of_disk = backup.content == CONTENT_DISK and backup.manifest is not None
    return of_disk and _can_be_checked(backup) and not restore_needs_customer_key(backup.manifest)


@require_http_methods(["GET", "POST"])
@portal_page
def backup_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    backup = backup_for(request.user, Action.DELETE, pk)
    refused = ""
    if request.method == "POST":
        try:
            remove_backups(backups=[backup], actor=request.user, now=timezone.now())
        except BackupsiteError as error:
            refused = error.message
        else:
            messages.success(request, f"The backup {backup.name} is deleted.")
            return redirect("backup-list")
    context = {"backup": backup, "refused": refused}
    return render(request, "backups/delete.html", context, status=STATUS_WRONG_INPUT if refused else 200)


def show_backup(
    request: HttpRequest,
    backup: Backup,
    *,
    note: NoteForm | None = None,
    serving: ServeForm | None = None,
    status: int = 200,
) -> HttpResponse:
    """The backup's page, with the one of its forms that was refused."""
    person = request.user
    jobs = Job.objects.for_user(person).filter(backup=backup).select_related("disk__server")
    sees_vault = backup.vault is not None and may(person, Action.VIEW, backup.vault)
    needs_customer = backup.manifest is not None and restore_needs_customer_key(backup.manifest)
    has_facts = backup.has_configuration and backup.content == CONTENT_TREE and backup.manifest is not None
    may_restore = may(person, Action.RESTORE, backup)
    takes_files = may_restore and backup.content == CONTENT_TREE and backup.manifest is not None
    context = {
        **_check_context(request, backup),
        "sees_vault": sees_vault,
        "form": note or NoteForm(initial={"note": backup.note}),
        "serving": serving or ServeForm(),
        "locked_until": locked_until(backup),
        "customer_key": needs_customer,
        "outside_command": restore_command(backup, names_vault=sees_vault) if needs_customer else "",
        "file_command": file_command(backup, names_vault=sees_vault) if takes_files else "",
        "facts_command": facts_command(backup, names_vault=sees_vault) if has_facts else "",
        "shown_damage": backup.damaged_ranges[:SHOWN_RANGES],
        "shown_files": backup.damaged_files[:SHOWN_RANGES],
        "more_damage": len(backup.damage) - SHOWN_RANGES,
        "jobs": jobs.order_by("-created_at", "-pk")[:SHOWN_JOBS],
        "may_edit": may(person, Action.EDIT, backup),
        "may_delete": may(person, Action.DELETE, backup),
        "may_restore": may_restore,
        "by_agent": backup.content == CONTENT_TREE and backup.server is not None and backup.server.node_id is None,
        "may_drill": can_be_drilled(backup) and may(person, Action.RUN, backup),
        "may_serve": _can_be_served(backup) and may(person, Action.RESTORE, backup),
    }
    return render(request, "backups/detail.html", context, status=status)


def backup_for(person: Person, action: Action, pk: UUID) -> Backup:
    backups = Backup.objects.select_related(
        "manifest__domain", "vault__endpoint", "definition", "tenant", "server", "storage__node"
    )
    found: Backup = get_for_user(backups, person=person, action=action, pk=pk)
    return found
