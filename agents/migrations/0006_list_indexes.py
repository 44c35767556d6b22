"""Indexes of lists; and the tenant of a disk's server stands on the disk too: composite foreign keys go by it."""

from __future__ import annotations

from typing import Any

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import OuterRef, Q, Subquery


def _fill(apps: Any, schema_editor: Any) -> None:
    servers = apps.get_model("agents", "Server").objects.filter(pk=OuterRef("server"))
    apps.get_model("agents", "Disk").objects.update(tenant=Subquery(servers.values("tenant")[:1]))


def _field(*, null: bool) -> models.ForeignKey[Any, Any]:
    protect = django.db.models.deletion.PROTECT
    return models.ForeignKey(null=null, on_delete=protect, related_name="disks", to="tenants.tenant")


class Migration(migrations.Migration):
    # PostgreSQL alters no table that has checks waiting: each step is a transaction of its own.
    atomic = False

    dependencies = [
        ("agents", "0005_agents_as_principals"),
        ("tenants", "0008_list_indexes"),
    ]

    operations = [
        migrations.AddField(model_name="disk", name="tenant", field=_field(null=True)),
        migrations.RunPython(_fill, migrations.RunPython.noop),
        migrations.AlterField(model_name="disk", name="tenant", field=_field(null=False)),
        migrations.AddIndex(
            model_name="agent",
            index=models.Index(fields=["name", "id"], name="agent_by_name"),
        ),
        migrations.AddIndex(
            model_name="server",
            index=models.Index(fields=["tenant", "created_at", "id"], name="server_of_tenant_by_age"),
        ),
        migrations.AddIndex(
            model_name="disk",
            index=models.Index(
                fields=["server"], condition=Q(incomplete_since__isnull=False), name="disk_with_unfinished_restore"
            ),
        ),
        migrations.AddIndex(
            model_name="disk",
            index=models.Index(fields=["tenant", "created_at", "id"], name="disk_of_tenant_by_age"),
        ),
        migrations.AddIndex(
            model_name="disk",
            index=models.Index(fields=["tenant", "size_bytes", "id"], name="disk_of_tenant_by_size"),
        ),
    ]
