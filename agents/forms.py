"""What a person types about people. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.models import Server
from tenants.models import Person, Tenant
from tenants.roles import Action, Role

_CLASSES = {forms.CheckboxInput: "form-check-input", forms.Select: "form-select", forms.SelectMultiple: "form-select"}


class _StyledForm(forms.Form):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", _CLASSES.get(type(field.widget), "form-control"))


class InvitationForm(_StyledForm):
    """Offers the tenants and servers where the person may invite."""

    tenant = forms.ModelChoiceField(label="Tenant", queryset=Tenant.objects.none())
    email = forms.EmailField(label="E-mail", max_length=150)
    administers = forms.BooleanField(
        label="Administrator of the tenant", required=False, help_text="Sees and changes everything in it."
    )
    servers = forms.ModelMultipleChoiceField(
        label="Owner of these servers", queryset=Server.objects.none(), required=False, help_text="Sees them only."
    )

    def __init__(self, *args: Any, person: Person, tenants: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].queryset = tenants.order_by("name")  # type: ignore[attr-defined]
        servers = Server.objects.for_user(person, Action.EDIT).filter(tenant__in=tenants)
        self.fields["servers"].queryset = servers.order_by("name")  # type: ignore[attr-defined]


class RoleForm(_StyledForm):
    """One role of a tenant, or of a server, as `tenant:<id>` or `server:<id>`."""

    place = forms.ChoiceField(label="Role")

    def __init__(self, *args: Any, person: Person, tenants: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        servers = Server.objects.for_user(person, Action.EDIT).filter(tenant__in=tenants).order_by("name")
        choices = [(f"tenant:{tenant.pk}", f"{Role.DC_ADMIN} of {tenant.title}") for tenant in tenants.order_by("name")]
        choices += [(f"server:{server.pk}", f"{Role.VM_OWNER} of {server.name}") for server in servers]
        self.fields["place"].choices = choices  # type: ignore[attr-defined]


class JoinForm(_StyledForm):
    password = forms.CharField(
        label="Choose a password",
        widget=forms.PasswordInput(attrs={"class": "form-control", "autocomplete": "new-password"}),
        help_text="At least twelve characters.",
        strip=False,
    )
