from django.apps import AppConfig


class AgentsConfig(AppConfig):
    name = "agents"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from agents.models import Agent, Server  # the models are there only now
        from tenants.models import QuotaKind
        from tenants.quotas import register_counter

        register_counter(QuotaKind.SERVERS, lambda tenant, within: Server.objects.filter(tenant=tenant).count())
        register_counter(
            QuotaKind.AGENTS,
            lambda tenant, within: (
                Agent.objects.filter(server__tenant=tenant).exclude(status=Agent.Status.REVOKED).count()
            ),
        )
