"""Pages about many definitions: how well each protects, when nodes have work, and spreading what piles up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.models import Node
from backups.node_load import LOOKED_BACK, LoadMap, load_map
from backups.overview import overview_of
from backups.views.definitions import DEFINITIONS
from common.errors import BackupsiteError, NotFoundError
from definitions.hour_moves import HourMove, move_to_hour, preview_move
from definitions.models import Definition, SpreadAct
from definitions.person_hours import PersonDay
from definitions.planner import heat_map
from definitions.planning_forms import PileForm
from definitions.spread import nearest_night
from definitions.spreading import (
    NIGHT,
    find_act,
    movable_pile,
    preview_pile,
    spread,
    spread_pile,
    undo_spread,
)
from tenants.listing import Listed, administers
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error

# A spreading is offered to be taken back for as long as the actual load is looked back on.
_UNDO_FOR = LOOKED_BACK
_SHADES = 9


OVERVIEW = replace(
    DEFINITIONS,
    name="overview-of-definitions",
    sorts={**DEFINITIONS.sorts, "server": replace(DEFINITIONS.sorts["server"], title="Server")},
    order="name",
)


@require_GET
@portal_page
def definition_overview(request: HttpRequest) -> HttpResponseBase:
    """The list of definitions with the figures of each, by tenant, node or state."""
    seen = Definition.objects.for_user(request.user).select_related("disk__server", "tenant")
    listed = OVERVIEW.read(request, seen)
    if not isinstance(listed, Listed):
        return listed
    now = timezone.now()
    rows = overview_of(listed.rows, person=request.user, now=now)
    context = {"listed": listed, "rows": rows, "now": now, "administers": administers(request.user)}
    return render(request, "definitions/overview.html", context)


@require_http_methods(["GET", "POST"])
@portal_page
def load_of_nodes(request: HttpRequest) -> HttpResponse:
    """The planned and the actual load per node and hour, with advice; spreading and taking it back."""
    person, now = request.user, timezone.now()
    page = paginate(request, Node.objects.for_user(person).order_by("name"))
    if request.method == "POST":
        return _act(request, list(page))
    found = load_map(list(page), person=person, now=now)
    day = PersonDay(on=found.on, zone=person.time_zone)
    acts = SpreadAct.objects.filter(undone_at=None, created_at__gte=now - _UNDO_FOR)
    context = {
        "page": page,
        "found": found,
        "rows": _cells(found, day),
        "piles": _piles(found, day),
        "day": day,
        "days": LOOKED_BACK.days,
        "last_act": (acts if person.is_superuser else acts.filter(made_by=person)).order_by("-created_at").first(),
    }
    return render(request, "definitions/load.html", context)


def _act(request: HttpRequest, nodes: list[Node]) -> HttpResponse:
    person, now = request.user, timezone.now()
    try:
        if undone := request.POST.get("undo"):
            act = find_act(_uuid(undone), actor=person)
            count = undo_spread(act=act, actor=person, now=now)
            messages.success(request, f"{count} definitions have the schedule that they had before.")
        else:
            there = Definition.objects.for_user(person).filter(disk__server__node__in=nodes)
            made = spread(definitions=there, actor=person, now=now)
            messages.success(request, f"{len(made.moves)} definitions were spread over their window.")
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=request.path)
    return redirect(request.get_full_path())


@require_http_methods(["GET", "POST"])
@portal_page
def spread_of_pile(request: HttpRequest) -> HttpResponse:
    """What starts on a node within an hour, and where it would start; a POST spreads it."""
    person, now = request.user, timezone.now()
    node = _chosen(request, "node", Node.objects.for_user(person))
    hour = request.GET.get("hour", "")
    if node is None or not (hour.isdecimal() and int(hour) < 24):
        raise NotFoundError("Name a node and an hour.")
    own = Definition.objects.for_user(person, Action.EDIT)
    chosen = {"definitions": own, "node": node, "hour": int(hour), "actor": person, "now": now}
    night = {"start": NIGHT[0], "end": NIGHT[1]}
    form = PileForm(request.POST or None, initial=night)
    if request.method == "POST" and form.is_valid() and _spread(request, form, chosen):
        return redirect("definition-load")
    window = form.cleaned_data if form.is_bound and form.is_valid() else night
    moves = {move.definition.pk: move.after for move in preview_pile(**chosen, **window)}
    day = _day_of(person, now)
    context = {
        "form": form,
        "node": node,
        "hour": day.of(int(hour)),
        "day": day,
        "rows": [(one, moves.get(one.pk, "")) for one in movable_pile(**chosen)],
        "moves": len(moves),
        "hours": _hours_of(node, day, person=person, now=now),
    }
    return render(request, "definitions/pile.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


@require_POST
@portal_page
def move_of_pile(request: HttpRequest) -> HttpResponse:
    """Let the chosen definitions of the node start in another hour: by the form, or dropped onto the hour."""
    person, now = request.user, timezone.now()
    node = _chosen(request, "node", Node.objects.for_user(person))
    if node is None:
        raise NotFoundError("Name a node.")
    back = f"{reverse('definition-spread')}?node={node.pk}&hour={_hour(request.GET.get('hour', ''))}"
    wanted: dict[str, Any] = {
        "chosen": [_uuid(text) for text in request.POST.getlist("definition")],
        "node": node,
        "hour": _hour(request.POST.get("to", "")),
        "actor": person,
        "now": now,
    }
    try:
        if "look" in request.POST:
            return _show_move(request, preview_move(**wanted), wanted, back=back)
        made = move_to_hour(**wanted)
    except NotFoundError:
        raise
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=back)
    count = len(made.moves)
    messages.success(
        request, f"{count} definition{'' if count == 1 else 's'} moved. You can take it back on this page."
    )
    return redirect("definition-load")


def _show_move(request: HttpRequest, planned: HourMove, wanted: dict[str, Any], *, back: str) -> HttpResponse:
    most = max((value for load in planned.loads for value in (*load.before, *load.after)), default=0) or 1
    day = _day_of(wanted["actor"], wanted["now"])
    loads = [(one.node.name, _shaded(one.before, most, day), _shaded(one.after, most, day)) for one in planned.loads]
    context = {
        "planned": planned,
        "loads": loads,
        "node": wanted["node"],
        "chosen": wanted["chosen"],
        "to": day.of(wanted["hour"]),
        "day": day,
        "back": back,
    }
    return render(request, "definitions/move.html", context)


def _day_of(person: Person, now: datetime) -> PersonDay:
    """The planned day by the clock of the person."""
    return PersonDay(on=nearest_night(now.date()), zone=person.time_zone)


def _shaded(hours: tuple[float, ...], most: float, day: PersonDay) -> list[dict[str, int]]:
    """Hours of the UTC day in the order of the person's."""
    return [
        {"hour": one.hour, "load": int(hours[one.hour]), "shade": round(_SHADES * hours[one.hour] / most)}
        for one in day
    ]


def _hour(text: str) -> int:
    """-1, which no day has, for what is no number."""
    return int(text) if text.isdecimal() and len(text) < 3 else -1


def _spread(request: HttpRequest, form: PileForm, chosen: dict[str, Any]) -> bool:
    if "look" in request.POST:
        return False
    try:
        made = spread_pile(**chosen, **form.cleaned_data)
    except BackupsiteError as error:
        show_error(form, error)
        return False
    messages.success(request, f"{len(made.moves)} definitions were spread. You can take it back on this page.")
    return True


def _hours_of(node: Node, day: PersonDay, *, person: Person, now: datetime) -> list[dict[str, Any]]:
    """The planned load of the node, to choose a quiet hour by."""
    seen = Definition.objects.for_user(person).filter(disk__server__node=node)
    hours = next((row.hours for row in heat_map(seen, now=now).rows), (0.0,) * 24)
    return [{**cell, "clock": day.of(cell["hour"])} for cell in _shaded(hours, max(hours) or 1, day)]


def _piles(found: LoadMap, day: PersonDay) -> list[dict[str, Any]]:
    """What stands out, with its sentence by the person's clock and its hour."""
    nodes = {row.node.name: row.node for row in found.rows}
    return [
        {"sentence": day.advice(item), "node": nodes[item.node], "hour": day.of(item.hour)}
        for item in found.advice
        if item.node in nodes
    ]


def _cells(found: LoadMap, day: PersonDay) -> list[dict[str, Any]]:
    """Each hour as a shade from 0 to 9 of the busiest one, planned or actual, with its bytes per second."""
    most = max((value for row in found.rows for value in (*row.planned, *row.actual)), default=0) or 1

    address = reverse("definition-spread")
    return [
        {
            "node": row.node,
            "planned": _shaded(row.planned, most, day),
            "actual": _shaded(row.actual, most, day),
            "address": f"{address}?node={row.node.pk}",
        }
        for row in found.rows
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
