"""Sessions of tests, as if the person had typed the password just now."""

from __future__ import annotations

import time
from typing import Any

from django.contrib.auth import SESSION_KEY


def confirm(client: Any, *, method: str = "password", ago_seconds: float = 0, **more: Any) -> None:
    """Note in the session of a client that is signed in how the person showed who he is."""
    session = client.session
    session["account_authentication_methods"] = [{"method": method, "at": time.time() - ago_seconds, **more}]
    session["account_authentication_methods_user"] = session[SESSION_KEY]
    session.save()
