from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Models can be imported only now.
        from tenants import audit_signals
        from tenants.sign_in import hooks

        audit_signals.connect()
        hooks.connect()
