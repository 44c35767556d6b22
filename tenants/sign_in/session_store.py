"""Sessions in the database, found by the hash of the cookie, with person, address and browser beside them."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import OperationalError
from django.utils import timezone

from tenants.origin import current_visit

logger = logging.getLogger(__name__)

# What the guard keeps in a session; times as seconds since 1970.
SIGNED_IN_AT, SEEN_AT = "signed_in_at", "seen_at"


def row_key(session_key: str) -> str:
    """The primary key of the row: 160 bits of the cookie's hash."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:40]


class SessionStore(DatabaseStore):
    @classmethod
    def get_model_class(cls) -> Any:
        from tenants.models import PortalSession

        return PortalSession

    def load(self) -> dict[str, Any]:
        if self.session_key is None:
            return {}
        row = self.model.objects.filter(session_key=row_key(self.session_key), expire_date__gt=timezone.now()).first()
        if row is None:
            self._session_key = None
            return {}
        return dict(self.decode(row.session_data))

    def save(self, must_create: bool = False) -> None:
        """A database that refuses to write keeps nobody from reading: then it is only not noted when he was there.

        A session that was ended meanwhile raises UpdateError as ever, and a new one is never without its row.
        """
        try:
            super().save(must_create)
        except UpdateError as error:
            if not isinstance(error.__context__, OperationalError):
                raise
            logger.warning("a session was not kept up to date", exc_info=True)

    def exists(self, session_key: str) -> bool:
        return bool(self.model.objects.filter(session_key=row_key(session_key)).exists())

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            self.model.objects.filter(session_key=row_key(key)).delete()

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        visit = current_visit()
        agent = visit.request.META.get("HTTP_USER_AGENT", "") if visit else ""
        return self.model(
            session_key=row_key(self._get_or_create_session_key()),
            session_data=self.encode(data),
            expire_date=self.get_expiry_date(),
            person_id=data.get(SESSION_KEY),
            address=visit.address if visit else "",
            agent="".join(sign if sign.isprintable() else " " for sign in agent)[:200],
            signed_in_at=_moment(data.get(SIGNED_IN_AT)),
            seen_at=_moment(data.get(SEEN_AT)),
        )


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, tz=UTC) if seconds is not None else None
