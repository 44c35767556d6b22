"""The filters of the lists of vaults and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenants.choosing import TENANTS, ScopedChoiceField
from tenants.list_fields import NamePartField, check_field, choice_field, named
from tenants.listing import ListForm
from tenants.models import Tenant
from vaults.models import Alarm, Region, TenantKey, Vault
from vaults.recovery_keys import NOTHING_TO_DO


class VaultFilters(ListForm):
    q = NamePartField("Vault")
    status = choice_field("Status", Vault.Status.choices, every="Any status")
    region = choice_field("Region", [], every="Any region")
    tenant = ScopedChoiceField(TENANTS, label="Tenant", required=False)
    alarms = check_field("needs a person")
    of_administrators = ("region", "tenant")

    def offer(self) -> None:
        if "tenant" in self.fields:
            self.fields["tenant"].offer(Tenant.objects.for_user(self.person))
        if "region" in self.fields:
            codes = Region.objects.for_user(self.person).order_by("code").values_list("code", flat=True)
            self.fields["region"].choices = [("", "Any region"), *((code, code) for code in codes)]

    def narrow(self, vaults: Any, wanted: Mapping[str, Any]) -> Any:
        plain = {"status": "status", "region": "endpoint__region", "tenant": "tenant"}
        vaults = vaults.filter(**{column: wanted[name] for name, column in plain.items() if name in wanted})
        if "alarms" in wanted:
            vaults = vaults.filter(pk__in=Alarm.objects.needing_a_person().order_by().values("vault"))
        return named(vaults, "name", wanted["q"]) if "q" in wanted else vaults


class KeyFilters(ListForm):
    q = NamePartField("Tenant")
    mode = choice_field(
        "Kept by",
        [(TenantKey.Mode.MANAGED, "the service"), (TenantKey.Mode.CUSTOMER, "the customer")],
        every="Anybody",
    )
    status = choice_field("State", TenantKey.Status.choices, every="Not replaced")
    to_do = check_field("something is to do")

    def narrow(self, keys: Any, wanted: Mapping[str, Any]) -> Any:
        """Without a wish for a state all but those that were replaced."""
        if "status" in wanted:
            keys = keys.filter(status=wanted["status"])
        else:
            keys = keys.exclude(status=TenantKey.Status.RETIRED)
        if "mode" in wanted:
            keys = keys.filter(mode=wanted["mode"])
        if "to_do" in wanted:
            keys = keys.exclude(NOTHING_TO_DO)
        return named(keys, "tenant__title", wanted["q"]) if "q" in wanted else keys
