"""Servers with their disks, definitions and restore points."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from agents.models import Agent, Disk, Server
from agents.services import set_source_name
from backups.accounting import usage_of
from backups.models import Backup
from backups.services import request_server_backup
from backups.states import BackupStatus
from common.errors import BackupsiteError
from definitions.models import Definition
from tenants.access import get_for_user, may, tenants_for_new
from tenants.querysets import sought_first
from tenants.roles import Action
from tenants.views import back_with_error, paginate, portal_page
from vaults.key_modes import key_mode_of

SHOWN_BACKUPS = 20
# What a node's own name for a server is, by driver; the others know no servers.
SOURCE_NAMES = {
    "libvirt": "libvirt: the UUID of its domain (virsh domuuid NAME)",
    "qemu": "qemu: the path of its QMP socket on the node",
}


@require_GET
@portal_page
def server_list(request: HttpRequest) -> HttpResponse:
    servers = Server.objects.for_user(request.user)
    searched = request.GET.get("q", "").strip().replace("\0", "")
    if searched:
        servers = sought_first(servers.filter(name__icontains=searched))
    page = paginate(request, _with_protection(servers).order_by("name", "pk"))
    context = {"page": page, "searched": searched}
    return render(request, "backups/servers.html", context)


def _with_protection(servers: Any) -> Any:
    """Whether a definition is active for the server, and when its last good backup was made."""
    good = Backup.objects.in_catalogue().filter(
        server=OuterRef("pk"), status__in=[BackupStatus.OK, BackupStatus.RESTORE]
    )
    active = Definition.objects.filter(disk__server=OuterRef("pk"), active=True)
    return servers.select_related("tenant").annotate(
        # Not EXISTS: for a page of fifty the database would collect the definitions of all servers.
        protected_by=Subquery(active.values("pk")[:1]),
        last_good_at=Subquery(good.order_by("-created_at").values("created_at")[:1]),
    )


@require_GET
@portal_page
def server_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    person = request.user
    server = get_for_user(Server.objects.select_related("tenant", "node"), person=person, action=Action.VIEW, pk=pk)
    definitions = Definition.objects.for_user(person).filter(disk__server=server).select_related("disk__server")
    runnable = Definition.objects.for_user(person, Action.RUN).filter(disk__server=server)
    backups = Backup.objects.for_user(person).in_catalogue().filter(server=server)
    disks = list(Disk.objects.for_user(person).filter(server=server).order_by("number"))
    drivers = {disk.driver for disk in disks}
    context = {
        "server": server,
        "space": usage_of(server, now=timezone.now()),
        "key_mode": key_mode_of(server.tenant_id),
        "agent": (agent := Agent.objects.for_user(person).filter(server=server).first()),
        "may_enrol": server.node_id is None
        and (agent is None or agent.status == Agent.Status.REVOKED)
        and may(person, Action.EDIT, server),
        "sees_node": server.node is not None and may(person, Action.VIEW, server.node),
        "may_name_source": server.node is not None and person.is_superuser,
        "source_meaning": [meaning for driver, meaning in SOURCE_NAMES.items() if driver in drivers],
        "disks": disks,
        "definitions": definitions.order_by("name", "pk"),
        "runnable": set(runnable.values_list("pk", flat=True)),
        "backups": backups.order_by("-created_at", "-pk")[:SHOWN_BACKUPS],
        "may_create_definition": tenants_for_new(person, Definition).filter(pk=server.tenant_id).exists(),
    }
    return render(request, "backups/server.html", context)


@require_POST
@portal_page
def server_source(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What its node calls the server."""
    server = get_for_user(Server.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    try:
        set_source_name(server=server, source_name=request.POST.get("source_name", "")[:200], actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("server-detail", args=[pk]))
    messages.success(request, f"Backups of {server.name} ask its node by this name from now on.")
    return redirect("server-detail", pk)


@require_POST
@portal_page
def server_backup(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Back up all protected disks now, as one run."""
    server = get_for_user(Server.objects.all(), person=request.user, action=Action.RUN, pk=pk)
    try:
        jobs = request_server_backup(server=server, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("server-detail", args=[pk]))
    if len(jobs) == 1:
        return redirect("job-detail", jobs[0].pk)
    messages.success(request, f"{len(jobs)} disks of {server.name} are backed up together.")
    return redirect("job-list")
