"""Settings of the installation, and regions with affinity."""

from __future__ import annotations

from pydantic import SecretStr

from backupsite.config import Config
from backupsite.shown_settings import GROUPS, NOT_SHOWN, shown_settings
from tenants.models import AuditEvent
from tests.factories import make_region
from tests.worlds import World
from vaults.models import Region
from vaults.regions import vault_region_of


def test_every_setting_is_shown_or_left_out_on_purpose_and_no_secret_is_among_them() -> None:
    shown = {name for _, fields in GROUPS for name, _ in fields}
    secrets = {name for name, field in Config.model_fields.items() if "SecretStr" in str(field.annotation)}
    keys = {name for name in Config.model_fields if name.endswith("_access_key")}

    assert not shown & (secrets | keys | NOT_SHOWN)
    assert shown | secrets | keys | NOT_SHOWN == set(Config.model_fields)


def test_the_page_says_what_was_set_and_what_is_as_delivered(world: World) -> None:
    config = Config.model_construct(**{name: field.default for name, field in Config.model_fields.items()})
    config = config.model_copy(update={"lease_seconds": 45, "secret_key": SecretStr("hidden-word")})

    found = {one.variable: one for group in shown_settings(config) for one in group.settings}
    page = world.client("super").get("/settings/").content.decode()

    lease = found["BACKUPSITE_LEASE_SECONDS"]
    assert (lease.value, lease.is_default) == ("45", False)
    assert found["BACKUPSITE_DEBUG"].value == "no" and found["BACKUPSITE_DEBUG"].is_default
    assert "hidden-word" not in str(found)
    assert all(variable in page for variable in found)


def test_affinity_is_changed_on_its_page_and_never_to_the_region_itself(world: World) -> None:
    region = world.ours.server.region
    other = make_region("LIM", vault_code="SBG")
    client, address = world.client("super"), f"/regions/{region.pk}/edit/"

    form = client.get(address).content.decode()
    same = client.post(address, {"title": "x", "vault_region": region.pk}, format="multipart")
    client.post(address, {"title": "Roubaix", "vault_region": other.pk}, format="multipart")

    assert f'<option value="{region.pk}"' not in form and same.status_code == 400
    assert (Region.objects.get(pk=region.pk).title, vault_region_of(region)) == ("Roubaix", "LIM")
    assert AuditEvent.objects.filter(action="region.change").count() == 1
    assert "Roubaix" in client.get("/regions/").content.decode()


def test_a_region_is_added_and_a_code_that_is_there_is_refused(world: World) -> None:
    client = world.client("super")

    for code, status in (("WAW", 302), ("WAW", 400), ("no code", 400)):
        answer = client.post("/regions/new/", {"code": code, "vault_region": ""}, format="multipart")
        assert answer.status_code == status

    assert vault_region_of(Region.objects.get(pk="WAW")) is None
    assert "its servers get no vault" in client.get("/regions/").content.decode()


def test_others_see_their_regions_and_change_none(world: World) -> None:
    region, foreign = world.ours.server.region, make_region("PAR", vault_code="ERI")
    found = {}
    for name in ("admin_a", "owner_a1", "anonymous"):
        client = world.client(name)
        edits = [client.post(f"/regions/{code}/edit/", {"title": "x"}, format="multipart").status_code for code in
                 (region.pk, foreign.pk)]  # fmt: skip
        new = client.post("/regions/new/", {"code": "AAA"}, format="multipart").status_code
        found[name] = (*edits, new)
    seen = world.client("admin_a").get("/regions/").content.decode()

    assert found == {"admin_a": (403, 404, 403), "owner_a1": (404, 404, 403), "anonymous": (302, 302, 302)}
    assert region.pk in seen and foreign.pk not in seen and "New region" not in seen
    assert not Region.objects.filter(title="x").exists()
