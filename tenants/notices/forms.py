"""Forms of the page Notifications. What a value means is checked by the services."""

from __future__ import annotations

from typing import Any

from django import forms

from common.forms import PlainForm
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.models import Person, Tenant
from tenants.models.notices import LONGEST_ADDRESS
from tenants.notices.events import Severity, to_subscribe

_INPUT = {"class": "form-control", "autocomplete": "off"}
_SELECT = {"class": "form-select"}
_SEVERITIES = [(int(severity), f"{severity.name.lower()} and worse") for severity in Severity]


class _NoticeForm(PlainForm):
    """What webhooks and subscriptions share. A SuperAdmin may leave the tenant out."""

    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    severity = forms.TypedChoiceField(
        choices=_SEVERITIES, coerce=int, initial=2, label="How bad at least", widget=forms.Select(attrs=_SELECT)
    )
    events = forms.MultipleChoiceField(
        choices=[],
        required=False,
        label="Events",
        help_text="None chosen: all of them.",
        widget=forms.SelectMultiple(attrs={**_SELECT, "size": "8"}),
    )
    by_webhook = False

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].offer(Tenant.objects.for_user(person))
        without = "the whole installation" if self.by_webhook else "all that you see"
        self.fields["tenant"].help_text = f"Empty: {without}."
        offered = to_subscribe(by_webhook=self.by_webhook, by_super_admin=person.is_superuser)
        self.fields["events"].choices = [(code, code) for code in offered]


class WebhookForm(_NoticeForm):
    label = forms.CharField(max_length=100, label="Name", widget=forms.TextInput(attrs=_INPUT))
    url = forms.CharField(
        max_length=500,
        label="Address",
        help_text="It begins with https:// and is reached from the internet.",
        widget=forms.TextInput(attrs={**_INPUT, "inputmode": "url"}),
    )
    by_webhook = True
    field_order = ["label", "url", "tenant", "severity", "events"]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["severity"].initial = 1


class SubscriptionForm(_NoticeForm):
    address = forms.CharField(
        max_length=LONGEST_ADDRESS,
        required=False,
        label="Address of a team",
        help_text="Empty: to your own address.",
        widget=forms.TextInput(attrs={**_INPUT, "inputmode": "email"}),
    )
    field_order = ["tenant", "address", "severity", "events"]

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, person=person, **options)
        if not self.fields["tenant"].rows.exists():
            # Whoever administers nothing subscribes himself, and is told of what he sees.
            del self.fields["tenant"], self.fields["address"]

    def values(self) -> dict[str, Any]:
        return {"tenant": None, "address": "", **self.cleaned_data}
