import common.ids
import django.db.models.deletion
from common.tables import CreateTables
from django.conf import settings
from django.db import migrations, models




class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('tenants', '__first__'),
        ('vaults', '0001_tables'),
    ]

    operations = [
        CreateTables(
            [
                migrations.CreateModel(
                    name='Node',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('name', models.SlugField(max_length=64, unique=True)),
                        ('is_backup', models.BooleanField(default=True)),
                        ('status', models.CharField(choices=[('online', 'online'), ('offline', 'offline'), ('maintenance', 'maintenance')], default='offline', max_length=12)),
                        ('last_seen_at', models.DateTimeField(blank=True, null=True)),
                        ('drivers', models.JSONField(blank=True, default=dict)),
                        ('drivers_at', models.DateTimeField(blank=True, null=True)),
                        ('region', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='nodes', to='vaults.region')),
                        ('tenants', models.ManyToManyField(blank=True, related_name='nodes', to='tenants.tenant')),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['online', 'offline', 'maintenance'])), name='node_status_known')],
                    },
                ),
                migrations.CreateModel(
                    name='Release',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('number', models.PositiveIntegerField(unique=True)),
                        ('version', models.CharField(max_length=64)),
                        ('file', models.CharField(max_length=128, unique=True)),
                        ('manifest', models.BinaryField()),
                        ('signature', models.BinaryField()),
                        ('state', models.CharField(choices=[('staged', 'offered to nobody'), ('offered', 'offered'), ('withdrawn', 'withdrawn')], default='staged', max_length=10)),
                        ('percent', models.PositiveSmallIntegerField(default=0)),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(('percent__lte', 100)), name='release_percent_sane'), models.CheckConstraint(condition=models.Q(('state__in', ['staged', 'offered', 'withdrawn'])), name='release_state_known')],
                    },
                ),
                migrations.CreateModel(
                    name='Server',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('name', models.CharField(max_length=128)),
                        ('source_name', models.CharField(blank=True, max_length=128)),
                        ('domain', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='server', to='vaults.domain')),
                        ('node', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='agents.node')),
                        ('region', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='vaults.region')),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='tenants.tenant')),
                    ],
                    options={
                        'permissions': [('own_server', 'Owns the server (VmOwner)')],
                        'indexes': [models.Index(fields=['name', 'id'], name='server_by_name'), models.Index(fields=['created_at', 'id'], name='server_by_age'), models.Index(fields=['tenant', 'created_at', 'id'], name='server_of_tenant_by_age')],
                        'constraints': [models.UniqueConstraint(fields=('tenant', 'name'), name='server_name_once_per_tenant')],
                    },
                ),
                migrations.CreateModel(
                    name='Agent',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('name', models.CharField(max_length=128)),
                        ('public_key', models.BinaryField(unique=True)),
                        ('status', models.CharField(choices=[('pending', 'waits for approval'), ('enrolled', 'enrolled'), ('quarantined', 'in quarantine'), ('revoked', 'revoked')], default='pending', max_length=12)),
                        ('last_seen_at', models.DateTimeField(blank=True, null=True)),
                        ('silent_since', models.DateTimeField(blank=True, null=True)),
                        ('version', models.CharField(blank=True, max_length=64)),
                        ('health', models.CharField(blank=True, max_length=2048)),
                        ('health_code', models.CharField(blank=True, max_length=64)),
                        ('machine', models.CharField(blank=True, max_length=128)),
                        ('facts', models.JSONField(blank=True, default=dict)),
                        ('trees', models.JSONField(blank=True, default=list)),
                        ('poll_count', models.BigIntegerField(default=0)),
                        ('poll_time', models.BigIntegerField(default=0)),
                        ('quarantine_reason', models.CharField(blank=True, max_length=200)),
                        ('policy_number', models.PositiveIntegerField(default=0)),
                        ('policy', models.BinaryField(blank=True, default=b'')),
                        ('policy_checked_at', models.DateTimeField(blank=True, null=True)),
                        ('policy_seen', models.PositiveIntegerField(default=0)),
                        ('release_offered_at', models.DateTimeField(blank=True, null=True)),
                        ('release_taken', models.BooleanField(default=False)),
                        ('release_failed', models.PositiveIntegerField(default=0)),
                        ('release', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='agents.release')),
                        ('server', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='agent', to='agents.server')),
                    ],
                    options={
                        'indexes': [models.Index(fields=['name', 'id'], name='agent_by_name'), models.Index(fields=['last_seen_at', 'id'], name='agent_by_last_seen')],
                        'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'enrolled', 'quarantined', 'revoked'])), name='agent_status_known')],
                    },
                ),
                migrations.CreateModel(
                    name='EnrolmentToken',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('secret_hash', models.CharField(max_length=64, unique=True)),
                        ('expected_host', models.CharField(blank=True, max_length=255)),
                        ('expires_at', models.DateTimeField()),
                        ('used_at', models.DateTimeField(blank=True, null=True)),
                        ('revoked_at', models.DateTimeField(blank=True, null=True)),
                        ('public_key', models.BinaryField(blank=True, default=b'')),
                        ('writer_key', models.BinaryField(blank=True, default=b'')),
                        ('agent', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='tokens', to='agents.agent')),
                        ('made_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                        ('server', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='enrolment_tokens', to='agents.server')),
                    ],
                    options={
                        'indexes': [models.Index(fields=['server', '-created_at'], name='enrolment_token_of_server')],
                    },
                ),
                migrations.CreateModel(
                    name='ServerGroupPermission',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='group_grants', to='agents.server')),
                        ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.group')),
                        ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                    ],
                    options={
                        'abstract': False,
                        'unique_together': {('group', 'permission', 'content_object')},
                    },
                ),
                migrations.CreateModel(
                    name='ServerOrder',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('key', models.CharField(max_length=64, unique=True)),
                        ('email', models.EmailField(max_length=254)),
                        ('mailed_at', models.DateTimeField(blank=True, null=True)),
                        ('made_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                        ('server', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='orders', to='agents.server')),
                    ],
                    options={
                        'abstract': False,
                    },
                ),
                migrations.CreateModel(
                    name='ServerUserPermission',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='user_grants', to='agents.server')),
                        ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                        ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
                    ],
                    options={
                        'abstract': False,
                        'unique_together': {('user', 'permission', 'content_object')},
                    },
                ),
                migrations.CreateModel(
                    name='Storage',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('name', models.SlugField(max_length=64)),
                        ('path', models.CharField(max_length=500)),
                        ('kind', models.CharField(blank=True, max_length=32)),
                        ('total_bytes', models.BigIntegerField(blank=True, null=True)),
                        ('free_bytes', models.BigIntegerField(blank=True, null=True)),
                        ('problem', models.CharField(blank=True, max_length=200)),
                        ('measured_at', models.DateTimeField(blank=True, null=True)),
                        ('seen_mark', models.CharField(blank=True, max_length=64)),
                        ('for_drills', models.BooleanField(default=False)),
                        ('node', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='storages', to='agents.node')),
                        ('tenants', models.ManyToManyField(blank=True, related_name='storages', to='tenants.tenant')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('node', 'name'), name='storage_name_once_per_node')],
                    },
                ),
                migrations.CreateModel(
                    name='Disk',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('number', models.PositiveSmallIntegerField(default=1)),
                        ('driver', models.CharField(max_length=32)),
                        ('path', models.CharField(max_length=300)),
                        ('size_bytes', models.BigIntegerField()),
                        ('incomplete_since', models.DateTimeField(blank=True, null=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='tenants.tenant')),
                        ('server', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='agents.server')),
                        ('storage', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='agents.storage')),
                    ],
                    options={
                        'indexes': [models.Index(fields=['created_at', 'id'], name='disk_by_age'), models.Index(fields=['size_bytes', 'id'], name='disk_by_size'), models.Index(fields=['tenant', 'created_at', 'id'], name='disk_of_tenant_by_age'), models.Index(fields=['tenant', 'size_bytes', 'id'], name='disk_of_tenant_by_size'), models.Index(condition=models.Q(('incomplete_since__isnull', False)), fields=['server'], name='disk_with_unfinished_restore')],
                        'constraints': [models.UniqueConstraint(fields=('server', 'number'), name='disk_number_once_per_server'), models.UniqueConstraint(fields=('storage', 'path'), name='disk_path_once_per_storage'), models.CheckConstraint(condition=models.Q(('size_bytes__gt', 0)), name='disk_size_sane'), models.CheckConstraint(condition=models.Q(('number__gte', 1)), name='disk_number_sane'), models.CheckConstraint(condition=models.Q(('storage__isnull', False), ('driver', 'host'), _connector='OR'), name='disk_has_storage_or_agent')],
                    },
                ),
                migrations.CreateModel(
                    name='WriterKey',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('public_key', models.BinaryField(unique=True)),
                        ('added_at', models.DateTimeField()),
                        ('agent', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='writer_keys', to='agents.agent')),
                        ('node', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='writer_keys', to='agents.node')),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('agent', None), ('node__isnull', False)), models.Q(('agent__isnull', False), ('node', None)), _connector='OR'), name='writer_key_of_one')],
                    },
                ),
                migrations.CreateModel(
                    name='AgentNonce',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('nonce', models.CharField(max_length=64)),
                        ('expires_at', models.DateTimeField(db_index=True)),
                        ('agent', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='nonces', to='agents.agent')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('agent', 'nonce'), name='agent_nonce_once')],
                    },
                ),
            ]
        ),
    ]
