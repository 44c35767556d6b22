"""Of every form with fields: what is typed wrong into it, by whom, and which fields are to say so.

The forms themselves are found on the pages (test_every_page.py); one without a row fails there.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenants.views import STATUS_WRONG_INPUT

SUPER, ANYBODY = "super", "anonymous"
# The id of a backup and of the disk of its server.
BACKUP, DISK = "the backup", "the disk"


@dataclass(frozen=True)
class Wrong:
    """`typed` into the form at the address; `fields` are wrong then. Without any it is said of the form as a whole."""

    typed: dict[str, str]
    fields: tuple[str, ...] = ()
    by: str = SUPER
    # Pages of the libraries that sign people in answer 200.
    status: int = STATUS_WRONG_INPUT


LONG = "x" * 600
FORMS: dict[str, Wrong] = {
    "alarms/<uuid:pk>/acknowledge/": Wrong({"note": LONG}, ("note",)),
    "approvals/<uuid:pk>/decline/": Wrong({"reason": LONG}, ("reason",)),
    "approvals/rules/": Wrong({"kind": "key.export", "tenant": "nobody", "required": "on"}, ("tenant",)),
    "asked-restores/<uuid:pk>/": Wrong({"code": "", "confirm": "1"}, ("code",)),
    "backups/bulk/": Wrong({"ids": BACKUP, "confirmation": "all of them"}, ("confirmation",)),
    "backups/<uuid:pk>/note/": Wrong({"note": LONG}, ("note",)),
    "backups/<uuid:pk>/restore/": Wrong({"confirmation": "another", "target": DISK}, ("confirmation",)),
    "backups/<uuid:pk>/restore-new/": Wrong({"storage": ""}),
    "backups/<uuid:pk>/serve/": Wrong({"hours": "25"}, ("hours",)),
    "blackouts/new/": Wrong({"start": "", "end": "06:00", "reason": "quiet"}, ("start", "time_zone", "weekdays")),
    "budgets/<uuid:pk>/edit/": Wrong({"most_jobs": "-1", "time_zone": "Mars/Base"}, ("most_jobs",)),
    "budgets/new/": Wrong({"most_jobs": "-1"}, ("kind", "most_jobs", "time_zone")),
    "confirm/code/": Wrong({"code": "000000"}, ("code",), status=200),
    "copies/<uuid:pk>/import/": Wrong({"tenant": "nobody"}, ("tenant",)),
    "definitions/<uuid:pk>/delete/": Wrong({"backups": "delete", "confirmation": "another"}, ("confirmation",)),
    "definitions/<uuid:pk>/edit/": Wrong({"cron": "61 * * * *", "time_zone": "UTC", "retention_count": "3"}, ("cron",)),
    "definitions/new/": Wrong(
        {"disk": "", "name": LONG, "cron": "0 22 * *", "time_zone": "UTC", "retention_count": "-1", "rpo_hours": "0"},
        ("disk", "name", "retention_count", "rpo_hours"),
    ),
    "join/": Wrong({"password": "short"}, ("password",), by=ANYBODY),
    "keys/<uuid:pk>/register/": Wrong({"public_key": "nonsense"}, ("public_key",)),
    "login/": Wrong({"username": "anna", "password": "wrong-password-1"}, by=ANYBODY, status=200),
    "nodes/<uuid:pk>/storages/": Wrong({"name": "", "path": "relative"}, ("name",)),
    "nodes/new/": Wrong({"name": ""}, ("name", "region")),
    "orders/new/": Wrong({"tenant": "Bakery", "email": "nobody", "name": "", "region": "RBX"}, ("name",)),
    "password/reset/": Wrong({"email": "nobody"}, ("email",), by=ANYBODY, status=200),
    "password/reset/<uidb64>/<token>/": Wrong(
        {"new_password1": "a-long-password-1", "new_password2": "another-password"},
        ("new_password2",),
        by=ANYBODY,
        status=200,
    ),
    "pauses/new/": Wrong({"until": "2020-01-01T00:00", "reason": "move", "fleet": "on"}, ("until",)),
    "people/<uuid:pk>/grant/": Wrong({"tenant": "", "server": ""}),
    "people/invite/": Wrong({"tenant": "", "email": "nobody"}, ("tenant", "email")),
    "policies/<uuid:pk>/": Wrong({"tenant": "", "server": "nowhere"}, ("server",)),
    "policies/<uuid:pk>/edit/": Wrong(
        {"window_start": "", "window_end": "06:00", "time_zone": "UTC", "retention_count": "-1"},
        ("window_start", "retention_count"),
    ),
    "policies/new/": Wrong(
        {"name": "", "window_start": "", "cpu_weight": "-1"},
        ("name", "window_start", "window_end", "time_zone", "retention_count", "cpu_weight"),
    ),
    "regions/<str:code>/edit/": Wrong({"title": LONG, "vault_region": ""}, ("title",)),
    "regions/new/": Wrong({"code": "", "title": "Somewhere"}, ("code",)),
    "releases/<uuid:pk>/ring/": Wrong({"state": "offered", "percent": "101"}, ("percent",)),
    "servers/<uuid:pk>/enrol/": Wrong({"expected_host": "till01", "minutes": "0"}, ("minutes",)),
    # Where affinity has no place for its vault.
    "servers/<uuid:pk>/region/": Wrong({"region": "GRA"}, ("region",)),
    "servers/<uuid:pk>/source/": Wrong({"source_name": LONG}, ("source_name",)),
    "sign-in/app/": Wrong({"code": "000000"}, ("code",), status=200),
    "sign-in/passkeys/add/": Wrong({"name": "key", "credential": "nonsense"}, status=200),
    "sign-in/password/": Wrong(
        {"old_password": "wrong", "new_password1": "a-long-password-1", "new_password2": "another"},
        ("old_password", "new_password2"),
        status=200,
    ),
    "subscriptions/new/": Wrong({"tenant": "", "address": "nobody"}, ("severity",)),
    "tenants/<uuid:pk>/delete/": Wrong({"confirmation": "another", "reason": "left"}, ("confirmation",)),
    "tenants/<uuid:pk>/quotas/": Wrong({"servers_hard": "-1"}, ("servers_hard",)),
    "tenants/<uuid:pk>/status/": Wrong({"reason": LONG}, ("reason",)),
    "tokens/new/": Wrong({"label": "", "networks": "nowhere", "days": "0"}, ("label", "days", "scope")),
    "vaults/<uuid:pk>/remove/": Wrong({"confirmation": "another", "reason": "old"}, ("confirmation",)),
    "webhooks/new/": Wrong({"label": "", "url": "ftp://nowhere"}, ("label", "severity")),
}
