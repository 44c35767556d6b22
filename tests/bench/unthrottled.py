"""The service as it is, without its limits of requests in a minute: the bench asks for everything as one person."""

from __future__ import annotations

from django.conf import settings

from backupsite.wsgi import application

__all__ = ["application"]

settings.API_RATES = {}
