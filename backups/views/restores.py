"""Restoring: choose the target, read what will be lost, type the server's name."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from agents.models import Disk
from backups.file_restores import what_is_lost
from backups.forms import FileRestoreForm, NewTargetForm, RestoreForm
from backups.models import Backup
from backups.new_targets import request_new_disk, request_new_server
from backups.services import crosses_owners, request_restore, restore_choices
from backups.states import BackupStatus
from common.errors import BackupsiteError, ConflictError
from engine.manifest import CONTENT_TREE
from tenants.access import get_for_user
from tenants.models import Person
from tenants.roles import Action
from tenants.sign_in.confirming import ask_to_confirm
from tenants.views import STATUS_WRONG_INPUT, portal_page, show_error

# More than that in one list helps nobody: there is a search by name.
SHOWN_TARGETS = 100
_BACKUPS = Backup.objects.select_related("disk__server", "manifest", "server", "tenant", "storage")
_DISKS = Disk.objects.select_related("server__node", "server__tenant")


@require_http_methods(["GET", "POST"])
@portal_page
def backup_restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    backup = get_for_user(_BACKUPS.all(), person=person, action=Action.RESTORE, pk=pk)
    chosen = request.POST.get("target", "") if request.method == "POST" else request.GET.get("target", "")
    if not chosen:
        return _choose(request, backup)
    target = get_for_user(_DISKS.all(), person=person, action=Action.RESTORE, pk=chosen)
    kind = FileRestoreForm if backup.content == CONTENT_TREE else RestoreForm
    form = kind(request.POST or None, initial={"folder": f"restored-{backup.name}"})
    if request.method == "POST" and form.is_valid():
        if crosses_owners(backup=backup, target=target):
            ask_to_confirm(request)
        try:
            job = request_restore(
                backup=backup,
                target=target,
                confirmation=form.cleaned_data["confirmation"],
                actor=person,
                now=timezone.now(),
                files=form.wish(),
            )
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("job-detail", job.pk)
    return _confirm(request, backup=backup, target=target, form=form)


@require_POST
@portal_page
def backup_restore_new(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To a new disk of the same server, or, with a name, as a new server."""
    person = request.user
    backup = get_for_user(_BACKUPS.all(), person=person, action=Action.RESTORE, pk=pk)
    form = NewTargetForm(request.POST, person=person)
    if not form.is_valid():
        return _choose(request, backup, form)
    storage, name = form.cleaned_data["storage"], form.cleaned_data.get("name")
    try:
        if name:
            request_new_server(backup=backup, name=name, storage=storage, actor=person, now=timezone.now())
            return redirect("restore-list")
        if backup.server is None:
            raise ConflictError("The backup's server is gone. Restore it as a new server.", code="server_gone")
        job = request_new_disk(backup=backup, server=backup.server, storage=storage, actor=person, now=timezone.now())
    except BackupsiteError as error:
        show_error(form, error)
        return _choose(request, backup, form)
    return redirect("job-detail", job.pk)


def _choose(request: HttpRequest, backup: Backup, form: NewTargetForm | None = None) -> HttpResponse:
    searched = request.GET.get("q", "").strip().replace("\0", "")
    targets = _targets(request.user, backup=backup, searched=searched)
    context = {
        "backup": backup,
        "choices": restore_choices(backup=backup, targets=targets),
        "searched": searched,
        "limit": SHOWN_TARGETS,
        "form": form or NewTargetForm(person=request.user),
    }
    status = STATUS_WRONG_INPUT if form is not None else 200
    return render(request, "backups/restore_target.html", context, status=status)


def _targets(person: Person, *, backup: Backup, searched: str) -> list[Disk]:
    """Where the person may restore; the disk that the backup came from first, then the others of its server.

    Two statements: ordered by such nearness, all disks that there are would be sorted for a page of them.
    """
    disks = _DISKS.all().for_user(person, Action.RESTORE)
    if searched:
        disks = disks.filter(server__name__icontains=searched)
    near = Q(pk=backup.disk_id) | Q(server=backup.server_id)
    order = ("server__name", "server_id", "number", "pk")
    nearest = sorted(disks.filter(near).order_by(*order)[:SHOWN_TARGETS], key=lambda disk: disk.pk != backup.disk_id)
    others = disks.exclude(pk__in=[disk.pk for disk in nearest]).order_by(*order)
    return [*nearest, *others[: SHOWN_TARGETS - len(nearest)]]


def _confirm(request: HttpRequest, *, backup: Backup, target: Disk, form: RestoreForm) -> HttpResponse:
    [(_, refusal)] = restore_choices(backup=backup, targets=[target])
    of_target = Backup.objects.for_user(request.user).in_catalogue().filter(disk=target, status=BackupStatus.OK)
    context = {
        "backup": backup,
        "target": target,
        "form": form,
        "warning": what_is_lost(target, form.wish(), content=backup.content),
        "is_files": backup.content == CONTENT_TREE,
        "refusal": refusal,
        "newest": of_target.order_by("-created_at", "-pk").first(),
    }
    status = STATUS_WRONG_INPUT if form.errors else 200
    return render(request, "backups/restore_confirm.html", context, status=status)
