"""What is done to many rows of a list at once: each has a result of its own, as in the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from backups.bulk import BACKUP_VERBS, DEFINITION_VERBS
from backups.models import Backup
from common.errors import BackupsiteError
from common.forms import PlainForm
from definitions.models import Definition
from definitions.spreading import preview_spread, spread
from tenants.api.bulk import MOST_ITEMS, carry_out
from tenants.models import Person
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page

# What the buttons of the list of definitions say was done.
_DONE = {"pause": "made inactive", "resume": "made active", "backup-now": "asked for", "spread": "moved"}


class ConfirmForm(PlainForm):
    """The person types how many are to be deleted, in words that nobody types by accident."""

    confirmation = forms.CharField(
        label="Confirmation",
        max_length=60,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any, *, words: str) -> None:
        super().__init__(data)
        self.words = words

    def clean_confirmation(self) -> str:
        typed: str = self.cleaned_data["confirmation"]
        if typed != self.words:
            raise forms.ValidationError(f"Type exactly: {self.words}", code="not_confirmed")
        return typed


@require_POST
@portal_page
def backup_bulk(request: HttpRequest) -> HttpResponse:
    """Delete those that were chosen: first what would be lost, then, with the words typed, each with its result."""
    ids = _ids(request)
    if not ids:
        return _nothing_chosen(request, "backup-list")
    chosen = list(_found(Backup.objects.for_user(request.user).select_related("storage__node"), ids))
    words = f"delete {len(ids)} backup{'' if len(ids) == 1 else 's'}"
    asked = "confirmation" in request.POST
    form = ConfirmForm(request.POST if asked else None, words=words)
    if asked and form.is_valid():
        results = carry_out(
            Backup.objects.all(), BACKUP_VERBS["delete"], {"ids": ids}, person=request.user, route="backup-bulk"
        )
        return _done(request, results, chosen, title="Deleted backups", verb="deleted", back="backup-list")
    kept = Backup.objects.for_user(request.user, Action.DELETE).values_list("pk", flat=True)
    may_delete = set(_found(kept, ids))
    rows = [(backup, _stays_because(backup, may_delete)) for backup in chosen]
    context = {"form": form, "rows": rows, "ids": ids, "words": words, "missing": len(ids) - len(chosen)}
    return render(request, "backups/delete_many.html", context, status=STATUS_WRONG_INPUT if form.errors else 200)


def _stays_because(backup: Backup, may_delete: set[UUID]) -> str:
    """Why it will not be deleted, as far as can be said now; empty when it will."""
    if backup.pk not in may_delete:
        return "you may not delete it"
    if backup.removed_at is not None:
        return "it is deleted already"
    return f"it is in use ({backup.status})" if backup.status in {"pending", "restore"} else ""


@require_POST
@portal_page
def definition_bulk(request: HttpRequest) -> HttpResponse:
    """`action` of the definitions in `ids`: pause, resume, backup-now, or (SuperAdmins) spread."""
    ids, action = _ids(request), request.POST.get("action", "")
    if not ids or action not in _DONE:
        return _nothing_chosen(request, "definition-list")
    chosen = list(_found(Definition.objects.for_user(request.user).select_related("disk__server", "policy"), ids))
    if action == "spread":
        try:
            results = _spread(chosen, ids, request.user)
        except BackupsiteError as error:
            return back_with_error(request, error, otherwise=reverse("definition-list"))
    else:
        verb = DEFINITION_VERBS[action]
        rows = Definition.objects.select_related("disk__server", "tenant", "vault", "policy")
        results = carry_out(rows, verb, {"ids": ids}, person=request.user, route="definition-bulk")
    return _done(request, results, chosen, title="Definitions", verb=_DONE[action], back="definition-list")


def _spread(chosen: Sequence[Definition], ids: list[UUID], person: Person) -> list[dict[str, Any]]:
    """As one act, which can be taken back on the page of the load. Who may not is told by the service."""
    before = {one.pk: one.cron for one in chosen}
    acted = {
        "definitions": Definition.objects.for_user(person).filter(pk__in=ids),
        "actor": person,
        "now": timezone.now(),
    }
    if preview_spread(**acted):
        spread(**acted)
    after = dict(_found(Definition.objects.values_list("pk", "cron"), list(before)))
    return [_spread_result(key, before, after) for key in ids]


def _spread_result(key: UUID, before: Mapping[UUID, str], after: Mapping[UUID, str]) -> dict[str, Any]:
    if key not in before:
        return {"id": key, "code": "not_found", "detail": "There is no such definition."}
    if before[key] == after[key]:
        return {"id": key, "code": "unchanged", "detail": "It stays: it follows no policy, or stands well already."}
    return {"id": key, "code": "ok", "detail": f"{before[key]} became {after[key]}"}


def _done(
    request: HttpRequest, results: list[dict[str, Any]], chosen: Sequence[Any], *, title: str, verb: str, back: str
) -> HttpResponse:
    """The page of results, those that failed first."""
    names = {one.pk: _name(one) for one in chosen}
    rows = [(names.get(result["id"], result["id"]), result) for result in results]
    context = {
        "title": title,
        "verb": verb,
        "done": sum(result["code"] == "ok" for result in results),
        "rows": sorted(rows, key=lambda row: row[1]["code"] == "ok"),
        "back": reverse(back),
    }
    return render(request, "backups/bulk_done.html", context)


def _name(one: Any) -> str:
    return f"{one.name} of {one.server_name} disk {one.disk_number}" if isinstance(one, Backup) else str(one)


def _found(rows: Any, ids: list[UUID]) -> Any:
    return rows.filter(pk__in=ids)


def _ids(request: HttpRequest) -> list[UUID]:
    """Each once, in their order, at most MOST_ITEMS; what is no id was not sent by the list."""
    found: dict[UUID, None] = {}
    for text in request.POST.getlist("ids")[: MOST_ITEMS + 1]:
        try:
            found[UUID(text)] = None
        except ValueError:
            continue
    return list(found)[:MOST_ITEMS]


def _nothing_chosen(request: HttpRequest, back: str) -> HttpResponse:
    messages.error(request, "Nothing was chosen. Mark rows at their beginning first.")
    return redirect(back)
