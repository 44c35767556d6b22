"""Servers with their disks, definitions and restore points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from agents.models import Agent, Disk, Server
from agents.serializers import ServerSerializer
from agents.services import set_source_name
from backups.accounting import usage_of
from backups.forms import ServerRegionForm, SourceForm
from backups.list_forms import ServerFilters
from backups.models import Backup
from backups.server_regions import change_region, stands_with
from backups.server_states import states_of
from backups.services import request_server_backup
from backups.states import BackupStatus
from backups.timeline import DiskLine, timelines_of
from common.errors import BackupsiteError, NotAllowedError
from definitions.models import Definition
from tenants.access import get_for_user, may, may_create, tenants_for_new
from tenants.listing import Listed, Listing, Sort
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error
from vaults.key_modes import key_mode_of
from vaults.models import Vault

SHOWN_BACKUPS = 20
# More disks than that are on the page of all backups.
SHOWN_LINES = 20
MARKS = {
    "verified": "verified",
    "unverified": "not verified yet",
    "pending": "being made",
    "damaged": "damaged",
    "lost": "lost",
    "partly": "some runs missing",
    "gap": "promised, and no backup made",
    "held": "not due: paused, held or switched off",
    "removed": "made, and removed since",
}
# What a node's own name for a server is, by driver; the others know no servers.
SOURCE_NAMES = {
    "libvirt": "libvirt: the UUID of its domain (virsh domuuid NAME)",
    "qemu": "qemu: the path of its QMP socket on the node",
}


SERVERS = Listing(
    name="servers",
    form=ServerFilters,
    sorts={
        "name": Sort("Server", ("name",)),
        "tenant": Sort("Tenant", ("tenant__title", "name"), of_few=True),
        "region": Sort("Region", ("region_id", "name"), of_few=True),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="name",
    serializer=ServerSerializer,
)


@require_GET
@portal_page
def server_list(request: HttpRequest) -> HttpResponseBase:
    listed = SERVERS.read(request, Server.objects.for_user(request.user).select_related("tenant"))
    if not isinstance(listed, Listed):
        return listed
    keys = [server.pk for server in listed.rows]
    states = states_of(keys)
    good = dict(_with_last_good(Server.objects.filter(pk__in=keys)).values_list("pk", "last_good_at"))
    rows = [(server, states[server.pk], good.get(server.pk)) for server in listed.rows]
    may_order = may_create(request.user, Server)
    return render(request, "backups/servers.html", {"listed": listed, "rows": rows, "may_order": may_order})


def _with_last_good(servers: Any) -> Any:
    """When the last good backup of each was made."""
    good = Backup.objects.in_catalogue().filter(
        server=OuterRef("pk"), status__in=[BackupStatus.OK, BackupStatus.RESTORE]
    )
    return servers.annotate(last_good_at=Subquery(good.order_by("-created_at").values("created_at")[:1]))


@require_GET
@portal_page
def server_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _show(request, _server(request, pk, Action.VIEW))


def _server(request: HttpRequest, pk: UUID, action: Action) -> Server:
    servers = Server.objects.select_related("tenant", "node", "domain__vault__endpoint")
    found: Server = get_for_user(servers, person=request.user, action=action, pk=pk)
    return found


def _show(
    request: HttpRequest, server: Server, *, source: SourceForm | None = None, region: ServerRegionForm | None = None
) -> HttpResponse:
    """With a form that was refused, as it was sent."""
    person = request.user
    refused = source or region
    if region is None and person.is_superuser:
        region = ServerRegionForm(initial={"region": server.region_id})
    source = source or SourceForm(initial={"source_name": server.source_name})
    definitions = Definition.objects.for_user(person).filter(disk__server=server).select_related("disk__server")
    runnable = Definition.objects.for_user(person, Action.RUN).filter(disk__server=server)
    backups = Backup.objects.for_user(person).in_catalogue().filter(server=server)
    disks = list(Disk.objects.for_user(person).filter(server=server).order_by("number"))
    drivers = {disk.driver for disk in disks}
    definitions = definitions.order_by("name", "pk")
    context = {
        **timeline_context(request, disks, definitions),
        "server": server,
        "space": usage_of(server, now=timezone.now()),
        "key_mode": key_mode_of(server.tenant_id),
        "agent": (agent := Agent.objects.for_user(person).filter(server=server).first()),
        "may_enrol": server.node_id is None
        and (agent is None or agent.status == Agent.Status.REVOKED)
        and may(person, Action.EDIT, server),
        "sees_node": server.node is not None and may(person, Action.VIEW, server.node),
        "may_name_source": server.node is not None and person.is_superuser,
        "source": source,
        "region": region,
        "refused": refused,
        "vault_region": server.domain.vault.endpoint.region_id if server.domain is not None else "",
        "source_meaning": [meaning for driver, meaning in SOURCE_NAMES.items() if driver in drivers],
        "disks": disks,
        "definitions": definitions,
        "may_restore": may(person, Action.RESTORE, server),
        "runnable": set(runnable.values_list("pk", flat=True)),
        "backups": backups.order_by("-created_at", "-pk")[:SHOWN_BACKUPS],
        "may_create_definition": tenants_for_new(person, Definition).filter(pk=server.tenant_id).exists(),
    }
    return render(request, "backups/server.html", context, status=STATUS_WRONG_INPUT if refused else 200)


def timeline_context(
    request: HttpRequest, disks: Sequence[Disk], definitions: Iterable[Definition], *, restoring: bool = False
) -> dict[str, Any]:
    """For `backups/_timeline.html`: a line for each disk, and the day of one of them that the address names."""
    shown = list(disks[:SHOWN_LINES])
    zone, now = timezone.get_current_timezone(), timezone.now()
    lines = timelines_of(shown, definitions, person=request.user, now=now, zone=zone)
    line = next((one for one in lines if str(one.disk.number) == request.GET.get("disk")), None)
    return {
        "timeline": lines,
        "more_disks": len(disks) - len(shown),
        "chosen_line": line,
        "chosen_day": _chosen_day(line, request.GET.get("day", "")),
        "point_url": "backup-restore" if restoring else "backup-detail",
        "marks": MARKS.items(),
    }


def _chosen_day(line: DiskLine | None, text: str) -> Any:
    try:
        return line.day(date.fromisoformat(text)) if line is not None else None
    except ValueError:
        return None


@require_POST
@portal_page
def server_source(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What its node calls the server."""
    server, form = _server(request, pk, Action.EDIT), SourceForm(request.POST)
    if form.is_valid():
        try:
            set_source_name(server=server, actor=request.user, **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, f"Backups of {server.name} ask its node by this name from now on.")
            return redirect("server-detail", pk)
    return _show(request, server, source=form)


@require_POST
@portal_page
def server_region(request: HttpRequest, pk: UUID) -> HttpResponse:
    """It stands somewhere else from now on."""
    server, form = _server(request, pk, Action.EDIT), ServerRegionForm(request.POST)
    if not request.user.is_superuser:
        raise NotAllowedError("Only a SuperAdmin says in which region a server stands.")
    if form.is_valid():
        try:
            vault = change_region(server=server, region_code=form.cleaned_data["region"], actor=request.user)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            _tell_of_region(request, server, vault)
            return redirect("server-detail", pk)
    # What is shown beside the form is as it is, not as it was to be.
    return _show(request, _server(request, pk, Action.VIEW), region=form)


def _tell_of_region(request: HttpRequest, server: Server, vault: Vault | None) -> None:
    if vault is None:
        messages.info(request, f"{server.name} stands in {server.region_id} already.")
    elif stands_with(server, vault):
        text = f"{server.name} stands in {server.region_id} now, and so does its vault: one is lost with the other."
        messages.warning(request, text)
    else:
        place = f"{vault.name} in {vault.endpoint.region_id}"
        messages.success(request, f"{server.name} stands in {server.region_id} now. Its backups go to {place}.")


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
