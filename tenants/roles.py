"""THE table: which role may do what with which kind of object. Pure; the only place where it is written.

What a person can see at all is decided by the querysets (`for_user`); this table says what he may do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    SUPER_ADMIN = "SuperAdmin"
    DC_ADMIN = "DCAdmin"
    VM_OWNER = "VmOwner"


class Action(StrEnum):
    VIEW = "view"
    CREATE = "create"
    EDIT = "edit"
    DELETE = "delete"
    RUN = "run"
    RESTORE = "restore"
    CANCEL = "cancel"
    # To another tenant.
    MOVE = "move"


_VIEW = frozenset({Action.VIEW})
_NONE: frozenset[Action] = frozenset()
_WRITE = frozenset({Action.VIEW, Action.CREATE, Action.EDIT, Action.DELETE})

# model -> what a DCAdmin may do in the tenants he administers, what a VmOwner may do with his own servers' objects.
# A SuperAdmin may do everything, everywhere.
_TABLE: Mapping[str, Mapping[Role, frozenset[Action]]] = {
    "tenant": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    "company": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    # To create is to invite. A DCAdmin gives and takes rights within his tenants only; the services see to that.
    "person": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.EDIT}), Role.VM_OWNER: _VIEW},
    "invitation": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.DELETE}), Role.VM_OWNER: _NONE},
    "region": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    "vault": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    # To create is to register the customer's own key; to edit is to show, to test and to replace one.
    "tenantkey": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.EDIT}), Role.VM_OWNER: _NONE},
    "auditevent": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    # To edit a request is to answer it; who may be the second person is decided in tenants.approvals.
    "approvalrequest": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.EDIT}), Role.VM_OWNER: _NONE},
    "approvalrule": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.EDIT}), Role.VM_OWNER: _NONE},
    "alarm": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    # To run is to send a test.
    "webhook": {Role.DC_ADMIN: _WRITE | {Action.RUN}, Role.VM_OWNER: _NONE},
    # Everybody looks after his own; an administrator also after those of his tenants' addresses.
    "subscription": {Role.DC_ADMIN: _WRITE, Role.VM_OWNER: _WRITE},
    "outboxmessage": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.RUN}), Role.VM_OWNER: _VIEW},
    # Everybody looks after his own, whatever his roles are.
    "apitoken": {Role.DC_ADMIN: _WRITE, Role.VM_OWNER: _WRITE},
    # To edit is to take its key away, or to give it another one.
    "agent": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.EDIT}), Role.VM_OWNER: _VIEW},
    # To edit is to take it back.
    "enrolmenttoken": {
        Role.DC_ADMIN: frozenset({Action.VIEW, Action.CREATE, Action.EDIT}),
        Role.VM_OWNER: _NONE,
    },
    # Of the agent program, for all tenants.
    "release": {Role.DC_ADMIN: _NONE, Role.VM_OWNER: _NONE},
    "serverorder": {Role.DC_ADMIN: _NONE, Role.VM_OWNER: _NONE},
    # Asked for on a server. To run is to let it happen, and asks for the right to restore as well.
    "askedrestore": {Role.DC_ADMIN: _VIEW | {Action.RESTORE}, Role.VM_OWNER: _VIEW},
    "node": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    "storage": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    # To edit is to rename it and to say who owns it; to run is to back up all of its disks at once.
    "server": {Role.DC_ADMIN: _VIEW | {Action.EDIT, Action.RESTORE, Action.RUN}, Role.VM_OWNER: _VIEW},
    "disk": {Role.DC_ADMIN: _VIEW | {Action.RESTORE}, Role.VM_OWNER: _VIEW},
    "definition": {Role.DC_ADMIN: _WRITE | {Action.RUN}, Role.VM_OWNER: _VIEW},
    # What it promised before; nobody writes it by hand.
    "earlierschedule": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _VIEW},
    # Of a definition or a tenant; those of a node or the fleet are a SuperAdmin's.
    "definitionpause": {Role.DC_ADMIN: _WRITE, Role.VM_OWNER: _NONE},
    "blackoutwindow": {Role.DC_ADMIN: _WRITE, Role.VM_OWNER: _NONE},
    "policy": {Role.DC_ADMIN: _VIEW, Role.VM_OWNER: _NONE},
    "backup": {
        Role.DC_ADMIN: frozenset({Action.VIEW, Action.EDIT, Action.DELETE, Action.RESTORE, Action.RUN}),
        Role.VM_OWNER: _VIEW,
    },
    "job": {Role.DC_ADMIN: frozenset({Action.VIEW, Action.CANCEL}), Role.VM_OWNER: _VIEW},
    # Found on storages, and nobody knows whose they are.
    "straycopy": {Role.DC_ADMIN: _NONE, Role.VM_OWNER: _NONE},
    # What the operator allows at once, over all tenants.
    "budget": {Role.DC_ADMIN: _NONE, Role.VM_OWNER: _NONE},
}


def actions_of(role: Role, model: str) -> frozenset[Action]:
    """What the role may do with objects of the model that it reaches. Unknown model: KeyError, never a guess."""
    return frozenset(Action) if role is Role.SUPER_ADMIN else _TABLE[model][role]


def scoped_models() -> frozenset[str]:
    """The models that the table knows."""
    return frozenset(_TABLE)
