"""Pages of orders. The provider's alone."""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from agents.list_forms import OrderFilters
from agents.models import ServerOrder
from common.errors import BackupsiteError, NotAllowedError
from common.forms import PlainForm
from definitions.orders import order_server, send_delivery
from definitions.orders_api import ShortOrderSerializer
from tenants.access import get_for_user
from tenants.listing import Listing, Sort
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, portal_page, show_error
from vaults.models import Affinity

_INPUT = {"class": "form-control"}


class OrderForm(PlainForm):
    tenant = forms.CharField(
        label="Tenant",
        max_length=100,
        widget=forms.TextInput(attrs=_INPUT),
        help_text="The name or the title of one that is there; any other title makes a tenant.",
    )
    email = forms.CharField(
        label="E-mail",
        max_length=150,
        widget=forms.EmailInput(attrs=_INPUT),
        help_text="Gets a read-only account and the install line.",
    )
    name = forms.CharField(
        label="Server",
        max_length=128,
        widget=forms.TextInput(attrs=_INPUT),
        help_text="As it calls itself (hostname). One that calls itself otherwise waits for your approval.",
    )
    region = forms.ChoiceField(label="Region", widget=forms.Select(attrs={"class": "form-select"}))

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        columns = ("region_id", "region__title", "vault_region_id", "vault_region__title")
        rows = Affinity.objects.order_by("region_id").values_list(*columns)
        self.fields["region"].choices = [
            (code, f"{_place(code, title)} → vault in {_place(vault, vault_title)}")
            for code, title, vault, vault_title in rows
        ]


def _place(code: str, title: str) -> str:
    return f"{code} ({title})" if title and title != code else code


ORDERS = Listing(
    name="orders",
    form=OrderFilters,
    sorts={"ordered": Sort("Ordered", ("created_at",), falls=True), "email": Sort("E-mail", ("email",))},
    order="-ordered",
    serializer=ShortOrderSerializer,
    related=("server__tenant__company",),
)


@require_GET
@portal_page
def order_list(request: HttpRequest) -> HttpResponseBase:
    _refuse_others(request)
    orders = ServerOrder.objects.for_user(request.user).select_related("server__tenant")
    return ORDERS.answer(request, orders, "definitions/orders.html")


@require_http_methods(["GET", "POST"])
@portal_page
def order_create(request: HttpRequest) -> HttpResponse:
    _refuse_others(request)
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = order_server(actor=request.user, now=timezone.now(), **form.cleaned_data)
        except BackupsiteError as error:
            show_error(form, error)
        else:
            _tell(request, made.order, is_new=made.is_new)
            return redirect("order-list")
    return render(
        request, "definitions/order_form.html", {"form": form}, status=STATUS_WRONG_INPUT if form.errors else 200
    )


@require_POST
@portal_page
def order_send_again(request: HttpRequest, pk: UUID) -> HttpResponse:
    order = get_for_user(
        ServerOrder.objects.select_related("server__tenant"), person=request.user, action=Action.EDIT, pk=pk
    )
    try:
        send_delivery(order=order, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise="order-list")
    _tell(request, ServerOrder.objects.get(pk=order.pk), is_new=True)
    return redirect("order-list")


def _tell(request: HttpRequest, order: ServerOrder, *, is_new: bool) -> None:
    if not is_new:
        messages.info(request, "This was ordered before. Nothing was done; the mail can be sent again.")
    elif order.mailed_at is None:
        messages.error(request, "All is set up, but the mail could not be sent. Send it again when mail works.")
    else:
        messages.success(request, f"All is set up, and the mail to {order.email} is on its way.")


def _refuse_others(request: HttpRequest) -> None:
    if not request.user.is_superuser:
        raise NotAllowedError("Only a SuperAdmin orders servers.")
