"""The signer's ledger: what is recorded before it is signed, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from common.errors import BackupsiteError, ConfigurationError, ConflictError, InvalidInputError
from engine.store.base import ObjectRef
from engine.store.http import PutSpec
from tests.factories import make_tenant, make_vault
from vaults import grants
from vaults.grants import LARGEST_BATCH, LARGEST_OBJECT_BYTES, GrantContext, grant_gets, grant_puts
from vaults.models import Domain, StoredObject
from vaults.presign import MUST_BE_SIGNED

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)
Status = StoredObject.Status


@pytest.fixture
def context(db: None, settings: Any) -> GrantContext:
    told = {"s3_signer_access_key": "AKIDEXAMPLE", "s3_signer_secret_key": SecretStr("secret")}
    settings.CONFIG = settings.CONFIG.model_copy(update=told)
    vault = make_vault(make_tenant())
    domain = Domain.objects.create(tenant=vault.tenant, vault=vault, wrapped_id_key=b"k", wrapped_map_key=b"k")
    return GrantContext(
        domain=domain, session_id=uuid.uuid4(), now=NOW, retain_until=NOW + timedelta(days=26, microseconds=5)
    )


def spec(context: GrantContext, data: bytes = b"data", *, kind: str = "p") -> PutSpec:
    sha256, md5 = hashlib.sha256(data).hexdigest(), base64.b64encode(hashlib.md5(data).digest()).decode()
    return PutSpec(f"t/{context.domain.tenant_id}/d/{context.domain.pk}/{kind}/{sha256}", sha256, md5, len(data))


def refused_code(context: GrantContext, specs: list[PutSpec]) -> str:
    with pytest.raises(BackupsiteError) as refused:
        grant_puts(context, specs)
    return refused.value.code


def test_a_batch_is_recorded_and_granted_in_its_order(context: GrantContext) -> None:
    specs = [spec(context, bytes([number])) for number in range(LARGEST_BATCH)]

    granted = grant_puts(context, specs)

    assert [urlsplit(grant.url).path.rpartition("/")[2] for grant in granted] == [one.sha256 for one in specs]
    assert set(StoredObject.objects.values_list("key", flat=True)) == {one.key for one in specs}
    row = StoredObject.objects.get(key=specs[3].key)
    assert (row.status, row.kind, row.session_id, row.retain_until) == (
        *(Status.GRANTED, "p", context.session_id),
        context.retain_until,
    )


def test_the_row_is_committed_before_anything_is_signed(context: GrantContext, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def sign(**asked: Any) -> str:
        open_blocks = [name for name in connection.savepoint_ids if name]
        seen.append((StoredObject.objects.filter(key=asked["place"].key).exists(), len(open_blocks) == blocks))
        return "url"

    blocks = len([name for name in connection.savepoint_ids if name])
    monkeypatch.setattr(grants, "presign_put", sign)

    grant_puts(context, [spec(context)])

    assert seen == [(True, True)]


def test_a_whole_batch_costs_hardly_more_statements_than_one(context: GrantContext) -> None:
    counts = []
    for number in (1, LARGEST_BATCH):
        specs = [spec(context, f"{number} {place}".encode()) for place in range(number)]
        with CaptureQueriesContext(connection) as queries:
            grant_puts(context, specs)
        counts.append(len(queries))

    # SQLite takes no more than 999 values in one statement.
    assert counts[0] <= counts[1] <= counts[0] + 1 <= 5


@pytest.mark.parametrize("kind", ["p", "i", "k", "r"])
def test_what_a_mover_writes_is_bound_whole(context: GrantContext, kind: str) -> None:
    grant = grant_puts(context, [spec(context, kind=kind)])[0]

    assert set(parse_qs(urlsplit(grant.url).query)["X-Amz-SignedHeaders"][0].split(";")) == MUST_BE_SIGNED
    assert {name.lower() for name in grant.headers} == MUST_BE_SIGNED - {"host"}
    assert "AKIDEXAMPLE" not in repr(grant)


def test_a_manifest_has_its_source_in_the_key(context: GrantContext) -> None:
    plain = spec(context, kind="m/source")
    good = replace(plain, key=plain.key.replace(plain.sha256, f"{1:020d}-{plain.sha256}"))

    assert len(grant_puts(context, [good])) == 1
    assert refused_code(context, [spec(context, kind="m")]) == "foreign_key"
    assert refused_code(context, [spec(context, kind="m/source/more")]) == "foreign_key"


@pytest.mark.parametrize("kind", ["c", "x", "", "m/", "p/probe", "p/..", "../p", "m/..", "P"])
def test_what_only_the_service_writes_is_not_granted(context: GrantContext, kind: str) -> None:
    assert refused_code(context, [spec(context, kind=kind)]) == "foreign_key"
    assert not StoredObject.objects.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.text(alphabet="tdpimkc/.-0a\n", max_size=20))
def test_no_invented_key_is_granted(context: GrantContext, tail: str) -> None:
    good = spec(context)
    key = good.key.removesuffix(f"p/{good.sha256}") + tail + good.sha256
    if tail in {"p/", "i/", "k/"} or (tail.startswith("m/") and tail.count("/") == 2 and ".." not in tail):
        return

    assert refused_code(context, [replace(good, key=key)]) in {"foreign_key", "wrong_name"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sha256": "00" * 32}, "wrong_name"),
        ({"md5_base64": "AAAA"}, "wrong_md5"),
        ({"md5_base64": "\n" * 24}, "wrong_md5"),
        ({"size_bytes": 0}, "wrong_size"),
        ({"size_bytes": LARGEST_OBJECT_BYTES + 1}, "wrong_size"),
    ],
)
def test_a_spec_that_cannot_be_right_grants_nothing_of_its_batch(
    context: GrantContext, change: dict[str, Any], code: str
) -> None:
    wrong = replace(spec(context, b"wrong"), **change)

    assert refused_code(context, [spec(context, b"good"), wrong]) == code
    assert not StoredObject.objects.exists()


def test_a_batch_has_an_end(context: GrantContext) -> None:
    specs = [spec(context, bytes([number])) for number in range(LARGEST_BATCH + 1)]

    assert refused_code(context, specs) == "batch_too_large"


def test_the_same_asked_again_is_granted_again_with_its_first_lock_date(context: GrantContext) -> None:
    first = grant_puts(context, [spec(context)])[0]
    later = replace(context, now=NOW + timedelta(minutes=20), retain_until=context.retain_until + timedelta(days=10))

    again = grant_puts(later, [spec(context), spec(context)])

    assert again[0].headers == again[1].headers == first.headers
    assert again[0].url != first.url
    assert StoredObject.objects.count() == 1


@pytest.mark.parametrize("change", [{"size_bytes": 5}, {"md5_base64": "A" * 22 + "=="}])
def test_the_same_name_with_another_length_or_md5_is_refused(context: GrantContext, change: dict[str, Any]) -> None:
    grant_puts(context, [spec(context)])

    assert refused_code(context, [replace(spec(context), **change)]) == "grant_differs"
    assert refused_code(context, [replace(spec(context, b"new"), **change), spec(context, b"new")]) == "grant_differs"
    assert StoredObject.objects.count() == 1


@pytest.mark.parametrize("status", Status.values)
def test_an_object_that_is_being_removed_is_not_granted_again(context: GrantContext, status: str) -> None:
    grant_puts(context, [spec(context)])
    StoredObject.objects.update(status=status, version_id="v", condemned_epoch=1)

    if status in {Status.GRANTED, Status.STORED}:
        assert len(grant_puts(context, [spec(context)])) == 1
        return
    with pytest.raises(ConflictError) as refused:
        grant_puts(context, [spec(context), spec(context, b"another")])
    assert refused.value.code == "object_removed"
    assert StoredObject.objects.count() == 1


def test_a_read_is_bound_to_its_version(context: GrantContext) -> None:
    grant = grant_gets(context.domain.vault, [ObjectRef("t/a", "00" * 32, 4, "v/1+2")], now=NOW)[0]

    told = parse_qs(urlsplit(grant.url).query)
    assert (grant.method, told["versionId"], told["X-Amz-SignedHeaders"]) == ("GET", ["v/1+2"], ["host"])


@pytest.mark.parametrize("version_id", [None, ""])
def test_a_read_of_whatever_version_is_not_granted(context: GrantContext, version_id: str | None) -> None:
    with pytest.raises(InvalidInputError) as refused:
        grant_gets(context.domain.vault, [ObjectRef("t/a", "00" * 32, 4, version_id)], now=NOW)

    assert refused.value.code == "version_unknown"


Ask = Callable[[GrantContext], object]


@pytest.mark.parametrize(
    "ask",
    [
        lambda context: grant_puts(context, [spec(context)]),
        lambda context: grant_gets(context.domain.vault, [ObjectRef("t/a", "00" * 32, 4, "v")]),
    ],
)
def test_only_the_signers_process_can_grant(context: GrantContext, settings: Any, ask: Ask) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"s3_signer_secret_key": SecretStr("")})

    with pytest.raises(ConfigurationError, match="does not hold the signer credential"):
        ask(context)

    assert not StoredObject.objects.exists()
