import common.ids
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('tenants', '0001_tables'),
        ('vaults', '0001_tables'),
    ]

    operations = [
        migrations.CreateModel(
            name='Node',
            fields=[
                ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('name', models.SlugField(max_length=64, unique=True)),
                ('region', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='nodes', to='vaults.region')),
                ('is_backup', models.BooleanField(default=True)),
                ('status', models.CharField(choices=[('online', 'online'), ('offline', 'offline'), ('maintenance', 'maintenance')], default='offline', max_length=12)),
                ('last_seen_at', models.DateTimeField(blank=True, null=True)),
                ('tenants', models.ManyToManyField(blank=True, related_name='nodes', to='tenants.tenant')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['online', 'offline', 'maintenance'])), name='node_status_known')],
                'indexes': [],
            },
        ),
        migrations.CreateModel(
            name='WriterKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='writer_keys', to='agents.node')),
                ('public_key', models.BinaryField(unique=True)),
                ('added_at', models.DateTimeField()),
            ],
            options={
                'indexes': [],
                'constraints': [],
            },
        ),
        migrations.CreateModel(
            name='Storage',
            fields=[
                ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='storages', to='agents.node')),
                ('name', models.SlugField(max_length=64)),
                ('path', models.CharField(max_length=500)),
                ('tenants', models.ManyToManyField(blank=True, related_name='storages', to='tenants.tenant')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('node', 'name'), name='storage_name_once_per_node')],
                'indexes': [],
            },
        ),
        migrations.CreateModel(
            name='Server',
            fields=[
                ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('name', models.CharField(max_length=128)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='tenants.tenant')),
                ('region', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='vaults.region')),
                ('node', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='servers', to='agents.node')),
                ('domain', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='server', to='vaults.domain')),
            ],
            options={
                'permissions': [('own_server', 'Owns the server (VmOwner)')],
                'indexes': [models.Index(fields=['name', 'id'], name='server_by_name'), models.Index(fields=['created_at', 'id'], name='server_by_age'), models.Index(fields=['tenant', 'created_at', 'id'], name='server_of_tenant_by_age')],
                'constraints': [models.UniqueConstraint(fields=('tenant', 'name'), name='server_name_once_per_tenant')],
            },
        ),
        migrations.CreateModel(
            name='ServerUserPermission',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
                ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='user_grants', to='agents.server')),
            ],
            options={
                'unique_together': {('user', 'permission', 'content_object')},
                'abstract': False,
                'indexes': [],
                'constraints': [],
            },
        ),
        migrations.CreateModel(
            name='ServerGroupPermission',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.group')),
                ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='group_grants', to='agents.server')),
            ],
            options={
                'unique_together': {('group', 'permission', 'content_object')},
                'abstract': False,
                'indexes': [],
                'constraints': [],
            },
        ),
        migrations.CreateModel(
            name='Disk',
            fields=[
                ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('server', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='agents.server')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='tenants.tenant')),
                ('number', models.PositiveSmallIntegerField(default=1)),
                ('driver', models.CharField(max_length=32)),
                ('storage', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='disks', to='agents.storage')),
                ('path', models.CharField(max_length=300)),
                ('size_bytes', models.BigIntegerField()),
                ('incomplete_since', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'indexes': [models.Index(fields=['created_at', 'id'], name='disk_by_age'), models.Index(fields=['size_bytes', 'id'], name='disk_by_size'), models.Index(fields=['tenant', 'created_at', 'id'], name='disk_of_tenant_by_age'), models.Index(fields=['tenant', 'size_bytes', 'id'], name='disk_of_tenant_by_size'), models.Index(condition=models.Q(('incomplete_since__isnull', False)), fields=['server'], name='disk_with_unfinished_restore')],
                'constraints': [models.UniqueConstraint(fields=('server', 'number'), name='disk_number_once_per_server'), models.UniqueConstraint(fields=('storage', 'path'), name='disk_path_once_per_storage'), models.CheckConstraint(condition=models.Q(('size_bytes__gt', 0)), name='disk_size_sane'), models.CheckConstraint(condition=models.Q(('number__gte', 1)), name='disk_number_sane')],
            },
        ),
        migrations.CreateModel(
            name='Agent',
            fields=[
                ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('changed_at', models.DateTimeField(auto_now=True)),
                ('server', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='agent', to='agents.server')),
                ('name', models.CharField(max_length=128)),
                ('public_key', models.BinaryField(unique=True)),
                ('status', models.CharField(choices=[('pending', 'waits for approval'), ('enrolled', 'enrolled'), ('revoked', 'revoked')], default='pending', max_length=12)),
                ('last_seen_at', models.DateTimeField(blank=True, null=True)),
                ('silent_since', models.DateTimeField(blank=True, null=True)),
                ('version', models.CharField(blank=True, max_length=64)),
                ('health', models.CharField(blank=True, max_length=2048)),
            ],
            options={
                'indexes': [models.Index(fields=['name', 'id'], name='agent_by_name')],
                'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'enrolled', 'revoked'])), name='agent_status_known')],
            },
        ),
        migrations.CreateModel(
            name='AgentNonce',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('agent', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='nonces', to='agents.agent')),
                ('nonce', models.CharField(max_length=64)),
                ('expires_at', models.DateTimeField(db_index=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('agent', 'nonce'), name='agent_nonce_once')],
                'indexes': [],
            },
        ),
    ]
