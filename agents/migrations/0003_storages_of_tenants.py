"""Storages are attached one by one, and who has a right in a tenant is in the people list of its company."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models


def _keep_what_is_visible(apps: Any, schema_editor: Any) -> None:
    """What was visible through its node before stays visible."""
    for storage in apps.get_model("agents", "Storage").objects.select_related("node"):
        storage.tenants.set(storage.node.tenants.all())


def _enlist_holders_of_rights(apps: Any, schema_editor: Any) -> None:
    company, membership = apps.get_model("tenants", "Company"), apps.get_model("tenants", "Membership")
    companies = dict(company.objects.values_list("tenant_id", "pk"))
    on_tenants = apps.get_model("tenants", "TenantUserPermission").objects.values_list("user_id", "content_object_id")
    owners = apps.get_model("agents", "ServerUserPermission").objects
    on_servers = owners.values_list("user_id", "content_object__tenant_id")
    for person_id, tenant_id in {*on_tenants, *on_servers}:
        if tenant_id in companies:
            membership.objects.get_or_create(person_id=person_id, company_id=companies[tenant_id])


class Migration(migrations.Migration):
    dependencies = [
        ("agents", "0002_initial"),
        ("tenants", "0003_people_quotas_lifecycle"),
    ]

    operations = [
        migrations.AddField(
            model_name="storage",
            name="tenants",
            field=models.ManyToManyField(blank=True, related_name="storages", to="tenants.tenant"),
        ),
        migrations.RunPython(_keep_what_is_visible, migrations.RunPython.noop),
        migrations.RunPython(_enlist_holders_of_rights, migrations.RunPython.noop),
    ]
