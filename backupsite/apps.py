from django.apps import AppConfig
from django.conf import settings


class BackupsiteConfig(AppConfig):
    """The composition root as an app: its templates, static files, commands and system checks."""

    name = "backupsite"

    def ready(self) -> None:
        from backupsite import celery  # noqa: F401  # makes it the current app of every process, so that hints can be sent

        if settings.ROLE == "node":
            from agents import worker

            worker.connect()
