from django.apps import AppConfig


class DefinitionsConfig(AppConfig):
    name = "definitions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from definitions.services import definitions_per_server  # the models are there only now
        from tenants.models import QuotaKind
        from tenants.quotas import register_counter

        register_counter(QuotaKind.DEFINITIONS_PER_SERVER, definitions_per_server)
