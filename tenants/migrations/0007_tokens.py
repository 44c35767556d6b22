"""Tokens with a scope, under a pepper. Tokens from before are ended: their hashes hold no pepper, and none can be added."""

import secrets
from datetime import timedelta

import django.db.models.deletion
from django.db import migrations, models
from django.utils import timezone


def end_former_tokens(apps, schema_editor):
    tokens = apps.get_model("tenants", "ApiToken")
    now = timezone.now()
    for token in tokens.objects.all():
        token.key = secrets.token_urlsafe(9)
        token.disabled_at = now
        token.expires_at = token.expires_at or now + timedelta(days=1)
        token.save()


class Migration(migrations.Migration):
    dependencies = [("tenants", "0006_sign_in")]

    operations = [
        migrations.AddField("apitoken", "kind", models.CharField(choices=[("key", "API key"), ("login", "sign-in by password")], default="key", max_length=8)),
        migrations.AddField("apitoken", "key", models.CharField(default="", editable=False, max_length=32), preserve_default=False),
        migrations.AddField("apitoken", "secret_mac", models.CharField(default="", editable=False, max_length=64), preserve_default=False),
        migrations.AddField("apitoken", "pepper_id", models.CharField(default="", editable=False, max_length=16), preserve_default=False),
        migrations.AddField("apitoken", "scope", models.CharField(choices=[("read", "read: look at everything, change nothing"), ("operate", "operate: also run, verify and cancel"), ("admin", "admin: everything that its person may")], default="read", max_length=8)),
        migrations.AddField("apitoken", "may_restore", models.BooleanField(default=False)),
        migrations.AddField("apitoken", "tenant", models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name="api_tokens", to="tenants.tenant")),
        migrations.AddField("apitoken", "networks", models.JSONField(blank=True, default=list)),
        migrations.AddField("apitoken", "disabled_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("apitoken", "last_used_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("apitoken", "last_used_address", models.CharField(blank=True, max_length=45)),
        migrations.RunPython(end_former_tokens, migrations.RunPython.noop),
        migrations.RemoveField("apitoken", "secret_hash"),
        migrations.AlterField("apitoken", "expires_at", models.DateTimeField()),
        migrations.AlterField("apitoken", "key", models.CharField(editable=False, max_length=32, unique=True)),
        migrations.AddIndex("apitoken", models.Index(fields=["person", "id"], name="token_of_person")),
        migrations.AddConstraint("apitoken", models.CheckConstraint(condition=models.Q(scope__in=["read", "operate", "admin"]), name="token_scope_known")),
        migrations.AddConstraint("apitoken", models.CheckConstraint(condition=models.Q(kind__in=["key", "login"]), name="token_kind_known")),
        migrations.AddConstraint("apitoken", models.UniqueConstraint(fields=["person"], condition=models.Q(kind="login"), name="token_one_login_per_person")),
    ]
