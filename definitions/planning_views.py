"""Pages about many definitions: how well each protects, and when nodes have work."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from agents.models import Node
from common.errors import BackupsiteError, NotFoundError
from definitions.models import Definition, SpreadAct
from definitions.overview import overview_of
from definitions.planner import HeatMap, heat_map
from definitions.spreading import preview_spread, spread, undo_spread
from tenants.models import Tenant
from tenants.views import back_with_error, paginate, portal_page

# How long a spreading is offered to be taken back.
_UNDO_FOR = timedelta(days=7)


@require_GET
@portal_page
def definition_overview(request: HttpRequest) -> HttpResponse:
    """By tenant or by node."""
    person = request.user
    tenant = _chosen(request, "tenant", Tenant.objects.for_user(person))
    node = _chosen(request, "node", Node.objects.for_user(person))
    found = Definition.objects.for_user(person)
    if tenant is not None:
        found = found.filter(tenant=tenant)
    if node is not None:
        found = found.filter(disk__server__node=node)
    page = paginate(request, found.order_by("name", "pk"))
    rows = overview_of(page.object_list, person=person, now=timezone.now())
    sees_tenants = Tenant.objects.for_user(person).exists()
    context = {"page": page, "rows": rows, "tenant": tenant, "node": node, "sees_tenants": sees_tenants}
    return render(request, "definitions/overview.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def load_of_nodes(request: HttpRequest) -> HttpResponse:
    """The planned load per node and hour, with advice; spreading and taking it back."""
    person, now = request.user, timezone.now()
    if request.method == "POST":
        return _act(request)
    nodes = Node.objects.for_user(person).values("pk")
    seen = Definition.objects.for_user(person).filter(disk__server__node__in=nodes)
    planned = heat_map(seen, now=now)
    context: dict[str, Any] = {"planned": planned, "rows": _cells(planned), "hours": range(24)}
    if person.is_superuser:
        context["moves"] = len(preview_spread(definitions=Definition.objects.for_user(person), actor=person, now=now))
        recent = SpreadAct.objects.filter(undone_at=None, created_at__gte=now - _UNDO_FOR)
        context["last_act"] = recent.order_by("-created_at").first()
    return render(request, "definitions/load.html", context)


def _act(request: HttpRequest) -> HttpResponse:
    person, now = request.user, timezone.now()
    try:
        if undone := request.POST.get("undo"):
            act = SpreadAct.objects.filter(pk=_uuid(undone)).first() if person.is_superuser else None
            if act is None:
                raise NotFoundError("There is no such spreading.")
            count = undo_spread(act=act, actor=person, now=now)
            messages.success(request, f"{count} definitions have the schedule that they had before.")
        else:
            made = spread(definitions=Definition.objects.for_user(person), actor=person, now=now)
            messages.success(request, f"{len(made.moves)} definitions were spread over their window.")
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=request.path)
    return redirect("definition-load")


def _cells(planned: HeatMap) -> list[dict[str, Any]]:
    """Each hour as a shade from 0 to 9 of the busiest one, with its bytes per second."""
    most = max((value for row in planned.rows for value in row.hours), default=0) or 1
    return [
        {"node": row.node, "hours": [{"load": int(value), "shade": round(9 * value / most)} for value in row.hours]}
        for row in planned.rows
    ]


def _chosen(request: HttpRequest, name: str, rows: Any) -> Any:
    """The object that the address names; 404 for one that the person does not see."""
    text = request.GET.get(name)
    if not text:
        return None
    found = rows.filter(pk=_uuid(text)).first()
    if found is None:
        raise NotFoundError(f"There is no such {name}.")
    return found


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError("There is nothing with this id.") from error
