"""The page Tokens: one's own, a SuperAdmin's also those of others. A secret is on one answer only."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import BackupsiteError
from tenants.access import get_for_user
from tenants.list_forms import TokenFilters
from tenants.listing import Listing, Sort
from tenants.models import ApiToken
from tenants.roles import Action
from tenants.sign_in.confirming import confirmed
from tenants.tokens import create_token, end_token, rotate_token
from tenants.tokens_api import TokenSerializer
from tenants.tokens_forms import TokenForm
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error

TOKENS = Listing(
    name="tokens",
    form=TokenFilters,
    sorts={
        "made": Sort("Made", ("created_at",), falls=True),
        "label": Sort("Label", ("label",)),
        "ends": Sort("Ends", ("expires_at",)),
    },
    order="-made",
    serializer=TokenSerializer,
)


@require_GET
@portal_page
def token_list(request: HttpRequest) -> HttpResponseBase:
    rows = ApiToken.objects.for_user(request.user).select_related("person", "tenant")
    return TOKENS.answer(request, rows, "tokens/list.html", {"now": timezone.now()})


@require_http_methods(["GET", "POST"])
@portal_page
@confirmed
def token_new(request: HttpRequest) -> HttpResponse:
    form = TokenForm(request.POST or None, person=request.user)
    if form.is_valid():
        try:
            token, text = create_token(person=request.user, wanted=form.wanted(), now=timezone.now())
            return render(request, "tokens/shown.html", {"token": token, "text": text})
        except BackupsiteError as error:
            show_error(form, error)
    status = STATUS_WRONG_INPUT if form.errors else 200
    return render(request, "tokens/form.html", {"form": form}, status=status)


@require_POST
@portal_page
@confirmed
def token_rotate(request: HttpRequest, pk: UUID) -> HttpResponse:
    token = get_for_user(ApiToken.objects.all(), person=request.user, action=Action.EDIT, pk=pk)
    try:
        text = rotate_token(token=token, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise="token-list")
    token.refresh_from_db()
    return render(request, "tokens/shown.html", {"token": token, "text": text})


@require_POST
@portal_page
def token_end(request: HttpRequest, pk: UUID) -> HttpResponse:
    token = get_for_user(ApiToken.objects.all(), person=request.user, action=Action.DELETE, pk=pk)
    end_token(token=token, actor=request.user, now=timezone.now())
    messages.success(request, f"The token {token} has ended.")
    return redirect("token-list")
