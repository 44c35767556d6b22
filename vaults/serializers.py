"""Vaults, keys and the ordering of tenants as JSON. Nothing here holds a private half."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from tenants.models import Tenant
from tenants.roles import Action
from tenants.serializers import BodySerializer, ReadSerializer, ScopedField, TenantSerializer
from vaults.acceptance import LONGEST_REASON, digest_of, open_changes, weaknesses
from vaults.capabilities import lacking
from vaults.custody import fingerprint
from vaults.key_modes import meaning_of
from vaults.models import TenantKey, Vault
from vaults.recovery_keys import catalogue_fingerprint, hint


class VaultSerializer(ReadSerializer):
    region = serializers.CharField(source="endpoint.region_id", read_only=True)
    lacking = serializers.SerializerMethodField(help_text="What the store cannot do, as the last probe found.")
    settings_changes = serializers.SerializerMethodField(
        help_text="How the bucket's settings differ from those that were accepted; empty when they do not."
    )
    settings_weaknesses = serializers.SerializerMethodField(
        help_text="Why these changes cannot be accepted, and what to do; empty when they can."
    )
    settings_digest = serializers.SerializerMethodField(help_text="Names these changes, for accepting them.")

    class Meta:
        model = Vault
        fields = (
            "id",
            "name",
            "tenant",
            "region",
            "bucket",
            "immutable_days",
            "status",
            "refusal",
            "checked_at",
            "probed_at",
            "lacking",
            "settings_changes",
            "settings_weaknesses",
            "settings_digest",
            "created_at",
        )
        read_only_fields = fields

    def get_lacking(self, vault: Vault) -> list[str]:
        return lacking(vault.capabilities)

    def get_settings_changes(self, vault: Vault) -> list[str]:
        return open_changes(vault)

    def get_settings_weaknesses(self, vault: Vault) -> list[str]:
        return weaknesses(vault.settings_found, immutable_days=vault.immutable_days) if vault.settings_found else []

    def get_settings_digest(self, vault: Vault) -> str:
        return digest_of(vault)


class SettingsAcceptanceSerializer(BodySerializer):
    """`digest` is the vault's `settings_digest`: only what the caller has seen is accepted."""

    digest = serializers.CharField(max_length=64)
    reason = serializers.CharField(max_length=LONGEST_REASON)


class TenantOrderSerializer(BodySerializer):
    """With a region (of its servers) the tenant gets a vault where affinity puts it."""

    title = serializers.CharField(max_length=100)
    region = serializers.CharField(max_length=16, required=False)


class TenantWithHintSerializer(TenantSerializer):
    """With what is still to do about the tenant's recovery key; empty when nothing."""

    recovery_key_hint = serializers.SerializerMethodField()

    class Meta(TenantSerializer.Meta):
        fields = (*TenantSerializer.Meta.fields, "recovery_key_hint")
        read_only_fields = fields

    def get_recovery_key_hint(self, tenant: Tenant) -> str:
        keys = [key for key in tenant.keys.all() if key.status == TenantKey.Status.ACTIVE]
        return hint(keys[0]) if keys else ""


class TenantKeySerializer(ReadSerializer):
    public_key = serializers.SerializerMethodField(help_text="X25519, 64 hexadecimal digits.")
    fingerprint = serializers.SerializerMethodField(help_text="SHA-256 of the public key, as key envelopes name it.")
    catalogue_fingerprint = serializers.SerializerMethodField(
        help_text="What a recovery key names beside the tenant's key; the stand-alone tool asks for it."
    )
    hint = serializers.SerializerMethodField(help_text="What is still to do about the key; empty when nothing.")
    meaning = serializers.SerializerMethodField(help_text="What the mode means for restores and checks.")

    class Meta:
        model = TenantKey
        fields = (
            "id",
            "tenant",
            "mode",
            "meaning",
            "status",
            "public_key",
            "fingerprint",
            "catalogue_fingerprint",
            "shown_at",
            "tested_at",
            "hint",
            "created_at",
        )
        read_only_fields = fields

    def get_meaning(self, key: TenantKey) -> str:
        return meaning_of(key.mode)

    def get_public_key(self, key: TenantKey) -> str:
        return bytes(key.public_key).hex()

    def get_fingerprint(self, key: TenantKey) -> str:
        return fingerprint(key)

    def get_catalogue_fingerprint(self, key: TenantKey) -> str:
        return catalogue_fingerprint(key.tenant)

    def get_hint(self, key: TenantKey) -> str:
        return hint(key)


class CustomerKeySerializer(BodySerializer):
    """The public half of a key that the customer made with the stand-alone tool."""

    tenant = ScopedField(queryset=Tenant.objects.all(), action=Action.VIEW)
    public_key = serializers.CharField(max_length=100)


class AnswerSerializer(BodySerializer):
    answer = serializers.CharField(max_length=100)


class ChallengeSerializer(serializers.Serializer[Any]):
    """To be answered with the stand-alone tool and the recovery key."""

    challenge = serializers.CharField()


class RecoveryKeySerializer(serializers.Serializer[Any]):
    """Shown once. Print it, keep it apart from this service, and test it."""

    recovery_key = serializers.CharField()
