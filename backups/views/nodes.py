"""Nodes with their storages: how they do, and for a SuperAdmin keeping them."""

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

from agents.list_forms import NodeFilters
from agents.models import Node, Storage
from agents.serializers import NodeSerializer
from backups.leftovers import request_sweep
from backups.node_forms import NodeForm, StorageForm
from backups.nodes import (
    add_storage,
    change_node,
    drain_node,
    register_node,
    remove_node,
    remove_storage,
    resume_node,
    running_on,
    set_for_drills,
)
from common.errors import BackupsiteError, NotAllowedError
from tenants.access import get_for_user, may, may_create
from tenants.listing import Listing, Sort
from tenants.renewing import RENEW_OFTEN_SECONDS, RENEW_SECONDS
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

NODES = Listing(
    name="nodes",
    form=NodeFilters,
    sorts={
        "name": Sort("Node", ("name",)),
        "region": Sort("Region", ("region_id", "name")),
        "status": Sort("Status", ("status",)),
        "added": Sort("Added", ("created_at",), falls=True),
    },
    order="name",
    serializer=NodeSerializer,
)


@require_GET
@portal_page
def node_list(request: HttpRequest) -> HttpResponseBase:
    context = {"may_create": may_create(request.user, Node)}
    return NODES.answer(request, Node.objects.for_user(request.user), "backups/nodes.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def node_create(request: HttpRequest) -> HttpResponse:
    if not may_create(request.user, Node):
        raise NotAllowedError("Only a SuperAdmin registers nodes.")
    form = NodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        typed = form.cleaned_data
        try:
            node = register_node(
                name=typed["name"], region_code=typed["region"].pk, is_backup=typed["is_backup"], actor=request.user
            )
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("node-detail", node.pk)
    return render(request, "backups/node_form.html", {"form": form}, status=STATUS_WRONG_INPUT if form.errors else 200)


@require_GET
@portal_page
def node_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _show(request, _node(request, Action.VIEW, pk), StorageForm())


@require_POST
@portal_page
def node_change(request: HttpRequest, pk: UUID) -> HttpResponse:
    """One of `drain`, `resume`, `sweep`, `backup` and `no_backup`; the button says which."""
    node = _node(request, Action.EDIT, pk)
    person = request.user
    try:
        if "drain" in request.POST:
            drain_node(node=node, actor=person)
        elif "resume" in request.POST:
            resume_node(node=node, now=timezone.now(), actor=person)
        elif "sweep" in request.POST:
            request_sweep(node=node, actor=person)
            messages.success(request, "The node looks for leftovers as soon as it can; the audit says what it removed.")
        else:
            change_node(node=node, changes={"is_backup": "backup" in request.POST}, actor=person)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("node-detail", args=[pk]))
    return redirect("node-detail", pk)


@require_POST
@portal_page
def node_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    node = _node(request, Action.DELETE, pk)
    try:
        remove_node(node=node, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=reverse("node-detail", args=[pk]))
    messages.success(request, f"The node {node.name} is forgotten.")
    return redirect("node-list")


@require_POST
@portal_page
def storage_create(request: HttpRequest, pk: UUID) -> HttpResponse:
    node = _node(request, Action.EDIT, pk)
    form = StorageForm(request.POST)
    if form.is_valid():
        try:
            add_storage(node=node, actor=request.user, **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            return redirect("node-detail", pk)
    return _show(request, node, form, status=STATUS_WRONG_INPUT)


@require_POST
@portal_page
def storage_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    storages = Storage.objects.select_related("node")
    storage = get_for_user(storages, person=request.user, action=Action.DELETE, pk=pk)
    back = reverse("node-detail", args=[storage.node_id])
    try:
        remove_storage(storage=storage, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=back)
    return redirect(back)


@require_POST
@portal_page
def storage_drills(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Set it aside for restore drills, or, with `end`, not any more."""
    storage = get_for_user(Storage.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    back = reverse("node-detail", args=[storage.node_id])
    try:
        set_for_drills(storage=storage, for_drills="end" not in request.POST, actor=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=back)
    return redirect(back)


def _show(request: HttpRequest, node: Node, form: StorageForm, *, status: int = 200) -> HttpResponse:
    person = request.user
    may_edit = may(person, Action.EDIT, node)
    storages = Storage.objects.for_user(person).filter(node=node).order_by("name")
    # Of all tenants: for who keeps the node.
    running = running_on(node) if may_edit else None
    is_draining = bool(running) and node.status == Node.Status.MAINTENANCE
    context: dict[str, Any] = {
        "node": node,
        "storages": storages,
        "drivers": sorted(node.drivers.items()),
        "running": running,
        "renew_seconds": RENEW_OFTEN_SECONDS if is_draining else RENEW_SECONDS,
        "may_edit": may_edit,
        "form": form,
    }
    return render(request, "backups/node.html", context, status=status)


def _node(request: HttpRequest, action: Action, pk: UUID) -> Node:
    found: Node = get_for_user(Node.objects.all(), person=request.user, action=action, pk=pk)
    return found
