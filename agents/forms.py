"""What a person types about people. No rules: the services know them."""

from __future__ import annotations

from typing import Any

from django import forms

from agents.choosing import SERVERS
from agents.models import Server
from agents.people import HeldRole
from common.forms import PlainForm
from tenants.choosing import TENANTS, ScopedChoiceField, ScopedChoicesField
from tenants.models import Person
from tenants.roles import Action, Role

_CLASSES = {forms.CheckboxInput: "form-check-input", forms.Select: "form-select", forms.SelectMultiple: "form-select"}


class _StyledForm(PlainForm):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", _CLASSES.get(type(field.widget), "form-control"))


class InvitationForm(_StyledForm):
    """Offers the tenants and servers where the person may invite."""

    tenant = ScopedChoiceField(TENANTS, label="Tenant")
    email = forms.EmailField(label="E-mail", max_length=150)
    administers = forms.BooleanField(
        label="Administrator of the tenant", required=False, help_text="Sees and changes everything in it."
    )
    servers = ScopedChoicesField(
        SERVERS,
        label="Owner of these servers",
        required=False,
        help_text="Sees them only. More can be given on the person's page.",
    )

    def __init__(self, *args: Any, person: Person, tenants: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].offer(tenants)
        self.fields["servers"].offer(_servers_within(person, tenants))


class RoleForm(_StyledForm):
    """One role: administrator of the tenant, or owner of the server."""

    tenant = ScopedChoiceField(TENANTS, label="Administrator of the tenant", required=False)
    server = ScopedChoiceField(SERVERS, label="Owner of the server", required=False)

    def __init__(self, *args: Any, person: Person, tenants: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["tenant"].offer(tenants)
        self.fields["server"].offer(_servers_within(person, tenants))

    def clean(self) -> dict[str, Any]:
        typed = super().clean() or {}
        if not self.errors and bool(typed.get("tenant")) == bool(typed.get("server")):
            raise forms.ValidationError("Name a tenant or a server, one of them.", code="one_role")
        return typed

    def held(self) -> HeldRole:
        tenant, server = self.cleaned_data["tenant"], self.cleaned_data["server"]
        if server is not None:
            return HeldRole(Role.VM_OWNER, server.tenant, server)
        return HeldRole(Role.DC_ADMIN, tenant)


def _servers_within(person: Person, tenants: Any) -> Any:
    """The servers of these tenants whose owners the person names."""
    return Server.objects.for_user(person, Action.EDIT).select_related("tenant").filter(tenant__in=tenants)


class JoinForm(_StyledForm):
    password = forms.CharField(
        label="Choose a password",
        widget=forms.PasswordInput(attrs={"class": "form-control", "autocomplete": "new-password"}),
        help_text="At least twelve characters.",
        strip=False,
    )
