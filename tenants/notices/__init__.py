"""Telling people by e-mail and programs by webhook what happened.

`publish` writes an event and one message per receiver in the caller's transaction; the sender, a process of its own,
delivers them. The models are in `tenants.models.notices`.
"""

from tenants.notices.publishing import publish

__all__ = ["publish"]
