"""The page Notifications: webhooks, subscriptions by e-mail, and what was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common.errors import BackupsiteError, NotAllowedError
from tenants.access import get_for_user, may, may_create
from tenants.models import OutboxMessage, Subscription, Webhook
from tenants.notices import services
from tenants.notices.forms import SubscriptionForm, WebhookForm
from tenants.renewing import RENEW_OFTEN_SECONDS, RENEW_SECONDS
from tenants.roles import Action
from tenants.views import STATUS_WRONG_INPUT, back_with_error, paginate, portal_page, show_error

SHOWN_DELIVERIES = 20
_DELIVERIES = OutboxMessage.objects.select_related("event", "webhook", "subscription__person", "person").order_by(
    "-created_at", "-pk"
)


@require_GET
@portal_page
def notice_list(request: HttpRequest) -> HttpResponse:
    return _list(request, SubscriptionForm(person=request.user))


def _list(request: HttpRequest, form: SubscriptionForm, *, status: int = 200) -> HttpResponse:
    rows = Subscription.objects.for_user(request.user).select_related("person", "tenant").order_by("created_at", "pk")
    webhooks = Webhook.objects.for_user(request.user).select_related("tenant")
    deliveries = _DELIVERIES.all().for_user(request.user)[:SHOWN_DELIVERIES]
    context = {
        "webhooks": paginate(request, webhooks.order_by("label", "pk"), parameter="webhooks"),
        "page": paginate(request, rows),
        "deliveries": deliveries,
        "renew_seconds": _renew_seconds(deliveries),
        "may_add_webhook": may_create(request.user, Webhook),
        "form": form,
    }
    return render(request, "notices/list.html", context, status=status)


def _renew_seconds(deliveries: Iterable[OutboxMessage]) -> int:
    """Often while one is on its way; what was tried and failed comes again after minutes or hours."""
    state = OutboxMessage.State
    is_coming = any(
        one.state == state.SENDING or (one.state == state.PENDING and not one.attempts) for one in deliveries
    )
    return RENEW_OFTEN_SECONDS if is_coming else RENEW_SECONDS


@require_POST
@portal_page
def subscription_new(request: HttpRequest) -> HttpResponse:
    form = SubscriptionForm(request.POST, person=request.user)
    if form.is_valid():
        try:
            services.add_subscription(actor=request.user, **form.values())
        except BackupsiteError as error:
            show_error(form, error)
        else:
            messages.success(request, "Mails are sent from now on.")
            return redirect("notice-list")
    return _list(request, form, status=STATUS_WRONG_INPUT)


@require_POST
@portal_page
def subscription_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    row = get_for_user(Subscription.objects.all(), person=request.user, action=Action.DELETE, pk=pk)
    services.remove_subscription(row, actor=request.user)
    messages.success(request, "No more mails of it are sent.")
    return redirect("notice-list")


@require_http_methods(["GET", "POST"])
@portal_page
def webhook_new(request: HttpRequest) -> HttpResponse:
    if not may_create(request.user, Webhook):
        raise NotAllowedError("Your role does not create webhooks.")
    form = WebhookForm(request.POST or None, person=request.user)
    if form.is_valid():
        try:
            webhook, secret = services.add_webhook(actor=request.user, **form.cleaned_data)
            return _show_secret(request, webhook, secret)
        except BackupsiteError as error:
            show_error(form, error)
    status = STATUS_WRONG_INPUT if form.is_bound else 200
    return render(request, "notices/webhook_form.html", {"form": form}, status=status)


def _show_secret(request: HttpRequest, webhook: Webhook, secret: str) -> HttpResponse:
    """In this one answer only, which nothing keeps."""
    return render(request, "notices/webhook_secret.html", {"webhook": webhook, "secret": secret})


@require_GET
@portal_page
def webhook_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = _webhook(request, pk, Action.VIEW)
    deliveries = _DELIVERIES.all().for_user(request.user).filter(webhook=webhook)
    page = paginate(request, deliveries)
    context = {
        "webhook": webhook,
        "page": page,
        "may_edit": may(request.user, Action.EDIT, webhook),
        "renew_seconds": _renew_seconds(page),
    }
    return render(request, "notices/webhook.html", context)


@require_POST
@portal_page
def webhook_test(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = _webhook(request, pk, Action.RUN)
    said = "A test is on its way. What came of it is in the list below."
    return _done(request, webhook, said, lambda: services.send_test(webhook, actor=request.user, now=timezone.now()))


@require_POST
@portal_page
def webhook_status(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook, wanted = _webhook(request, pk, Action.EDIT), {"status": request.POST.get("status", "")}
    said = "The webhook is changed."
    return _done(request, webhook, said, lambda: services.change_webhook(webhook, changes=wanted, actor=request.user))


@require_POST
@portal_page
def webhook_rotate(request: HttpRequest, pk: UUID) -> HttpResponse:
    webhook = _webhook(request, pk, Action.EDIT)
    try:
        secret = services.rotate_secret(webhook, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(webhook))
    return _show_secret(request, webhook, secret)


@require_POST
@portal_page
def webhook_remove(request: HttpRequest, pk: UUID) -> HttpResponse:
    services.remove_webhook(_webhook(request, pk, Action.DELETE), actor=request.user)
    messages.success(request, "The webhook is removed.")
    return redirect("notice-list")


@require_POST
@portal_page
def delivery_retry(request: HttpRequest, pk: UUID) -> HttpResponse:
    message = get_for_user(OutboxMessage.objects.all(), person=request.user, action=Action.RUN, pk=pk)
    address = reverse("notice-list")
    try:
        services.send_again(message, actor=request.user, now=timezone.now())
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=address)
    messages.success(request, "It is sent once more.")
    return redirect(address)


def _webhook(request: HttpRequest, pk: UUID, action: Action) -> Webhook:
    found: Webhook = get_for_user(Webhook.objects.select_related("tenant"), person=request.user, action=action, pk=pk)
    return found


def _done(request: HttpRequest, webhook: Webhook, said: str, verb: Callable[[], Any]) -> HttpResponse:
    try:
        verb()
    except BackupsiteError as error:
        return back_with_error(request, error, otherwise=_address(webhook))
    messages.success(request, said)
    return redirect(_address(webhook))


def _address(webhook: Webhook) -> str:
    return reverse("webhook-detail", args=[webhook.pk])
