"""Every page of the portal for everybody: status, what is hidden, which buttons there are, how many queries."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.db import transaction
from django.urls import URLPattern, get_resolver

from tests.factories import make_backup, make_definition, make_job, make_server
from tests.worlds import Estate, World

NAMES = ("super", "admin_a", "admin_b", "owner_a1", "owner_a2")
LISTS = ("dashboard", "server-list", "definition-list", "backup-list", "job-list", "restore-list")

# page -> statuses for a SuperAdmin, the DCAdmin of the object's tenant, the VmOwner of its server. All others: 404.
READ_PAGES = {
    "agents/<pk>/": (200, 200, 200),
    "agents/<pk>/revoke/": (200, 200, 403),
    "asked-restores/<pk>/": (200, 200, 403),
    "servers/<pk>/": (200, 200, 200),
    "enrolment-tokens/<pk>/contact/": (200, 200, 404),
    "servers/<pk>/enrol/": (200, 200, 403),
    "servers/<pk>/restore/": (200, 200, 403),
    "definitions/<pk>/": (200, 200, 200),
    "definitions/<pk>/edit/": (200, 200, 403),
    "definitions/<pk>/delete/": (200, 200, 403),
    "policies/<pk>/": (200, 403, 404),
    "policies/<pk>/edit/": (200, 403, 404),
    "policies/<pk>/delete/": (200, 403, 404),
    # The operator's alone.
    "budgets/<pk>/edit/": (200, 404, 404),
    "backups/<pk>/": (200, 200, 200),
    # No check is active: asked once, and no more.
    "backups/<pk>/check/": (286, 286, 286),
    "backups/<pk>/delete/": (200, 200, 403),
    "backups/<pk>/restore/": (200, 200, 403),
    "nodes/<pk>/": (200, 200, 404),
    "jobs/<pk>/": (200, 200, 200),
    "jobs/<pk>/progress/": (200, 200, 200),
    "people/<pk>/": (200, 200, 404),
    "tenants/<pk>/": (200, 200, 404),
    "tenants/<pk>/quotas/": (200, 403, 404),
    "tenants/<pk>/delete/": (200, 403, 404),
    "keys/<pk>/": (200, 200, 404),
    "vaults/<pk>/": (200, 200, 404),
    "vaults/<pk>/remove/": (200, 403, 404),
    "webhooks/<pk>/": (200, 200, 404),
}
WRITE_PAGES = {
    "agents/<pk>/approve/": (302, 302, 403),
    "agents/<pk>/readmit/": (302, 302, 403),
    # No button was pressed.
    "asked-restores/<pk>/": (200, 200, 403),
    "enrolment-tokens/<pk>/revoke/": (302, 302, 404),
    "orders/<pk>/send-again/": (302, 404, 404),
    "releases/<pk>/ring/": (302, 404, 404),
    # Without the minutes.
    "servers/<pk>/enrol/": (400, 400, 403),
    "agents/<pk>/revoke/": (302, 302, 403),
    "definitions/<pk>/edit/": (302, 302, 403),
    "definitions/<pk>/delete/": (302, 302, 403),
    "definitions/<pk>/backup-now/": (302, 302, 403),
    "servers/<pk>/backup-now/": (302, 302, 403),
    "servers/<pk>/region/": (302, 403, 403),
    "servers/<pk>/source/": (302, 403, 403),
    "pauses/<pk>/end/": (302, 302, 404),
    "blackouts/<pk>/remove/": (302, 302, 404),
    "policies/<pk>/": (302, 403, 404),
    "policies/<pk>/edit/": (302, 403, 404),
    "policies/<pk>/delete/": (302, 403, 404),
    "budgets/<pk>/edit/": (302, 404, 404),
    "budgets/<pk>/remove/": (302, 404, 404),
    "copies/<pk>/import/": (302, 404, 404),
    "storages/<pk>/compare/": (302, 403, 404),
    "backups/<pk>/note/": (302, 302, 403),
    "backups/<pk>/verify/": (302, 302, 403),
    # No storage is set aside for drills.
    "backups/<pk>/drill/": (302, 302, 403),
    "backups/<pk>/serve/": (302, 302, 403),
    "backups/<pk>/delete/": (302, 302, 403),
    "backups/<pk>/restore/": (302, 302, 403),
    # No storage was chosen.
    "backups/<pk>/restore-new/": (400, 400, 403),
    "nodes/<pk>/change/": (302, 403, 404),
    # Servers stand on it; nothing was typed; disks lie on it.
    "nodes/<pk>/remove/": (302, 403, 404),
    "nodes/<pk>/storages/": (400, 403, 404),
    "storages/<pk>/remove/": (302, 403, 404),
    "storages/<pk>/drills/": (302, 403, 404),
    "jobs/<pk>/cancel/": (302, 302, 403),
    "keys/<pk>/show/": (302, 302, 404),
    "keys/<pk>/test/": (200, 200, 404),
    "keys/<pk>/answer/": (302, 302, 404),
    "keys/<pk>/rotate/": (302, 302, 404),
    "keys/<pk>/register/": (302, 302, 404),
    "people/<pk>/grant/": (302, 302, 404),
    "people/<pk>/remove/": (302, 302, 404),
    "people/<pk>/active/": (302, 302, 404),
    "invitations/<pk>/withdraw/": (302, 302, 404),
    "tenants/<pk>/status/": (302, 403, 404),
    "tenants/<pk>/quotas/": (302, 403, 404),
    # The confirmation is another name.
    "tenants/<pk>/delete/": (400, 403, 404),
    "tenants/<pk>/undo/": (302, 403, 404),
    "approvals/<pk>/approve/": (302, 302, 404),
    "approvals/<pk>/decline/": (302, 302, 404),
    "approvals/<pk>/withdraw/": (403, 403, 404),
    "vaults/<pk>/accept-settings/": (400, 403, 404),
    # The confirmation is another name; nothing is to be undone.
    "vaults/<pk>/remove/": (400, 403, 404),
    "vaults/<pk>/undo-removal/": (302, 403, 404),
    "alarms/<pk>/acknowledge/": (302, 403, 404),
    "webhooks/<pk>/test/": (302, 302, 404),
    "webhooks/<pk>/status/": (302, 302, 404),
    "webhooks/<pk>/rotate/": (200, 200, 404),
    "webhooks/<pk>/remove/": (302, 302, 404),
    "subscriptions/<pk>/remove/": (302, 302, 404),
    "deliveries/<pk>/retry/": (302, 302, 404),
}
COLLECTIONS = {
    "": (200, 200, 200),
    "agents/": (200, 200, 200),
    "orders/": (200, 403, 403),
    "orders/new/": (200, 403, 403),
    "releases/": (200, 403, 403),
    "servers/": (200, 200, 200),
    "definitions/": (200, 200, 200),
    "definitions/new/": (200, 200, 403),
    "definitions/preview/": (200, 200, 200),
    "definitions/places/": (200, 200, 403),
    "definitions/overview/": (200, 200, 200),
    "definitions/load/": (200, 200, 200),
    # Without a node and an hour there is nothing.
    "definitions/load/spread/": (404, 404, 404),
    "definitions/simulation/": (200, 200, 200),
    "policies/": (200, 200, 200),
    "policies/new/": (200, 403, 403),
    "pauses/": (200, 200, 200),
    "pauses/new/": (200, 200, 403),
    "blackouts/new/": (200, 200, 403),
    "copies/": (200, 200, 200),
    "budgets/": (200, 200, 200),
    "health/": (200, 403, 403),
    "settings/": (200, 403, 403),
    "regions/": (200, 200, 200),
    "regions/new/": (200, 403, 403),
    "budgets/new/": (200, 403, 403),
    "choices/tenants/": (200, 200, 200),
    "choices/servers/": (200, 200, 200),
    "choices/disks/": (200, 200, 200),
    "choices/nodes/": (200, 200, 200),
    "backups/": (200, 200, 200),
    "nodes/": (200, 200, 200),
    "nodes/new/": (200, 403, 403),
    "jobs/": (200, 200, 200),
    "restores/": (200, 200, 200),
    "keys/": (200, 200, 200),
    "vaults/": (200, 200, 200),
    "vaults/overview/": (200, 200, 200),
    "overview/days/": (200, 200, 200),
    "overview/places/": (200, 200, 200),
    "notifications/": (200, 200, 200),
    "webhooks/new/": (200, 200, 403),
    "people/": (200, 200, 200),
    "people/invite/": (200, 200, 403),
    "tenants/": (200, 200, 200),
    "audit/": (200, 200, 200),
    "approvals/": (200, 200, 200),
    "tokens/": (200, 200, 200),
    "tokens/new/": (200, 200, 200),
}
OTHERS = {
    # test_lists_bulk.py
    "backups/bulk/",
    "definitions/bulk/",
    # Everybody's own: test_tokens.py here.
    "tokens/<pk>/end/",
    "tokens/<pk>/rotate/",
    # Takes a POST of a node's definitions: test_wizards.py here.
    "definitions/load/move/",
    # By code, not by id: test_settings_pages.py
    "regions/<str:code>/edit/",
    # test_planning_pages.py
    "policies/<pk>/take-back/<int:assignment_pk>/",
    # No pages, and for everybody: tests/agents/test_program_install.py.
    "agent/install.sh",
    "agent/downloads/<str:file>",
    "subscriptions/new/",
    "join/",
    "join/<str:token>/",
    "approvals/rules/",
    "login/",
    "logout/",
    "livez",
    "readyz",
}
# Of sign-in: what each does to whom is in test_sign_in*.py.
OTHERS |= {
    *("login/code/", "login/passkey/", "login/cancelled/", "login/error/"),
    *("login/oidc/<slug:provider_id>/", "login/oidc/<slug:provider_id>/callback/"),
    *("confirm/", "confirm/code/", "confirm/passkey/"),
    *("password/reset/", "password/reset/<uidb64>/<token>/"),
    *("sign-in/", "sign-in/password/", "sign-in/app/", "sign-in/code/", "sign-in/app/remove/", "sign-in/passkeys/add/"),
    *("sign-in/passkeys/<int:pk>/remove/", "sign-in/recovery-codes/", "sign-in/recovery-codes/new/"),
    *("sign-in/sessions/<slug:key>/end/", "sign-in/sessions/end/"),
    *("people/<pk>/sign-in/", "people/<pk>/sign-in/reset-mfa/", "people/<pk>/sign-in/end-sessions/"),
}


def form_of(estate: Estate, path: str) -> dict[str, Any]:
    """Good values for every form at once."""
    return {
        "cron": "0 1 * * *",
        "time_zone": "UTC",
        "retention_count": 3,
        "active": "on",
        "note": "good",
        "status": "paused",
        "place": f"tenant:{estate.tenant.pk}",
        "tenant": str(estate.tenant.pk),
        # Given beside the tenant it would be a policy for both, which is refused.
        **({"region": "RBX"} if path.startswith("servers/") else {}),
        "target": str(estate.definition.disk_id),
        "confirmation": estate.server.name,
        "answer": "ABCD-EFGH-JKMN",
        "public_key": bytes(range(32)).hex(),
        "window_start": "22:00",
        "window_end": "06:00",
        "most_jobs": 4,
        "hours": 2,
        "state": "offered",
        "percent": 10,
    }


def address_of(path: str, estate: Estate) -> str:
    return "/" + path.replace("<pk>", str(estate.object_of(path.split("/")[0]).pk) if "<pk>" in path else "")


def expected(statuses: tuple[int, int, int], estate: str) -> dict[str, int]:
    superadmin, admin, owner = statuses
    if estate == "ours":
        return {"super": superadmin, "admin_a": admin, "admin_b": 404, "owner_a1": owner, "owner_a2": 404}
    return {"super": superadmin, "admin_a": 404, "admin_b": admin, "owner_a1": 404, "owner_a2": 404}


def test_the_tables_know_every_page() -> None:
    known = {*READ_PAGES, *WRITE_PAGES, *COLLECTIONS, *OTHERS}

    assert set(_portal_paths(get_resolver().url_patterns)) == known


def _portal_paths(patterns: list[Any], prefix: str = "") -> list[str]:
    found = []
    for pattern in patterns:
        path = prefix + str(pattern.pattern).replace("<uuid:pk>", "<pk>")
        if path.startswith("api/"):
            continue
        found += [path] if isinstance(pattern, URLPattern) else _portal_paths(pattern.url_patterns, path)
    return found


@pytest.mark.case("AZ-01", "AZ-21")
@pytest.mark.parametrize("path", sorted(READ_PAGES))
@pytest.mark.parametrize("estate", ["ours", "theirs"])
def test_reading(world: World, path: str, estate: str) -> None:
    address = address_of(path, getattr(world, estate))

    found = {name: world.client(name).get(address).status_code for name in NAMES}

    assert found == expected(READ_PAGES[path], estate)


@pytest.mark.case("AZ-01")
@pytest.mark.parametrize("path", sorted(WRITE_PAGES))
@pytest.mark.parametrize("estate", ["ours", "theirs"])
def test_writing(world: World, path: str, estate: str) -> None:
    chosen: Estate = getattr(world, estate)
    found = {}

    for name in NAMES:
        with transaction.atomic():
            answer = world.client(name).post(address_of(path, chosen), form_of(chosen, path), format="multipart")
            found[name] = answer.status_code
            transaction.set_rollback(True)

    assert found == expected(WRITE_PAGES[path], estate)


@pytest.mark.parametrize("path", sorted(COLLECTIONS))
def test_collections(world: World, path: str) -> None:
    superadmin, admin, owner = COLLECTIONS[path]

    found = {name: world.client(name).get("/" + path).status_code for name in NAMES}

    assert found == {"super": superadmin, "admin_a": admin, "admin_b": admin, "owner_a1": owner, "owner_a2": owner}


@pytest.mark.parametrize("path", sorted({*READ_PAGES, *WRITE_PAGES}))
def test_a_missing_object(world: World, path: str) -> None:
    address = "/" + path.replace("<pk>", str(uuid.uuid4()))
    method = "get" if path in READ_PAGES else "post"

    for name in NAMES:
        assert getattr(world.client(name), method)(address).status_code == 404


@pytest.mark.parametrize("path", sorted({*READ_PAGES, *COLLECTIONS}))
@pytest.mark.parametrize("name", ["anonymous", "disabled"])
def test_nobody_is_asked_to_sign_in(world: World, path: str, name: str) -> None:
    address = address_of(path, world.ours)

    answer = world.client(name).get(address)

    assert (answer.status_code, answer["Location"]) == (302, f"/login/?next={address}")


@pytest.mark.parametrize("path", sorted(WRITE_PAGES))
def test_nobody_writes(world: World, path: str) -> None:
    answer = world.client("anonymous").post(address_of(path, world.ours), form_of(world.ours, path), format="multipart")

    assert answer.status_code == 302
    assert answer["Location"].startswith("/login/")


def hidden_words(estate: Estate) -> list[str]:
    keys = [estate.object_of(kind).pk for kind in ("servers", "definitions", "backups", "jobs", "restores", "vaults")]
    return [*map(str, keys), estate.server.name, estate.other_server.name, estate.tenant.title, estate.definition.name]


@pytest.mark.case("AZ-03")
@pytest.mark.parametrize("name", ["admin_a", "owner_a1", "owner_a2"])
@pytest.mark.parametrize("path", sorted({*READ_PAGES, *COLLECTIONS}))
def test_nothing_of_the_other_tenant_is_on_any_page(world: World, name: str, path: str) -> None:
    text = world.client(name).get(address_of(path, world.ours)).content.decode()

    for word in hidden_words(world.theirs):
        assert word not in text, word


@pytest.mark.parametrize("path", ["", "servers/", "definitions/", "backups/", "jobs/", "restores/"])
def test_an_owner_sees_his_server_and_not_the_other_one_of_the_tenant(world: World, path: str) -> None:
    other = make_definition(world.ours.other_server, name="of-other")
    make_backup(world.ours.other_server, definition=other)
    make_job(world.ours.other_server)

    text = world.client("owner_a1").get("/" + path).content.decode()

    assert world.ours.other_server.name not in text
    assert "of-other" not in text
    if path != "":
        assert world.ours.server.name in text


@pytest.mark.parametrize("path", sorted({*READ_PAGES, *COLLECTIONS}))
def test_an_owner_reads_no_name_of_a_node_or_a_vault(world: World, path: str) -> None:
    text = world.client("owner_a1").get(address_of(path, world.ours)).content.decode()

    assert world.ours.node.name not in text
    assert world.ours.vault.name not in text


def test_an_administrator_reads_them(world: World) -> None:
    client = world.client("admin_a")

    assert world.ours.node.name in client.get(f"/servers/{world.ours.server.pk}/").content.decode()
    assert world.ours.vault.name in client.get(f"/backups/{world.ours.backup.pk}/").content.decode()
    assert world.ours.vault.name in client.get(f"/definitions/{world.ours.definition.pk}/").content.decode()


def test_the_counts_of_the_dashboard_are_of_what_is_visible(world: World) -> None:
    def counts(name: str) -> tuple[Any, ...]:
        context = world.client(name).get("/").context
        return (
            context["totals"].server_count,
            context["totals"].states["waiting"],
            context["totals"].definition_count,
            context["totals"].good_count,
        )

    assert counts("super") == (4, 2, 2, 2)
    assert counts("admin_a") == (2, 1, 1, 1)
    assert counts("owner_a1") == (1, 1, 1, 1)
    assert counts("owner_a2") == (1, 0, 0, 0)
    # What nobody looked at yet waits; without an active definition it is unprotected.
    assert world.client("super").get("/").context["totals"].states["unprotected"] == 2


def test_a_foreign_filter_is_404(world: World) -> None:
    client = world.client("admin_a")

    assert client.get(f"/backups/?server={world.theirs.server.pk}").status_code == 404
    assert client.get(f"/backups/?definition={world.theirs.definition.pk}").status_code == 404
    assert client.get("/backups/?server=nonsense").status_code == 404
    assert client.get(f"/backups/?server={world.ours.server.pk}").status_code == 200


BUTTONS = {
    "definitions/<pk>/": ["Backup now", ">Change<", ">Delete<"],
    "backups/<pk>/": [">Restore<", ">Delete<", "Keep the note"],
    "jobs/<pk>/": [">Cancel<"],
    "servers/<pk>/": ["New definition", "Backup now"],
    "definitions/": ["New definition"],
}


@pytest.mark.parametrize("path", sorted(BUTTONS))
def test_an_owner_has_no_buttons_and_an_administrator_has(world: World, path: str) -> None:
    address = address_of(path, world.ours)

    for button in BUTTONS[path]:
        assert button in world.client("admin_a").get(address).content.decode(), button
        assert button not in world.client("owner_a1").get(address).content.decode(), button


@pytest.mark.parametrize("path", ["servers/<pk>/", "backups/<pk>/"])
def test_an_owner_is_told_who_restores(world: World, path: str) -> None:
    told = {
        name: "administrator of the tenant restores" in world.client(name).get(address_of(path, world.ours)).text
        for name in ("owner_a1", "admin_a")
    }

    assert told == {"owner_a1": True, "admin_a": False}


@pytest.mark.parametrize("path", sorted({*READ_PAGES, *COLLECTIONS}))
def test_an_owner_has_no_form_that_posts_but_for_himself(world: World, path: str) -> None:
    text = world.client("owner_a1").get(address_of(path, world.ours)).content.decode()

    assert set(re.findall(r'<form method="post"[^>]*action="([^"]*)"', text)) <= {"/logout/", "/subscriptions/new/"}


@pytest.mark.parametrize("path", ["", "servers/", "definitions/", "backups/", "jobs/", "restores/"])
@pytest.mark.parametrize("name", ["super", "admin_a", "owner_a1"])
def test_pages_of_many_rows_need_few_queries(
    world: World, django_assert_max_num_queries: Any, name: str, path: str
) -> None:
    for _ in range(5):
        server = make_server(world.ours.tenant)
        make_backup(server, definition=make_definition(server))
        make_job(server)
        make_job(server, state="failed")
    client = world.client(name)

    # Two of them ask what he administers and owns; servers have their states and last good backups.
    with django_assert_max_num_queries(22 if path == "" else 8):
        client.get("/" + path)


@pytest.mark.parametrize("path", sorted(READ_PAGES))
def test_pages_of_one_object_need_few_queries(world: World, django_assert_max_num_queries: Any, path: str) -> None:
    for _ in range(5):
        server = make_server(world.ours.tenant)
        make_backup(world.ours.server, definition=make_definition(world.ours.server))
        make_job(server)
    client, address = world.client("admin_a"), address_of(path, world.ours)

    # What was promised and held at times that are over takes five, for a server and for a definition.
    with django_assert_max_num_queries(25 if path in {"servers/<pk>/", "definitions/<pk>/"} else 21):
        client.get(address)


@pytest.mark.case("IN-08")
@pytest.mark.parametrize("path", sorted({*READ_PAGES, *COLLECTIONS}))
def test_a_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(world: World, path: str) -> None:
    answer = world.client("super").get(address_of(path, world.ours))

    text = answer.content.decode()
    assert answer["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert not re.search(r"\s(?:style|on[a-z]+)=", text)
    assert not re.search(r"<style|<script>|javascript:", text)
    assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", text)
    assert "hx-on" not in text


def test_every_named_file_is_served(world: World) -> None:
    text = world.client("super").get("/").content.decode()

    named = set(re.findall(r"/static/([^\"']+)", text))
    assert len(named) >= 4
    for name in named:
        assert finders.find(name), name


@pytest.mark.parametrize("path", sorted({*READ_PAGES, "definitions/new/", "backups/", "servers/", "jobs/"}))
def test_every_field_has_a_label(world: World, path: str) -> None:
    text = world.client("super").get(address_of(path, world.ours)).content.decode()

    labels = set(re.findall(r'<label[^>]*for="([^"]+)"', text))
    for field in re.findall(r"<(?:input|select|textarea)[^>]*>", text):
        if 'type="hidden"' in field or 'type="checkbox"' in field or 'type="radio"' in field:
            continue
        assert re.search(r'id="([^"]+)"', field)[1] in labels, field  # type: ignore[index]  # the pattern always matches


def test_wrong_methods(world: World) -> None:
    client = world.client("super")

    assert client.get(f"/jobs/{world.ours.job.pk}/cancel/").status_code == 405
    assert client.get(f"/definitions/{world.ours.definition.pk}/backup-now/").status_code == 405
    assert client.post("/").status_code == 405


def test_the_error_pages_say_what_and_nothing_of_the_inside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client("owner_a1")
    client.raise_request_exception = False

    missing = client.get("/nothing/")
    refused = client.get(f"/backups/{world.ours.backup.pk}/restore/")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("backups.views.servers.states_of", fail)
    broken = client.get("/servers/")
    assert (missing.status_code, refused.status_code, broken.status_code) == (404, 403, 500)
    assert "Ask an administrator of the tenant" in refused.content.decode()
    assert "secret" not in broken.content.decode()
