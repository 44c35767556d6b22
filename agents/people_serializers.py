"""People, their roles, invitations and companies as JSON."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from agents.models import Server
from agents.people import HeldRole, companies_of, roles_of
from common.errors import InvalidInputError
from tenants.models import Company, Invitation, Person, Tenant
from tenants.roles import Action, Role
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, UtcDateTimeField

MOST_SERVERS = 100


class HeldRoleSerializer(serializers.Serializer[Any]):
    """A SuperAdmin's role is of no tenant, a DCAdmin's of no server."""

    role = serializers.ChoiceField(choices=[str(role) for role in Role])
    tenant = serializers.UUIDField(source="tenant.pk", default=None, allow_null=True)
    tenant_name = serializers.CharField(source="tenant.name", default=None, allow_null=True)
    server = serializers.UUIDField(source="server.pk", default=None, allow_null=True)
    server_name = serializers.CharField(source="server.name", default=None, allow_null=True)


class PersonSerializer(ReadSerializer):
    name = serializers.CharField(source="username", read_only=True)
    superadmin = serializers.BooleanField(source="is_superuser", read_only=True)
    active = serializers.BooleanField(source="is_active", read_only=True)
    joined_at = UtcDateTimeField(source="date_joined", read_only=True)

    class Meta:
        model = Person
        fields = ("id", "name", "email", "time_zone", "superadmin", "active", "joined_at")
        read_only_fields = fields


class MembershipSerializer(serializers.Serializer[Any]):
    company = serializers.UUIDField(source="company_id")
    company_name = serializers.CharField(source="company.name")
    tenant = serializers.UUIDField(source="company.tenant_id")


class PersonDetailSerializer(PersonSerializer):
    """With roles and companies, as far as the caller may know of them."""

    roles = serializers.SerializerMethodField()
    companies = serializers.SerializerMethodField()

    class Meta(PersonSerializer.Meta):
        fields = (*PersonSerializer.Meta.fields, "roles", "companies")
        read_only_fields = fields

    @extend_schema_field(HeldRoleSerializer(many=True))
    def get_roles(self, person: Person) -> Any:
        return HeldRoleSerializer(roles_of(person, seen_by=self.context["request"].user), many=True).data

    @extend_schema_field(MembershipSerializer(many=True))
    def get_companies(self, person: Person) -> Any:
        return MembershipSerializer(companies_of(person, seen_by=self.context["request"].user), many=True).data


class RoleSerializer(BodySerializer):
    """DCAdmin with `tenant`, or VmOwner with `server`."""

    role = serializers.ChoiceField(choices=[str(Role.DC_ADMIN), str(Role.VM_OWNER)])
    tenant = ScopedField(queryset=Tenant.objects.all(), required=False)
    server = ScopedField(queryset=Server.objects.select_related("tenant"), action=Action.EDIT, required=False)

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted, other = ("tenant", "server") if given["role"] == Role.DC_ADMIN else ("server", "tenant")
        if wanted not in given or other in given:
            raise InvalidInputError(f"{given['role']} is given with {wanted}, and only that.", field=wanted)
        held = HeldRole(Role(given["role"]), given.get("tenant"), given.get("server"))
        return {"held": held, **{name: value for name, value in given.items() if name == "confirm"}}


class TakenRoleSerializer(RoleSerializer):
    """`confirm` is needed to take one's own last right."""

    confirm = serializers.BooleanField(required=False, default=False)


class TenantOfPersonSerializer(BodySerializer):
    tenant = ScopedField(queryset=Tenant.objects.all())
    confirm = serializers.BooleanField(required=False, default=False)


class ConfirmSerializer(BodySerializer):
    confirm = serializers.BooleanField(required=False, default=False)


class SuperAdminSerializer(ConfirmSerializer):
    superadmin = serializers.BooleanField()


class OwnerSerializer(BodySerializer):
    person = ScopedField(queryset=Person.objects.all())


class TakenOwnerSerializer(OwnerSerializer):
    """`confirm`: also when it is the caller's own last right."""

    confirm = serializers.BooleanField(required=False, default=False)


class InvitationSerializer(ReadSerializer):
    invited_by = serializers.CharField(source="invited_by.username", default=None, read_only=True, allow_null=True)
    servers = serializers.ListField(source="server_ids", child=serializers.UUIDField(), read_only=True)

    class Meta:
        model = Invitation
        fields = (
            "id",
            "tenant",
            "email",
            "administers",
            "servers",
            "invited_by",
            "created_at",
            "expires_at",
            "used_at",
        )
        read_only_fields = fields


class NewInvitationSerializer(BodySerializer):
    """With `administers`, with `servers`, or both."""

    tenant = ScopedField(queryset=Tenant.objects.all())
    email = serializers.EmailField(max_length=150)
    administers = serializers.BooleanField(required=False, default=False)
    servers = serializers.ListField(
        child=ScopedField(queryset=Server.objects.all(), action=Action.EDIT),
        required=False,
        default=list,
        max_length=MOST_SERVERS,
    )


class SentInvitationSerializer(InvitationSerializer):
    """`link` is told once: whoever has it can join."""

    link = serializers.CharField(read_only=True)

    class Meta(InvitationSerializer.Meta):
        fields = (*InvitationSerializer.Meta.fields, "link")
        read_only_fields = fields


class CompanySerializer(ReadSerializer):
    tenant_title = serializers.CharField(source="tenant.title", read_only=True)

    class Meta:
        model = Company
        fields = ("id", "name", "tenant", "tenant_title", "created_at")
        read_only_fields = fields
