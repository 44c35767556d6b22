from django.apps import AppConfig


class DefinitionsConfig(AppConfig):
    name = "definitions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from agents.new_disks import on_new_disk  # the models are there only now
        from definitions.policies import apply_to_new_disk
        from definitions.services import definitions_per_server
        from tenants.models import QuotaKind
        from tenants.quotas import register_counter

        register_counter(QuotaKind.DEFINITIONS_PER_SERVER, definitions_per_server)
        on_new_disk(apply_to_new_disk)
