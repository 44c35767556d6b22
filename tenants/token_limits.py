"""What a token leaves of its person's rights: a scope, perhaps one tenant, restores only when it says so. Pure.

A token only ever takes away. `for_user` asks here before it looks at roles, so there is no way around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from common.errors import NotAllowedError
from tenants.roles import Action

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Scope(StrEnum):
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


SCOPE_CHOICES = [
    ("read", "read: look at everything, change nothing"),
    ("operate", "operate: also run, verify and cancel"),
    ("admin", "admin: everything that its person may"),
]
_ORDER = (Scope.READ, Scope.OPERATE, Scope.ADMIN)
# What is not named needs the widest scope.
_NEEDED: Mapping[Action, Scope] = {
    Action.VIEW: Scope.READ,
    Action.RUN: Scope.OPERATE,
    Action.CANCEL: Scope.OPERATE,
    Action.RESTORE: Scope.OPERATE,
}


class TokenScopeError(NotAllowedError):
    """The person may do it, this token of his may not."""

    code = "token_scope"


def covers(held: Scope, needed: Scope) -> bool:
    return _ORDER.index(held) >= _ORDER.index(needed)


def needed_scope(action: Action) -> Scope:
    return _NEEDED.get(action, Scope.ADMIN)


@dataclass(frozen=True, slots=True)
class Limits:
    """`tenant_id` None: all tenants of the person. `of_superadmin`: its person is one, bound to a tenant or not."""

    scope: Scope
    may_restore: bool
    tenant_id: UUID | None
    of_superadmin: bool

    def allows(self, action: Action) -> bool:
        if action is Action.RESTORE and not self.may_restore:
            return False
        return covers(self.scope, needed_scope(action))

    def refuse(self, action: Action, *, method: str | None) -> None:
        """Raise TokenScopeError when the action is beyond the token; a token for reading sends no changes at all."""
        if action is Action.RESTORE and not self.may_restore:
            raise TokenScopeError("This token is not made for restores.")
        needed = needed_scope(action)
        if method not in _SAFE_METHODS and needed is Scope.READ:
            needed = Scope.OPERATE
        if not covers(self.scope, needed):
            raise TokenScopeError(f"This token has the scope {self.scope}; {needed} is needed here.")
