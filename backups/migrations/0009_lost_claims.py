from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('backups', '0008_days_of_zones'),
    ]

    operations = [
        migrations.AddField(
            model_name='job',
            name='furthest_bytes',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='job',
            name='lost_in_vain',
            field=models.PositiveSmallIntegerField(default=0),
        ),
    ]
