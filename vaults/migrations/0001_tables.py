import common.ids
import django.db.models.deletion
import vaults.severity
from common.tables import CreateTables
from django.conf import settings
from django.db import migrations, models




class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('tenants', '0001_tables'),
    ]

    operations = [
        CreateTables(
            [
                migrations.CreateModel(
                    name='Region',
                    fields=[
                        ('code', models.CharField(max_length=16, primary_key=True, serialize=False)),
                        ('title', models.CharField(blank=True, max_length=100)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Affinity',
                    fields=[
                        ('region', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='affinity', serialize=False, to='vaults.region')),
                        ('vault_region', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='vaults_for', to='vaults.region')),
                    ],
                    options={
                        'verbose_name_plural': 'affinities',
                        'constraints': [models.CheckConstraint(condition=models.Q(('region', models.F('vault_region')), _negated=True), name='affinity_is_elsewhere')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Endpoint',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('region', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='endpoint', to='vaults.region')),
                        ('url', models.URLField()),
                        ('signing_region', models.CharField(default='us-east-1', max_length=64)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Vault',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='vaults', to='tenants.tenant')),
                        ('name', models.CharField(editable=False, max_length=64, unique=True)),
                        ('endpoint', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='vaults', to='vaults.endpoint')),
                        ('bucket', models.CharField(max_length=63)),
                        ('immutable_days', models.PositiveIntegerField(default=14)),
                        ('status', models.CharField(choices=[('pending', 'being made'), ('ready', 'ready'), ('refused', 'refused')], default='pending', max_length=12)),
                        ('refusal', models.TextField(blank=True)),
                        ('checked_at', models.DateTimeField(blank=True, null=True)),
                        ('probed_at', models.DateTimeField(blank=True, null=True)),
                        ('probe_report', models.JSONField(blank=True, default=list)),
                        ('capabilities', models.JSONField(blank=True, default=dict)),
                        ('settings_seen', models.JSONField(blank=True, default=dict)),
                        ('settings_found', models.JSONField(blank=True, default=dict)),
                        ('epoch', models.PositiveBigIntegerField(default=1)),
                        ('reconciled_at', models.DateTimeField(blank=True, null=True)),
                        ('removal_stopped', models.TextField(blank=True)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('endpoint', 'bucket'), name='vault_bucket_once'), models.CheckConstraint(condition=models.Q(('immutable_days__gte', 1), ('immutable_days__lte', 3650)), name='vault_days_sane'), models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'ready', 'refused'])), name='vault_status_known')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Alarm',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='alarms', to='vaults.vault')),
                        ('code', models.CharField(max_length=64)),
                        ('subject', models.CharField(blank=True, max_length=300)),
                        ('severity', models.PositiveSmallIntegerField(choices=[(1, 'info'), (2, 'warning'), (3, 'critical')], default=vaults.severity.Severity['CRITICAL'])),
                        ('message', models.TextField()),
                        ('details', models.JSONField(blank=True, default=dict)),
                        ('seen_at', models.DateTimeField()),
                        ('acknowledged_at', models.DateTimeField(blank=True, null=True)),
                        ('acknowledged_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='acknowledged_alarms', to=settings.AUTH_USER_MODEL)),
                        ('acknowledgement', models.CharField(blank=True, max_length=255)),
                        ('cleared_at', models.DateTimeField(blank=True, null=True)),
                        ('cleared_reason', models.TextField(blank=True)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['vault', 'code', 'subject'], name='alarm_of_subject'), models.Index(condition=models.Q(('cleared_at', None)), fields=['-severity', '-created_at', '-id'], name='alarm_worst_first')],
                        'constraints': [models.UniqueConstraint(condition=models.Q(('cleared_at', None)), fields=('vault', 'code', 'subject'), name='alarm_stands_once'), models.CheckConstraint(condition=models.Q(('severity__in', [1, 2, 3])), name='alarm_severity_known')],
                    },
                ),
                migrations.CreateModel(
                    name='SettingsAcceptance',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='settings_acceptances', to='vaults.vault')),
                        ('actor', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='settings_acceptances', to=settings.AUTH_USER_MODEL)),
                        ('actor_name', models.CharField(max_length=150)),
                        ('reason', models.CharField(max_length=500)),
                        ('before', models.JSONField()),
                        ('after', models.JSONField()),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='TenantKey',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='keys', to='tenants.tenant')),
                        ('mode', models.CharField(choices=[('managed', 'kept by the service'), ('customer', 'kept by the customer')], default='managed', max_length=8)),
                        ('status', models.CharField(choices=[('untested', 'waits for its test'), ('active', 'in use'), ('retired', 'replaced')], default='active', max_length=8)),
                        ('public_key', models.BinaryField()),
                        ('wrapped_private_key', models.BinaryField(blank=True, null=True)),
                        ('shown_at', models.DateTimeField(blank=True, null=True)),
                        ('tested_at', models.DateTimeField(blank=True, null=True)),
                        ('test_digest', models.CharField(blank=True, max_length=64)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(condition=models.Q(('status', 'active')), fields=('tenant',), name='tenant_key_one_active'), models.CheckConstraint(condition=models.Q(models.Q(('mode', 'managed'), ('wrapped_private_key__isnull', False)), models.Q(('mode', 'customer'), ('wrapped_private_key__isnull', True)), _connector='OR'), name='tenant_key_private_half_by_mode'), models.CheckConstraint(condition=models.Q(('status__in', ['untested', 'active', 'retired'])), name='tenant_key_status_known')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='CatalogueKey',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='catalogue_key', to='tenants.tenant')),
                        ('public_key', models.BinaryField()),
                        ('wrapped_private_key', models.BinaryField()),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Domain',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='domains', to='tenants.tenant')),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='domains', to='vaults.vault')),
                        ('wrapped_id_key', models.BinaryField()),
                        ('wrapped_map_key', models.BinaryField()),
                        ('held_for', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='domains_elsewhere', to='tenants.tenant')),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='VaultDeletion',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('vault', models.OneToOneField(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deletion', to='vaults.vault')),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='vault_deletions', to='tenants.tenant')),
                        ('name', models.CharField(max_length=64)),
                        ('requested_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='vault_deletions_requested', to=settings.AUTH_USER_MODEL)),
                        ('requested_by_name', models.CharField(max_length=150)),
                        ('reason', models.CharField(blank=True, max_length=500)),
                        ('requested_at', models.DateTimeField()),
                        ('undo_until', models.DateTimeField()),
                        ('finished_at', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='StoredObject',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='stored_objects', to='vaults.vault')),
                        ('domain', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='stored_objects', to='vaults.domain')),
                        ('session_id', models.UUIDField()),
                        ('kind', models.CharField(max_length=1)),
                        ('key', models.CharField(max_length=300)),
                        ('size_bytes', models.BigIntegerField()),
                        ('sha256', models.CharField(max_length=64)),
                        ('md5_base64', models.CharField(max_length=24)),
                        ('status', models.CharField(choices=[('granted', 'may be uploaded'), ('stored', 'seen in the vault'), ('condemned', 'needed by nothing'), ('deleting', 'being removed'), ('deleted', 'removed')], default='granted', max_length=9)),
                        ('version_id', models.CharField(blank=True, max_length=128)),
                        ('retain_until', models.DateTimeField()),
                        ('granted_at', models.DateTimeField()),
                        ('condemned_epoch', models.PositiveBigIntegerField(blank=True, null=True)),
                        ('condemned_at', models.DateTimeField(blank=True, null=True)),
                        ('deleted_at', models.DateTimeField(blank=True, null=True)),
                        ('read_at', models.DateTimeField(blank=True, null=True)),
                        ('damaged_since', models.DateTimeField(blank=True, null=True)),
                        ('damage', models.CharField(blank=True, max_length=64)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['session_id'], name='stored_object_session'), models.Index(fields=['vault', 'status'], name='stored_object_by_status'), models.Index(fields=['domain', 'kind', 'status'], include=('size_bytes',), name='stored_object_of_domain'), models.Index(condition=models.Q(('damaged_since__isnull', False)), fields=['vault', 'damaged_since'], name='stored_object_damaged')],
                        'constraints': [models.UniqueConstraint(fields=('vault', 'key'), name='stored_object_key_once'), models.CheckConstraint(condition=models.Q(('size_bytes__gte', 0)), name='stored_object_size_sane'), models.CheckConstraint(condition=models.Q(('status__in', ['granted', 'deleted']), models.Q(('version_id', ''), _negated=True), _connector='OR'), name='stored_object_version_known'), models.CheckConstraint(condition=models.Q(('status__in', ['granted', 'stored', 'condemned', 'deleting', 'deleted'])), name='stored_object_status_known'), models.CheckConstraint(condition=models.Q(models.Q(('status__in', ['condemned', 'deleting']), _negated=True), ('condemned_epoch__isnull', False), _connector='OR'), name='stored_object_condemned_by')],
                    },
                ),
                migrations.CreateModel(
                    name='ObjectUse',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('manifest', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='uses', to='vaults.storedobject')),
                        ('needed', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='used_by', to='vaults.storedobject')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('manifest', 'needed'), name='object_use_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Envelope',
                    fields=[
                        ('stored_object', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='envelope', serialize=False, to='vaults.storedobject')),
                        ('writer_session', models.CharField(max_length=32)),
                        ('recipient', models.CharField(max_length=64)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['writer_session'], name='envelope_of_session')],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='RelocatedPack',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('relocation', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='relocated_packs', to='vaults.storedobject')),
                        ('pack', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='relocations', to='vaults.storedobject')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('relocation', 'pack'), name='relocated_pack_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='MovedPack',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('manifest', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='moved_packs', to='vaults.storedobject')),
                        ('pack', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='moved_from', to='vaults.storedobject')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('manifest', 'pack'), name='moved_pack_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='KnownBadObject',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='known_bad_objects', to='vaults.vault')),
                        ('key', models.CharField(max_length=1024)),
                        ('refusal', models.TextField()),
                        ('reason', models.CharField(max_length=500)),
                        ('actor', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='known_bad_objects', to=settings.AUTH_USER_MODEL)),
                        ('actor_name', models.CharField(max_length=150)),
                        ('kept_until', models.DateTimeField()),
                        ('needs', models.ManyToManyField(related_name='needed_by_known_bad', to='vaults.storedobject')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('vault', 'key'), name='known_bad_object_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='RemovalRun',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('vault', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='removal_runs', to='vaults.vault')),
                        ('epoch', models.PositiveBigIntegerField()),
                        ('started_at', models.DateTimeField()),
                        ('finished_at', models.DateTimeField(blank=True, null=True)),
                        ('outcome', models.CharField(blank=True, max_length=64)),
                        ('message', models.TextField(blank=True)),
                        ('needed_objects', models.PositiveIntegerField(default=0)),
                        ('condemned_objects', models.PositiveIntegerField(default=0)),
                        ('revived_objects', models.PositiveIntegerField(default=0)),
                        ('deleting_objects', models.PositiveIntegerField(default=0)),
                        ('deleting_bytes', models.BigIntegerField(default=0)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('vault', 'epoch'), name='removal_run_once_per_epoch')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Removal',
                    fields=[
                        ('stored_object', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='removal', serialize=False, to='vaults.storedobject')),
                        ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='removals', to='vaults.removalrun')),
                        ('ordered_at', models.DateTimeField()),
                        ('attempts', models.PositiveIntegerField(default=0)),
                        ('last_refusal', models.CharField(blank=True, max_length=64)),
                        ('try_after', models.DateTimeField(blank=True, null=True)),
                        ('done_at', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        'indexes': [models.Index(condition=models.Q(('done_at', None)), fields=['done_at', 'try_after'], name='removal_open')],
                        'constraints': [],
                    },
                ),
            ]
        ),
    ]
