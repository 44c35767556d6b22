"""Sessions of tests, as if the person had typed the password just now."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase

from tenants.models import Person
from tenants.sign_in.guard import GUARD
from tenants.sign_in.session_store import SEEN_AT, SIGNED_IN_AT, SessionStore


def sign_in(client: Any, person: Person) -> None:
    """The session of a person who typed the password just now, and nothing of what else a sign-in leaves behind.

    Written by one statement: for the thousands of tests that are not about signing in.
    """
    now = time.time()
    session = SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session[SIGNED_IN_AT] = session[SEEN_AT] = now
    session[GUARD] = {"at": now, "administrator": person.administers(), "factor_until": None}
    _note_proof(session, {"method": "password", "at": now})
    session.save(must_create=True)
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key


def confirm(client: Any, *, method: str = "password", ago_seconds: float = 0, **more: Any) -> None:
    """Note in the session of a client that is signed in how the person showed who he is."""
    session = client.session
    _note_proof(session, {"method": method, "at": time.time() - ago_seconds, **more})
    session.save()


def _note_proof(session: SessionBase, proof: dict[str, Any]) -> None:
    session["account_authentication_methods"] = [proof]
    session["account_authentication_methods_user"] = session[SESSION_KEY]
