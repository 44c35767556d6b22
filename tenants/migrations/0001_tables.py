import common.ids
import django.contrib.auth.validators
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import tenants.approval_states
import tenants.models.core
import tenants.token_limits
from common.tables import CreateTables
from django.conf import settings
from django.db import migrations, models

from tenants import audit_guard


def refuse_a_former_database(apps, schema_editor):
    """Before the first release the tables were made by other migrations, step by step: there is no way from those."""
    if "tenants_tenant" in schema_editor.connection.introspection.table_names():
        raise RuntimeError(
            "This database was made by an unreleased version of Backupsite and cannot be used by this one. Go on with "
            "that version, or begin with an empty database: `manage.py rebuild_catalogue` then makes the rows of the "
            "backups again from each bucket (docs/operations.md)."
        )


def make_triggers(apps, schema_editor):
    audit_guard.install(schema_editor.connection)


def drop_triggers(apps, schema_editor):
    for statement in audit_guard.drop_statements(schema_editor.connection.vendor):
        schema_editor.execute(statement)




class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('contenttypes', '0002_remove_content_type_name'),
    ]

    operations = [
        migrations.RunPython(refuse_a_former_database, migrations.RunPython.noop),
        CreateTables(
            [
                migrations.CreateModel(
                    name='Person',
                    fields=[
                        ('password', models.CharField(max_length=128, verbose_name='password')),
                        ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                        ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                        ('username', models.CharField(error_messages={'unique': 'A user with that username already exists.'}, help_text='Required. 150 characters or fewer. Letters, digits and @/./+/-/_ only.', max_length=150, unique=True, validators=[django.contrib.auth.validators.UnicodeUsernameValidator()], verbose_name='username')),
                        ('first_name', models.CharField(blank=True, max_length=150, verbose_name='first name')),
                        ('last_name', models.CharField(blank=True, max_length=150, verbose_name='last name')),
                        ('email', models.EmailField(blank=True, max_length=254, verbose_name='email address')),
                        ('is_staff', models.BooleanField(default=False, help_text='Designates whether the user can log into this admin site.', verbose_name='staff status')),
                        ('is_active', models.BooleanField(default=True, help_text='Designates whether this user should be treated as active. Unselect this instead of deleting accounts.', verbose_name='active')),
                        ('date_joined', models.DateTimeField(default=django.utils.timezone.now, verbose_name='date joined')),
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('time_zone', models.CharField(default='UTC', max_length=64, validators=[tenants.models.core.validate_time_zone])),
                        ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                        ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
                    ],
                    options={
                        'verbose_name': 'user',
                        'verbose_name_plural': 'users',
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Tenant',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('suffix', models.CharField(editable=False, max_length=12, unique=True)),
                        ('name', models.CharField(editable=False, max_length=64, unique=True)),
                        ('title', models.CharField(max_length=100)),
                        ('status', models.CharField(choices=[('active', 'active'), ('suspended', 'suspended'), ('deleting', 'being deleted'), ('deleted', 'deleted')], default='active', max_length=12)),
                        ('status_reason', models.CharField(blank=True, max_length=255)),
                    ],
                    options={
                        'permissions': [('administer_tenant', 'Administers the tenant (DCAdmin)')],
                        'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['active', 'suspended', 'deleting', 'deleted'])), name='tenant_status_known')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='TenantUserPermission',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                        ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to=settings.AUTH_USER_MODEL)),
                        ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='user_grants', to='tenants.tenant')),
                    ],
                    options={
                        'unique_together': {('user', 'permission', 'content_object')},
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='TenantGroupPermission',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('permission', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.permission')),
                        ('group', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='auth.group')),
                        ('content_object', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='group_grants', to='tenants.tenant')),
                    ],
                    options={
                        'unique_together': {('group', 'permission', 'content_object')},
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Company',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='company', to='tenants.tenant')),
                        ('name', models.CharField(editable=False, max_length=64, unique=True)),
                    ],
                    options={
                        'verbose_name_plural': 'companies',
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='ApprovalRule',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='approval_rules', to='tenants.tenant')),
                        ('kind', models.CharField(choices=[('tenant.delete', 'Delete a tenant'), ('retention.shorten', 'Keep fewer backups'), ('lock.shorten', 'Lock new backups for a shorter time'), ('key.export', 'Show a recovery key'), ('key.replace', "Put the customer's own key into use"), ('restore.across_owners', 'Restore to a server of other owners'), ('vault.remove', 'Remove a vault'), ('mfa.reset', "Take a person's second factors")], max_length=32)),
                        ('required', models.BooleanField(default=False)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('tenant', 'kind'), name='approval_rule_of_tenant'), models.UniqueConstraint(condition=models.Q(('tenant', None)), fields=('kind',), name='approval_rule_everywhere')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='ApprovalRequest',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='approval_requests', to='tenants.tenant')),
                        ('kind', models.CharField(choices=[('tenant.delete', 'Delete a tenant'), ('retention.shorten', 'Keep fewer backups'), ('lock.shorten', 'Lock new backups for a shorter time'), ('key.export', 'Show a recovery key'), ('key.replace', "Put the customer's own key into use"), ('restore.across_owners', 'Restore to a server of other owners'), ('vault.remove', 'Remove a vault'), ('mfa.reset', "Take a person's second factors"), ('approvals.off', 'Switch an approval rule off')], max_length=32)),
                        ('subject_type', models.CharField(max_length=64)),
                        ('subject_id', models.CharField(max_length=64)),
                        ('subject_name', models.CharField(max_length=200)),
                        ('parameters', models.JSONField(default=dict)),
                        ('parameters_hash', models.CharField(max_length=64)),
                        ('requested_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='approvals_requested', to=settings.AUTH_USER_MODEL)),
                        ('requested_by_name', models.CharField(max_length=200)),
                        ('expires_at', models.DateTimeField()),
                        ('status', models.CharField(choices=[('pending', 'pending'), ('approved', 'approved'), ('declined', 'declined'), ('withdrawn', 'withdrawn'), ('expired', 'expired'), ('used', 'used')], default=tenants.approval_states.ApprovalStatus['PENDING'], max_length=12)),
                        ('decided_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='approvals_decided', to=settings.AUTH_USER_MODEL)),
                        ('decided_by_name', models.CharField(blank=True, max_length=200)),
                        ('decided_at', models.DateTimeField(null=True)),
                        ('reason', models.CharField(blank=True, max_length=300)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['tenant', 'id'], name='approval_of_tenant'), models.Index(condition=models.Q(('status__in', (tenants.approval_states.ApprovalStatus['PENDING'], tenants.approval_states.ApprovalStatus['APPROVED']))), fields=['expires_at'], name='approval_open')],
                        'constraints': [models.UniqueConstraint(condition=models.Q(('status', 'pending')), fields=('kind', 'subject_id', 'parameters_hash', 'requested_by'), name='approval_asked_once'), models.CheckConstraint(condition=models.Q(('decided_by', None), ('requested_by', None), models.Q(('decided_by', models.F('requested_by')), _negated=True), _connector='OR'), name='approval_by_another')],
                    },
                ),
                migrations.CreateModel(
                    name='ApprovalEvent',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('request', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='events', to='tenants.approvalrequest')),
                        ('at', models.DateTimeField()),
                        ('code', models.CharField(max_length=12)),
                        ('actor_name', models.CharField(blank=True, max_length=200)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='AuditEvent',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('at', models.DateTimeField()),
                        ('tenant', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='tenants.tenant')),
                        ('tenant_name', models.CharField(blank=True, max_length=64)),
                        ('actor_kind', models.CharField(max_length=12)),
                        ('actor_id', models.CharField(blank=True, max_length=64)),
                        ('actor_name', models.CharField(blank=True, max_length=200)),
                        ('address', models.CharField(blank=True, max_length=45)),
                        ('token_id', models.CharField(blank=True, max_length=64)),
                        ('request_id', models.CharField(blank=True, max_length=64)),
                        ('action', models.CharField(max_length=64)),
                        ('subject_type', models.CharField(blank=True, max_length=64)),
                        ('subject_id', models.CharField(blank=True, max_length=64)),
                        ('subject_name', models.CharField(blank=True, max_length=200)),
                        ('before', models.JSONField(null=True)),
                        ('after', models.JSONField(null=True)),
                        ('outcome', models.CharField(choices=[('done', 'done'), ('refused', 'refused'), ('failed', 'failed')], default='done', max_length=8)),
                        ('sequence', models.BigIntegerField(null=True, unique=True)),
                        ('previous_hash', models.CharField(blank=True, max_length=64)),
                        ('hash', models.CharField(blank=True, max_length=64)),
                    ],
                    options={
                        'verbose_name': 'audit record',
                        'indexes': [models.Index(condition=models.Q(('sequence', None)), fields=['id'], name='audit_unsealed'), models.Index(fields=['at'], name='audit_by_time'), models.Index(fields=['tenant', 'id'], name='audit_of_tenant'), models.Index(fields=['actor_id', 'id'], name='audit_of_actor'), models.Index(fields=['subject_id', 'id'], name='audit_of_subject'), models.Index(fields=['action', 'id'], name='audit_of_action'), models.Index(fields=['actor_name', 'id'], name='audit_of_actor_name'), models.Index(fields=['actor_kind', 'id'], name='audit_of_actor_kind'), models.Index(fields=['outcome', 'id'], name='audit_of_outcome'), models.Index(fields=['subject_type', 'id'], name='audit_of_subject_type'), models.Index(fields=['address', 'id'], name='audit_of_address'), models.Index(fields=['request_id', 'id'], name='audit_of_request')],
                        'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('hash', ''), ('sequence', None)), models.Q(('sequence__gt', 0), models.Q(('hash', ''), _negated=True)), _connector='OR'), name='audit_sealed_whole')],
                    },
                ),
                migrations.CreateModel(
                    name='AuditHead',
                    fields=[
                        ('id', models.SmallIntegerField(default=1, editable=False, primary_key=True, serialize=False)),
                        ('sequence', models.BigIntegerField(default=0)),
                        ('hash', models.CharField(blank=True, max_length=64)),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='audit_head_is_one')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='AuditCheck',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('at', models.DateTimeField()),
                        ('head_sequence', models.BigIntegerField()),
                        ('head_hash', models.CharField(blank=True, max_length=64)),
                        ('broken_at', models.BigIntegerField(null=True)),
                        ('reason', models.CharField(blank=True, max_length=300)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='RefusalBucket',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('key', models.CharField(max_length=64, unique=True)),
                        ('caller', models.CharField(db_index=True, max_length=64)),
                        ('opened_at', models.DateTimeField(db_index=True)),
                        ('count', models.PositiveIntegerField(default=0)),
                        ('facts', models.JSONField(default=dict)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='TenantEvent',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='events', to='tenants.tenant')),
                        ('at', models.DateTimeField()),
                        ('code', models.CharField(max_length=64)),
                        ('message', models.TextField(blank=True)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['tenant', 'id'], name='tenant_event_of_tenant')],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='TenantDeletion',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='deletion', to='tenants.tenant')),
                        ('requested_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='deletions_requested', to=settings.AUTH_USER_MODEL)),
                        ('requested_by_name', models.CharField(max_length=150)),
                        ('reason', models.CharField(blank=True, max_length=500)),
                        ('requested_at', models.DateTimeField()),
                        ('undo_until', models.DateTimeField()),
                        ('grants', models.JSONField(blank=True, default=list)),
                        ('finished_at', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='NoticeKey',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('public_key', models.BinaryField(unique=True)),
                    ],
                    options={
                        'abstract': False,
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='Webhook',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='webhooks', to='tenants.tenant')),
                        ('label', models.CharField(max_length=100)),
                        ('url', models.CharField(max_length=500)),
                        ('events', models.JSONField(blank=True, default=list)),
                        ('severity', models.PositiveSmallIntegerField(choices=[(1, 'info'), (2, 'warning'), (3, 'critical')], default=1)),
                        ('sealed_secret', models.TextField()),
                        ('sealed_previous', models.TextField(blank=True)),
                        ('previous_until', models.DateTimeField(blank=True, null=True)),
                        ('status', models.CharField(choices=[('active', 'active'), ('paused', 'paused by a person'), ('disabled', 'switched off after failures')], default='active', max_length=8)),
                        ('status_reason', models.CharField(blank=True, max_length=300)),
                        ('consecutive_failures', models.PositiveIntegerField(default=0)),
                        ('not_before', models.DateTimeField(blank=True, null=True)),
                        ('tried_at', models.DateTimeField(blank=True, null=True)),
                        ('succeeded_at', models.DateTimeField(blank=True, null=True)),
                        ('created_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(('status__in', ['active', 'paused', 'disabled'])), name='webhook_status_known'), models.CheckConstraint(condition=models.Q(('severity__in', [1, 2, 3])), name='webhook_severity_known')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Subscription',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('person', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notice_subscriptions', to=settings.AUTH_USER_MODEL)),
                        ('address', models.CharField(blank=True, max_length=254, validators=[django.core.validators.EmailValidator()])),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notice_subscriptions', to='tenants.tenant')),
                        ('events', models.JSONField(blank=True, default=list)),
                        ('severity', models.PositiveSmallIntegerField(choices=[(1, 'info'), (2, 'warning'), (3, 'critical')], default=2)),
                        ('active', models.BooleanField(default=True)),
                        ('created_by', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                    ],
                    options={
                        'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('address', ''), ('person__isnull', False)), models.Q(('person', None), models.Q(('address', ''), _negated=True)), _connector='OR'), name='subscription_one_receiver'), models.CheckConstraint(condition=models.Q(('severity__in', [1, 2, 3])), name='subscription_severity_known')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='NoticeEvent',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('code', models.CharField(max_length=40)),
                        ('severity', models.PositiveSmallIntegerField(choices=[(1, 'info'), (2, 'warning'), (3, 'critical')])),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notice_events', to='tenants.tenant')),
                        ('person', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notice_events', to=settings.AUTH_USER_MODEL)),
                        ('subject_model', models.CharField(max_length=80)),
                        ('subject_id', models.CharField(max_length=40)),
                        ('subject_name', models.CharField(max_length=200)),
                        ('facts', models.JSONField(default=dict)),
                        ('at', models.DateTimeField()),
                        ('cause', models.CharField(blank=True, max_length=100)),
                        ('open', models.BooleanField(default=False)),
                        ('recovers', models.BooleanField(default=False)),
                    ],
                    options={
                        'indexes': [models.Index(condition=models.Q(('open', True)), fields=['cause'], name='notice_event_open')],
                        'constraints': [models.CheckConstraint(condition=models.Q(('severity__in', [1, 2, 3])), name='notice_severity_known')],
                    },
                ),
                migrations.CreateModel(
                    name='OutboxMessage',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('event', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='tenants.noticeevent')),
                        ('kind', models.CharField(choices=[('email', 'e-mail'), ('webhook', 'webhook')], max_length=8)),
                        ('webhook', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='tenants.webhook')),
                        ('subscription', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='tenants.subscription')),
                        ('person', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notices', to=settings.AUTH_USER_MODEL)),
                        ('state', models.CharField(choices=[('pending', 'waits'), ('sending', 'is being sent'), ('done', 'delivered'), ('dead', 'given up')], default='pending', max_length=8)),
                        ('attempts', models.PositiveIntegerField(default=0)),
                        ('next_try_at', models.DateTimeField()),
                        ('give_up_at', models.DateTimeField()),
                        ('claim', models.UUIDField(blank=True, null=True)),
                        ('lease_until', models.DateTimeField(blank=True, null=True)),
                        ('finished_at', models.DateTimeField(blank=True, null=True)),
                        ('status_code', models.PositiveSmallIntegerField(blank=True, null=True)),
                        ('seconds', models.FloatField(blank=True, null=True)),
                        ('last_error', models.CharField(blank=True, max_length=300)),
                        ('answer', models.CharField(blank=True, max_length=1024)),
                        ('mail_id', models.UUIDField(blank=True, null=True)),
                    ],
                    options={
                        'indexes': [models.Index(condition=models.Q(('state__in', ['pending', 'sending'])), fields=['next_try_at'], name='outbox_undelivered'), models.Index(fields=['-created_at', '-id'], name='outbox_newest'), models.Index(fields=['webhook', '-created_at'], name='outbox_of_webhook'), models.Index(fields=['subscription', '-finished_at'], name='outbox_of_subscription')],
                        'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('kind', 'webhook'), ('person', None), ('subscription', None), ('webhook__isnull', False)), models.Q(('kind', 'email'), ('person', None), ('subscription__isnull', False), ('webhook', None)), models.Q(('kind', 'email'), ('person__isnull', False), ('subscription', None), ('webhook', None)), _connector='OR'), name='outbox_one_receiver'), models.CheckConstraint(condition=models.Q(('state__in', ['pending', 'sending', 'done', 'dead'])), name='outbox_state_known'), models.CheckConstraint(condition=models.Q(models.Q(('claim__isnull', False), ('lease_until__isnull', False), ('state', 'sending')), models.Q(models.Q(('state', 'sending'), _negated=True), ('claim', None), ('lease_until', None)), _connector='OR'), name='outbox_claim_while_sending'), models.UniqueConstraint(fields=('event', 'webhook'), name='outbox_once_per_webhook'), models.UniqueConstraint(fields=('event', 'subscription'), name='outbox_once_per_subscription')],
                    },
                ),
                migrations.CreateModel(
                    name='Membership',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('person', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to=settings.AUTH_USER_MODEL)),
                        ('company', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='memberships', to='tenants.company')),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('person', 'company'), name='membership_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Invitation',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='invitations', to='tenants.tenant')),
                        ('email', models.EmailField(max_length=254)),
                        ('administers', models.BooleanField(default=False)),
                        ('server_ids', models.JSONField(blank=True, default=list)),
                        ('token_hash', models.CharField(max_length=64, unique=True)),
                        ('expires_at', models.DateTimeField()),
                        ('invited_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='invitations_made', to=settings.AUTH_USER_MODEL)),
                        ('used_at', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(condition=models.Q(('used_at', None)), fields=('tenant', 'email'), name='invitation_one_open_per_address')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='Quota',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='quotas', to='tenants.tenant')),
                        ('kind', models.CharField(choices=[('servers', 'servers'), ('agents', 'agents'), ('definitions_per_server', 'definitions per server'), ('retention_days', 'days that a backup can be kept unremovable'), ('retention_count', 'backups that a definition keeps'), ('bytes', 'bytes in vaults')], max_length=24)),
                        ('soft', models.PositiveBigIntegerField(blank=True, null=True)),
                        ('hard', models.PositiveBigIntegerField(blank=True, null=True)),
                        ('soft_passed_at', models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('tenant', 'kind'), name='quota_once_per_kind'), models.CheckConstraint(condition=models.Q(('soft__isnull', False), ('hard__isnull', False), _connector='OR'), name='quota_limits'), models.CheckConstraint(condition=models.Q(('soft', None), ('hard', None), ('soft__lte', models.F('hard')), _connector='OR'), name='quota_soft_below_hard')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='IdempotencyRecord',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('principal', models.CharField(max_length=80)),
                        ('key', models.CharField(max_length=255)),
                        ('method', models.CharField(max_length=8)),
                        ('path', models.CharField(max_length=2000)),
                        ('body_hash', models.CharField(max_length=64)),
                        ('attempt', models.PositiveIntegerField(default=1)),
                        ('lease_until', models.DateTimeField()),
                        ('expires_at', models.DateTimeField(db_index=True)),
                        ('status', models.PositiveSmallIntegerField(blank=True, null=True)),
                        ('replayable', models.BooleanField(default=True)),
                        ('body', models.TextField(blank=True)),
                        ('headers', models.JSONField(blank=True, default=dict)),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('principal', 'key'), name='idempotency_key_once_per_principal'), models.CheckConstraint(condition=models.Q(('replayable', True), ('body', ''), _connector='OR'), name='idempotency_secret_not_kept')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='PortalSession',
                    fields=[
                        ('session_key', models.CharField(max_length=40, primary_key=True, serialize=False, verbose_name='session key')),
                        ('session_data', models.TextField(verbose_name='session data')),
                        ('expire_date', models.DateTimeField(db_index=True, verbose_name='expire date')),
                        ('person', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='portal_sessions', to=settings.AUTH_USER_MODEL)),
                        ('address', models.CharField(blank=True, max_length=45)),
                        ('agent', models.CharField(blank=True, max_length=200)),
                        ('signed_in_at', models.DateTimeField(null=True)),
                        ('seen_at', models.DateTimeField(null=True)),
                    ],
                    options={
                        'db_table': 'tenants_portalsession',
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='KnownDevice',
                    fields=[
                        ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                        ('person', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='known_devices', to=settings.AUTH_USER_MODEL)),
                        ('digest', models.CharField(max_length=64)),
                        ('seen_at', models.DateTimeField()),
                    ],
                    options={
                        'constraints': [models.UniqueConstraint(fields=('person', 'digest'), name='known_device_once')],
                        'indexes': [],
                    },
                ),
                migrations.CreateModel(
                    name='FirstSignIn',
                    fields=[
                        ('person', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='first_sign_in', serialize=False, to=settings.AUTH_USER_MODEL)),
                        ('at', models.DateTimeField()),
                        ('factor_lost_at', models.DateTimeField(null=True)),
                    ],
                    options={
                        'indexes': [],
                        'constraints': [],
                    },
                ),
                migrations.CreateModel(
                    name='ApiToken',
                    fields=[
                        ('id', models.UUIDField(default=common.ids.new_id, editable=False, primary_key=True, serialize=False)),
                        ('created_at', models.DateTimeField(auto_now_add=True)),
                        ('changed_at', models.DateTimeField(auto_now=True)),
                        ('person', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='api_tokens', to=settings.AUTH_USER_MODEL)),
                        ('kind', models.CharField(choices=[('key', 'API key'), ('login', 'sign-in by password')], default='key', max_length=8)),
                        ('label', models.CharField(max_length=100)),
                        ('key', models.CharField(editable=False, max_length=32, unique=True)),
                        ('secret_mac', models.CharField(editable=False, max_length=64)),
                        ('pepper_id', models.CharField(editable=False, max_length=16)),
                        ('scope', models.CharField(choices=[('read', 'read: look at everything, change nothing'), ('operate', 'operate: also run, verify and cancel'), ('admin', 'admin: everything that its person may')], default=tenants.token_limits.Scope['READ'], max_length=8)),
                        ('may_restore', models.BooleanField(default=False)),
                        ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='api_tokens', to='tenants.tenant')),
                        ('networks', models.JSONField(blank=True, default=list)),
                        ('expires_at', models.DateTimeField()),
                        ('disabled_at', models.DateTimeField(blank=True, null=True)),
                        ('last_used_at', models.DateTimeField(blank=True, null=True)),
                        ('last_used_address', models.CharField(blank=True, max_length=45)),
                    ],
                    options={
                        'indexes': [models.Index(fields=['person', 'id'], name='token_of_person')],
                        'constraints': [models.CheckConstraint(condition=models.Q(('scope__in', ['read', 'operate', 'admin'])), name='token_scope_known'), models.CheckConstraint(condition=models.Q(('kind__in', ['key', 'login'])), name='token_kind_known'), models.UniqueConstraint(condition=models.Q(('kind', 'login')), fields=('person',), name='token_one_login_per_person')],
                    },
                ),
            ]
        ),
        migrations.RunPython(make_triggers, drop_triggers),
    ]
