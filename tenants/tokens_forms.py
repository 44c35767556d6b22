"""What is typed for a new token."""

from __future__ import annotations

from typing import Any

from django import forms

from common.forms import PlainForm
from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.models import ApiToken, Person, Tenant
from tenants.token_limits import SCOPE_CHOICES, Scope
from tenants.tokens import DEFAULT_DAYS, NewToken


class TokenForm(PlainForm):
    label = forms.CharField(max_length=ApiToken._meta.get_field("label").max_length, help_text="What it is for.")
    scope = forms.ChoiceField(choices=SCOPE_CHOICES, initial=Scope.READ)
    may_restore = forms.BooleanField(required=False, label="May restore, which overwrites disks")
    tenant = ScopedChoiceField(TENANTS, required=False, help_text="Empty: all that you reach.")
    networks = forms.CharField(
        required=False,
        max_length=1000,
        help_text="From where it may come, such as 192.0.2.0/24 2001:db8::/32. Empty: from everywhere.",
    )
    days = forms.IntegerField(min_value=1, initial=DEFAULT_DAYS, help_text="How long it lives.")

    def __init__(self, *args: Any, person: Person, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].offer(Tenant.objects.for_user(person))
        for name, field in self.fields.items():
            kind = "form-select" if name == "scope" else "form-control"
            field.widget.attrs["class"] = "form-check-input" if name == "may_restore" else kind

    def wanted(self) -> NewToken:
        values = dict(self.cleaned_data)
        return NewToken(
            **{**values, "scope": Scope(values["scope"]), "networks": values["networks"].replace(",", " ").split()}
        )
