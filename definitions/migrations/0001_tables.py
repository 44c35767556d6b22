import common.ids
import datetime
import django.core.validators
import django.db.models.deletion
from common.tables import CreateTables
from django.conf import settings
from django.db import migrations, models




class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('agents', '0001_tables'),
        ('tenants', '__first__'),
        ('vaults', '0001_tables'),
    ]

    operations = [
        CreateTables(
            [
                migrations.CreateModel(
                    name='ZoneRules',
                    fields=[
                        ('time_zone', models.CharField(max_length=64, primary_key=True, serialize=False)),
                        ('data', models.BinaryField()),
                        ('noted_at', models.DateTimeField()),
                    ],
                    options={
                        'verbose_name_plural': 'zone rules',
                    },
                ),
                migrations.CreateModel(
                    name='Policy',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('keep_hourly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_daily', models.PositiveSmallIntegerField(default=0)),
                        ('keep_weekly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_monthly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_yearly', models.PositiveSmallIntegerField(default=0)),
                        ('name', models.CharField(max_length=16, unique=True, validators=[django.core.validators.RegexValidator('^[A-Za-z0-9][A-Za-z0-9._-]*\\Z', 'Use letters, digits, dots, dashes; begin with a letter or digit.')])),
                        ('description', models.CharField(blank=True, max_length=128)),
                        ('window_start', models.TimeField(default=datetime.time(22, 0))),
                        ('window_end', models.TimeField(default=datetime.time(6, 0))),
                        ('time_zone', models.CharField(default='UTC', max_length=64)),
                        ('retention_count', models.PositiveIntegerField(default=0)),
                        ('retention_days', models.PositiveSmallIntegerField(default=14)),
                        ('lock_days', models.PositiveSmallIntegerField(blank=True, null=True)),
                        ('lock_whole_retention', models.BooleanField(default=False)),
                        ('restricted', models.BooleanField(default=True)),
                        ('agent_limits', models.JSONField(blank=True, default=dict)),
                    ],
                    options={
                        'verbose_name_plural': 'policies',
                        'constraints': [models.CheckConstraint(condition=models.Q(('lock_days', None), ('lock_whole_retention', False), _connector='OR'), name='policy_locks_in_one_way')],
                    },
                ),
                migrations.CreateModel(
                    name='Definition',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('retention_count', models.PositiveIntegerField(default=14)),
                        ('retention_days', models.PositiveSmallIntegerField(default=0)),
                        ('keep_hourly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_daily', models.PositiveSmallIntegerField(default=0)),
                        ('keep_weekly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_monthly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_yearly', models.PositiveSmallIntegerField(default=0)),
                        ('name', models.CharField(max_length=16, validators=[django.core.validators.RegexValidator('^[A-Za-z0-9][A-Za-z0-9._-]*\\Z', 'Use letters, digits, dots, dashes; begin with a letter or digit.')])),
                        ('type', models.CharField(choices=[('vault', 'Vault'), ('dataset', 'Dataset'), ('file', 'File')], default='vault', max_length=8)),
                        ('cron', models.CharField(max_length=100)),
                        ('time_zone', models.CharField(default='UTC', max_length=64)),
                        ('immutable_days', models.PositiveIntegerField(blank=True, null=True)),
                        ('bandwidth_limit', models.PositiveBigIntegerField(blank=True, null=True)),
                        ('compression', models.CharField(choices=[('off', 'off'), ('gzip', 'gzip'), ('bzip2', 'bzip2'), ('zstd', 'zstd')], default='off', max_length=8)),
                        ('freeze_filesystem', models.BooleanField(default=False)),
                        ('excludes', models.TextField(blank=True)),
                        ('rpo_hours', models.PositiveIntegerField(blank=True, null=True)),
                        ('retired_at', models.DateTimeField(blank=True, null=True)),
                        ('active', models.BooleanField(default=True)),
                        ('description', models.CharField(blank=True, max_length=128)),
                        ('next_run_at', models.DateTimeField(blank=True, null=True)),
                        ('backup_node', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='agents.node')),
                        ('disk', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='definitions', to='agents.disk')),
                        ('storage', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='agents.storage')),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='definitions', to='tenants.tenant')),
                        ('vault', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='definitions', to='vaults.vault')),
                        ('policy', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='definitions', to='definitions.policy')),
                    ],
                    options={
                        'indexes': [models.Index(condition=models.Q(('active', True)), fields=['next_run_at'], name='definition_due'), models.Index(fields=['created_at', 'id'], name='definition_by_age'), models.Index(fields=['tenant', 'created_at', 'id'], name='definition_of_tenant_by_age'), models.Index(fields=['name', 'id'], name='definition_by_name'), models.Index(fields=['tenant', 'name', 'id'], name='definition_of_tenant_by_name')],
                        'constraints': [models.UniqueConstraint(fields=('disk', 'name'), name='definition_name_once_per_disk'), models.CheckConstraint(condition=models.Q(('retention_count__lte', 65536)), name='definition_retention_sane'), models.CheckConstraint(condition=models.Q(('retention_days__lte', 3650)), name='definition_retention_days_sane'), models.CheckConstraint(condition=models.Q(('immutable_days', None), models.Q(('immutable_days__gte', 1), ('immutable_days__lte', 3650)), _connector='OR'), name='definition_immutable_days_sane'), models.CheckConstraint(condition=models.Q(('retired_at', None), models.Q(('active', False), ('next_run_at', None)), _connector='OR'), name='definition_retired_is_still'), models.CheckConstraint(condition=models.Q(('rpo_hours', None), models.Q(('rpo_hours__gte', 1), ('rpo_hours__lte', 87600)), _connector='OR'), name='definition_rpo_sane'), models.CheckConstraint(condition=models.Q(('bandwidth_limit', None), ('bandwidth_limit__gte', 65536), _connector='OR'), name='definition_bandwidth_sane'), models.CheckConstraint(condition=models.Q(models.Q(('backup_node', None), ('storage', None), ('type', 'vault'), ('vault__isnull', False)), models.Q(('backup_node__isnull', False), ('immutable_days', None), ('storage__isnull', False), ('type__in', ['dataset', 'file']), ('vault', None)), _connector='OR'), name='definition_place_by_type')],
                    },
                ),
                migrations.CreateModel(
                    name='PolicyAssignment',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('tag', models.CharField(blank=True, max_length=32, null=True, unique=True, validators=[django.core.validators.RegexValidator('^[a-z0-9][a-z0-9._-]{0,31}\\Z', 'Use small letters, digits, dots and dashes, at most 32.')])),
                        ('policy', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='assignments', to='definitions.policy')),
                        ('region', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='policy_assignment', to='vaults.region')),
                        ('server', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='policy_assignment', to='agents.server')),
                        ('tenant', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='policy_assignment', to='tenants.tenant')),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('region', None), ('server__isnull', False), ('tag', None), ('tenant', None)), models.Q(('region', None), ('server', None), ('tag__isnull', False), ('tenant', None)), models.Q(('region', None), ('server', None), ('tag', None), ('tenant__isnull', False)), models.Q(('region__isnull', False), ('server', None), ('tag', None), ('tenant', None)), _connector='OR'), name='policy_assigned_to_one_thing')],
                    },
                ),
                migrations.CreateModel(
                    name='ServerTag',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('tag', models.CharField(max_length=32, validators=[django.core.validators.RegexValidator('^[a-z0-9][a-z0-9._-]{0,31}\\Z', 'Use small letters, digits, dots and dashes, at most 32.')])),
                        ('server', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tags', to='agents.server')),
                    ],
                    options={
                        'indexes': [models.Index(fields=['tag'], name='server_by_tag')],
                        'constraints': [models.UniqueConstraint(fields=('server', 'tag'), name='tag_once_per_server')],
                    },
                ),
                migrations.CreateModel(
                    name='SpreadAct',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('moves', models.JSONField(default=list)),
                        ('undone_at', models.DateTimeField(blank=True, null=True)),
                        ('made_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                    ],
                    options={
                        'abstract': False,
                    },
                ),
                migrations.CreateModel(
                    name='BlackoutWindow',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('reason', models.CharField(max_length=200)),
                        ('start', models.TimeField()),
                        ('end', models.TimeField()),
                        ('time_zone', models.CharField(default='UTC', max_length=64)),
                        ('weekdays', models.CharField(default='1234567', max_length=7)),
                        ('node', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='blackouts', to='agents.node')),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='blackouts', to='tenants.tenant')),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(('node', None), ('tenant', None), _connector='OR'), name='blackout_of_one_thing'), models.CheckConstraint(condition=models.Q(models.Q(('reason', ''), _negated=True), models.Q(('weekdays', ''), _negated=True)), name='blackout_says_when_and_why')],
                    },
                ),
                migrations.CreateModel(
                    name='DefinitionPause',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('reason', models.CharField(max_length=200)),
                        ('starts_at', models.DateTimeField()),
                        ('until', models.DateTimeField(blank=True, null=True)),
                        ('ended_at', models.DateTimeField(blank=True, null=True)),
                        ('definition', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='pauses', to='definitions.definition')),
                        ('node', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='pauses', to='agents.node')),
                        ('paused_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='pauses', to='tenants.tenant')),
                    ],
                    options={
                        'indexes': [models.Index(condition=models.Q(('ended_at', None)), fields=['starts_at'], name='pause_standing')],
                        'constraints': [models.CheckConstraint(condition=models.Q(('node', None), models.Q(('definition', None), ('tenant', None)), _connector='OR'), name='pause_of_one_thing'), models.CheckConstraint(condition=models.Q(('definition', None), ('tenant__isnull', False), _connector='OR'), name='pause_of_definition_has_tenant'), models.CheckConstraint(condition=models.Q(('reason', ''), _negated=True), name='pause_has_reason'), models.CheckConstraint(condition=models.Q(('until', None), ('until__gt', models.F('starts_at')), _connector='OR'), name='pause_ends_later')],
                    },
                ),
                migrations.CreateModel(
                    name='EarlierRules',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('retention_count', models.PositiveIntegerField(default=14)),
                        ('retention_days', models.PositiveSmallIntegerField(default=0)),
                        ('keep_hourly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_daily', models.PositiveSmallIntegerField(default=0)),
                        ('keep_weekly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_monthly', models.PositiveSmallIntegerField(default=0)),
                        ('keep_yearly', models.PositiveSmallIntegerField(default=0)),
                        ('until', models.DateTimeField()),
                        ('definition', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='earlier_rules', to='definitions.definition')),
                    ],
                    options={
                        'indexes': [models.Index(fields=['definition', 'until'], name='earlier_rules_of_definition')],
                    },
                ),
            ]
        ),
    ]
