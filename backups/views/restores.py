"""Restoring in steps: the point in time, the target, what is lost with the typed confirmation; then the job's page.

Nothing is kept on the server between the steps: what was typed travels in the forms, so going back loses nothing.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.models import Disk, Server, Storage
from backups.file_restores import what_is_lost
from backups.forms import FileRestoreForm, NewTargetForm, RestoreForm
from backups.models import Backup
from backups.new_targets import new_disk_choices, request_new_disk, request_new_server
from backups.services import crosses_owners, request_restore, restore_choices
from backups.states import BackupStatus
from backups.views.servers import timeline_context
from common.errors import BackupsiteError, ConflictError
from definitions.models import Definition
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
# What a person typed about files in the third step, and finds again after he chose another target.
_TYPED = ("place", "folder", "paths")


@require_GET
@portal_page
def server_restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The first step: which point in time, by the days of each disk."""
    person = request.user
    server = get_for_user(Server.objects.select_related("tenant"), person=person, action=Action.RESTORE, pk=pk)
    disks = list(Disk.objects.for_user(person).filter(server=server).order_by("number"))
    definitions = Definition.objects.for_user(person).filter(disk__server=server).select_related("disk__server")
    context = {"server": server, **timeline_context(request, disks, definitions, restoring=True)}
    return render(request, "backups/restore_source.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def backup_restore(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The target, then what is lost. A POST restores, unless it only goes to another step (`step`)."""
    person = request.user
    backup = get_for_user(_BACKUPS.all(), person=person, action=Action.RESTORE, pk=pk)
    values = request.POST if request.method == "POST" else request.GET
    chosen, step = values.get("target", ""), request.POST.get("step", "")
    if not chosen or step == "target":
        return _choose(request, backup, typed=_typed(request))
    target = get_for_user(_DISKS.all(), person=person, action=Action.RESTORE, pk=chosen)
    form = _form(request, backup, target)
    if request.method == "POST" and not step and form.is_valid():
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


def _typed(request: HttpRequest) -> dict[str, str]:
    return {name: request.POST[name] for name in _TYPED if request.POST.get(name)}


def _form(request: HttpRequest, backup: Backup, target: Disk) -> RestoreForm:
    data = request.POST if request.method == "POST" and "step" not in request.POST else None
    if backup.content != CONTENT_TREE:
        return RestoreForm(data)
    return FileRestoreForm(data, target=target, initial={"folder": f"restored-{backup.name}", **_typed(request)})


@require_POST
@portal_page
def backup_restore_new(request: HttpRequest, pk: UUID) -> HttpResponse:
    """To a new disk of the same server, or, with a name, as a new server."""
    person = request.user
    backup = get_for_user(_BACKUPS.all(), person=person, action=Action.RESTORE, pk=pk)
    form = NewTargetForm(request.POST, person=person)
    if not form.is_valid():
        return _choose(request, backup, form=form)
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
        return _choose(request, backup, form=form)
    return redirect("job-detail", job.pk)


def _choose(
    request: HttpRequest, backup: Backup, *, form: NewTargetForm | None = None, typed: dict[str, str] | None = None
) -> HttpResponse:
    searched = request.GET.get("q", "").strip().replace("\0", "")
    targets = _targets(request.user, backup=backup, searched=searched)
    earlier = request.POST.get("target") or request.GET.get("chosen") or str(backup.disk_id or "")
    context = {
        "backup": backup,
        "choices": restore_choices(backup=backup, targets=targets),
        "earlier": earlier,
        "typed": (typed or {}).items(),
        "searched": searched,
        "limit": SHOWN_TARGETS,
        "form": form or NewTargetForm(person=request.user),
        "source_url": _source_url(backup),
        **_new_disks(request.user, backup),
    }
    status = STATUS_WRONG_INPUT if form is not None else 200
    return render(request, "backups/restore_target.html", context, status=status)


def _new_disks(person: Person, backup: Backup) -> dict[str, Any]:
    """On which storages a new disk of the backup's server may be; or why on none."""
    if backup.server_id is None:
        return {"no_new_disk": "Its server is gone: it gets no new disk."}
    server = Server.objects.select_related("node", "tenant").get(pk=backup.server_id)
    if server.node is None:
        said = f"{server.name} has an agent: it gets no disk from here. Restore to what it has."
        return {"no_new_disk": said, "by_agent": backup.content == CONTENT_TREE}
    # The disk must be where its server runs.
    storages = Storage.objects.for_user(person).filter(node=server.node).select_related("node").order_by("name")
    try:
        return {"new_disks": new_disk_choices(backup, server=server, storages=storages[:SHOWN_TARGETS])}
    except BackupsiteError as error:
        return {"no_new_disk": error.message}


def _source_url(backup: Backup) -> str:
    """Back to the day of the point, with the others beside it."""
    if backup.server_id is None:
        return reverse("backup-list")
    on = timezone.localtime(backup.created_at).date()
    named = urlencode({"disk": backup.disk_number, "day": on.isoformat()})
    return f"{reverse('server-restore', args=[backup.server_id])}?{named}"


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
        "source_url": _source_url(backup),
        "target_url": f"{reverse('backup-restore', args=[backup.pk])}?{urlencode({'chosen': target.pk})}",
    }
    status = STATUS_WRONG_INPUT if form.errors else 200
    return render(request, "backups/restore_confirm.html", context, status=status)
