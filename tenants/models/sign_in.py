"""What is kept of people's sign-ins: their sessions in the portal, and when each came first."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models

from tenants.models.core import Person


class PortalSession(AbstractBaseSession):
    """A browser's session. `session_key` is a hash of the cookie's: who reads this table signs in as nobody."""

    person = models.ForeignKey(Person, null=True, on_delete=models.CASCADE, related_name="portal_sessions")
    address = models.CharField(max_length=45, blank=True)
    agent = models.CharField(max_length=200, blank=True)
    signed_in_at = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "tenants_portalsession"

    @classmethod
    def get_session_store_class(cls) -> type[Any]:
        from tenants.sign_in.session_store import SessionStore

        return SessionStore


class KnownDevice(models.Model):
    """A browser from which, at an address, somebody signed in: as a hash, only good to know it again."""

    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="known_devices")
    digest = models.CharField(max_length=64)
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["person", "digest"], name="known_device_once")]


class FirstSignIn(models.Model):
    """From when on somebody has time to set up a second factor, and when he lost one last."""

    person = models.OneToOneField(Person, primary_key=True, on_delete=models.CASCADE, related_name="first_sign_in")
    at = models.DateTimeField()
    factor_lost_at = models.DateTimeField(null=True)
