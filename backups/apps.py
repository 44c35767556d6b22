from django.apps import AppConfig


class BackupsConfig(AppConfig):
    name = "backups"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from backups.accounting import stored_bytes  # the models are there only now
        from backups.promises import register_catalogue
        from tenants.models import QuotaKind
        from tenants.quotas import register_counter

        register_catalogue()
        register_counter(QuotaKind.BYTES, stored_bytes)
