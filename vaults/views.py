"""Pages of tenants' keys: the recovery key shown once, its test, replacing a key, the customer's own key."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from common.errors import BackupsiteError, InvalidInputError
from tenants.access import get_for_user
from tenants.listing import Listed, Listing, Sort
from tenants.roles import Action
from tenants.sign_in.confirming import confirmed
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error
from vaults import key_client
from vaults.custody import fingerprint
from vaults.forms import AnswerForm, CustomerKeyForm
from vaults.key_modes import NO_WAY_BACK, meaning_of
from vaults.list_forms import KeyFilters
from vaults.models import TenantKey
from vaults.recovery_keys import (
    catalogue_fingerprint,
    check_showable,
    finish_test,
    hint,
    register_customer_key,
    start_test,
)
from vaults.rotation import rewrapping_of
from vaults.serializers import TenantKeySerializer

_KEYS = TenantKey.objects.select_related("tenant__catalogue_key")


KEYS = Listing(
    name="keys",
    form=KeyFilters,
    sorts={
        "tenant": Sort("Tenant", ("tenant__title",)),
        "mode": Sort("Kept by", ("mode",)),
        "status": Sort("State", ("status",)),
        "made": Sort("Made", ("created_at",), falls=True),
    },
    order="tenant",
    serializer=TenantKeySerializer,
)


@require_GET
@portal_page
def key_list(request: HttpRequest) -> HttpResponseBase:
    listed = KEYS.read(request, _KEYS.for_user(request.user))
    if not isinstance(listed, Listed):
        return listed
    rows = [(key, hint(key)) for key in listed.rows]
    return render(request, "vaults/keys.html", {"listed": listed, "rows": rows})


@require_GET
@portal_page
def key_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _detail(request, _key(request, pk, Action.VIEW), CustomerKeyForm())


def _key(request: HttpRequest, pk: UUID, action: Action) -> TenantKey:
    return get_for_user(_KEYS.all(), person=request.user, action=action, pk=pk)


def _detail(request: HttpRequest, key: TenantKey, form: CustomerKeyForm, *, status: int = 200) -> HttpResponse:
    is_active = key.status == TenantKey.Status.ACTIVE
    context: dict[str, Any] = {
        "key": key,
        "form": form,
        "hint": hint(key),
        "meaning": meaning_of(key.mode),
        "no_way_back": NO_WAY_BACK,
        "fingerprint": fingerprint(key),
        "catalogue_fingerprint": catalogue_fingerprint(key.tenant),
        "is_active": is_active,
        "is_managed": key.mode == TenantKey.Mode.MANAGED,
        "may_show": is_active and key.mode == TenantKey.Mode.MANAGED and key.shown_at is None,
        "may_test": key.status != TenantKey.Status.RETIRED,
        "rewrapping": rewrapping_of(key.tenant_id) if is_active else None,
    }
    return render(request, "vaults/key.html", context, status=status)


@require_POST
@portal_page
@confirmed
def key_show(request: HttpRequest, pk: UUID) -> HttpResponse:
    key = _key(request, pk, Action.EDIT)
    try:
        check_showable(key)
        text = key_client.show_recovery_key(key, person=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(key))
    return render(request, "vaults/recovery_key.html", {"key": key, "recovery_key": text})


@require_POST
@portal_page
def key_test(request: HttpRequest, pk: UUID) -> HttpResponse:
    key = _key(request, pk, Action.EDIT)
    try:
        form = AnswerForm(initial={"challenge": start_test(key)})
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(key))
    return render(request, "vaults/key_test.html", {"key": key, "form": form})


@require_POST
@portal_page
def key_answer(request: HttpRequest, pk: UUID) -> HttpResponse:
    key, form = _key(request, pk, Action.EDIT), AnswerForm(request.POST)
    try:
        if form.is_valid():
            finish_test(key, answer=form.cleaned_data["answer"], actor=request.user, now=timezone.now())
    except InvalidInputError as error:
        show_error(form, error)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(key))
    if form.errors:
        return render(request, "vaults/key_test.html", {"key": key, "form": form}, status=STATUS_WRONG_INPUT)
    messages.success(request, "The answer is right: the recovery key works.")
    return redirect(_address(key))


@require_POST
@portal_page
@confirmed
def key_rotate(request: HttpRequest, pk: UUID) -> HttpResponse:
    key = _key(request, pk, Action.EDIT)
    try:
        new = key_client.rotate_key(key, person=request.user)
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(key))
    messages.success(request, "New backups are sealed to this key. Show its recovery key now; the old one goes.")
    return redirect("key-detail", new)


@require_POST
@portal_page
@confirmed
def key_register(request: HttpRequest, pk: UUID) -> HttpResponse:
    key, form = _key(request, pk, Action.CREATE), CustomerKeyForm(request.POST)
    if form.is_valid():
        try:
            new = register_customer_key(key.tenant, public_key=form.cleaned_data["public_key"], actor=request.user)
            return redirect(_address(new))
        except BackupsiteError as error:
            show_error(form, error)
    return _detail(request, key, form, status=STATUS_WRONG_INPUT)


def _address(key: TenantKey) -> str:
    return reverse("key-detail", args=[key.pk])
