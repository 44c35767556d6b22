# What is kept for pages that have to come at once: rows are written by the hourly count.

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('backups', '0009_admission'),
        ('tenants', '0008_list_indexes'),
        ('vaults', '0007_list_indexes'),
    ]

    operations = [
        migrations.CreateModel(
            name='TenantFigures',
            fields=[
                ('tenant', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='figures', serialize=False, to='tenants.tenant')),
                ('counted_at', models.DateTimeField()),
                ('server_count', models.PositiveIntegerField()),
                ('protected_count', models.PositiveIntegerField()),
                ('definition_count', models.PositiveIntegerField()),
                ('most_definitions', models.PositiveIntegerField()),
                ('good_count', models.PositiveIntegerField()),
                ('stored_bytes', models.BigIntegerField()),
                ('unique_bytes', models.BigIntegerField()),
                ('shared_bytes', models.BigIntegerField()),
                ('locked_bytes', models.BigIntegerField()),
                ('pending_delete_bytes', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='VaultFigures',
            fields=[
                ('vault', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='figures', serialize=False, to='vaults.vault')),
                ('counted_at', models.DateTimeField()),
                ('backup_count', models.PositiveIntegerField()),
                ('violation_count', models.PositiveIntegerField()),
                ('soonest_end', models.DateTimeField(blank=True, null=True)),
                ('ending_count', models.PositiveIntegerField()),
            ],
        ),
    ]
