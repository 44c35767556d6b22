"""Reading by version, whatever was laid over an object, and what the store's errors mean."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from backupsite.stack.weed import EmbeddedWeed
from engine.alone.bucket import VERSIONS_KEPT, BucketSource, StoredVersion, read_fitting
from engine.alone.parallel import ordered_results
from engine.alone.s3 import S3Bucket, S3Options
from engine.errors import IntegrityError, StoreError, StoreNotFoundError
from engine.hashing import sha256_hex
from engine.store.base import ObjectRef
from engine.store.memory import ModelStore
from tests.alone.support import NOW, BotoSink, ModelBucket
from tests.engine.support import noise

KEY = "t/a/d/b/p/object"
DATA = noise(1000)


def bucket_with(*versions: bytes | None) -> tuple[ModelBucket, ObjectRef]:
    """The key's versions, oldest first (None: a delete marker); the reference of DATA without a version."""
    store = ModelStore(now=lambda: NOW)
    for data in versions:
        if data is None:
            store.delete_object(key=KEY)
        else:
            store.put_object(key=KEY, data=data)
    return ModelBucket(store), ObjectRef(KEY, sha256_hex(DATA), len(DATA))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"short", noise(1000, "other"), None]), max_size=6), st.integers(0, 6))
def test_the_right_bytes_are_found_under_and_over_anything(others: list[bytes | None], place: int) -> None:
    bucket, ref = bucket_with(*others[:place], DATA, *others[place:])
    source = BucketSource(bucket)

    assert source.get(ref) == DATA
    assert source.get(ref, offset=10, length=5) == DATA[10:15]
    assert source.get(replace(ref, version_id=source.locate(ref).version_id)) == DATA


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([b"short", noise(1000, "other"), noise(1000, "third"), None]), max_size=6))
def test_wrong_bytes_are_never_taken_for_the_object(others: list[bytes | None]) -> None:
    bucket, ref = bucket_with(*others)
    fitting = [data for data in others if data is not None and len(data) == len(DATA)]
    if len(fitting) == 1:
        return  # the only one of its size is taken without reading it; records and hashes are checked above

    with pytest.raises((StoreNotFoundError, IntegrityError)):
        BucketSource(bucket).get(ref)


def test_a_noted_version_that_is_not_there_is_looked_up_by_name() -> None:
    bucket, ref = bucket_with(b"before", DATA)
    source = BucketSource(bucket)
    noted = replace(ref, version_id="of another bucket")

    assert source.get(noted) == DATA
    assert source.locate(noted).version_id == "v00000002"


def test_a_noted_version_of_another_size_is_looked_up_by_name() -> None:
    bucket, ref = bucket_with(b"before", DATA)

    assert BucketSource(bucket).locate(replace(ref, version_id="v00000001")).version_id == "v00000002"


def test_what_was_looked_up_is_remembered() -> None:
    bucket, ref = bucket_with(noise(1000, "other"), DATA)
    source = BucketSource(bucket)
    for _ in range(5):
        assert source.get(ref, offset=0, length=10) == DATA[:10]

    assert len(bucket.reads) == 2 + 5


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 0), (990, 11), (1000, None)])
def test_ranges_outside_of_the_object_are_refused(offset: int, length: int | None) -> None:
    bucket, ref = bucket_with(DATA)

    with pytest.raises(StoreError):
        BucketSource(bucket).get(ref, offset=offset, length=length)


def test_versions_of_impossible_sizes_are_not_even_read() -> None:
    bucket, ref = bucket_with(b"", noise(2000), DATA)
    versions = next(bucket.versions(KEY))

    found = read_fitting(bucket, versions, sha256=ref.sha256, size_max=1500)

    assert found is not None and found.data == DATA
    assert len(bucket.reads) == 1


def test_results_come_in_order_and_errors_come_out() -> None:
    assert list(ordered_results(lambda number: number * 2, range(100), at_once=7)) == list(range(0, 200, 2))
    with pytest.raises(ZeroDivisionError):
        list(ordered_results(lambda number: 1 // number, [2, 1, 0, 5]))


def test_few_items_are_taken_ahead_of_the_caller() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_results(lambda number: number, items(), at_once=4)
    assert next(results) == 0

    assert len(taken) <= 6
    results.close()


# --- errors of the store ----------------------------------------------------------------------------------------------


class ScriptedClient:
    """Answers each call with the next entry: an exception, or the bytes of a body."""

    def __init__(self, *script: BaseException | bytes) -> None:
        self.script = list(script)
        self.calls = 0

    def get_object(self, **_: Any) -> dict[str, Any]:
        self.calls += 1
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, BaseException):
            raise answer
        return {"Body": io.BytesIO(answer)}


def refusal(status: int, code: str | None = None) -> ClientError:
    error = {"Code": code} if code else {}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def scripted(*script: BaseException | bytes) -> tuple[S3Bucket, ScriptedClient]:
    bucket = S3Bucket(S3Options(bucket="vault", access_key="key", secret_key="secret"))
    client = ScriptedClient(*script)
    bucket._client = client
    return bucket, client


VERSION = StoredVersion(KEY, "v1", len(DATA))


def read(bucket: S3Bucket) -> bytes:
    return bucket.read(VERSION, offset=0, length=len(DATA)).data


def test_a_body_that_breaks_off_is_read_again() -> None:
    bucket, _ = scripted(ReadTimeoutError(endpoint_url="https://secret"), DATA)

    assert read(bucket) == DATA


@pytest.mark.parametrize(
    ("answer", "code", "transient"),
    [
        (refusal(404, "NoSuchKey"), "store_not_found", False),
        (refusal(404, "NoSuchVersion"), "store_not_found", False),
        (refusal(400, "InvalidArgument"), "store_not_found", False),
        (refusal(404, "NoSuchBucket"), "no_such_bucket", False),
        (refusal(403, "AccessDenied"), "store_denied", False),
        (refusal(403), "store_denied", False),
        (refusal(503, "SlowDown"), "store_error", True),
        (refusal(418), "store_error", False),
        (ReadTimeoutError(endpoint_url="https://secret"), "store_unreachable", True),
        (DATA[:-1], "bad_length", False),
        (DATA + b"x", "bad_length", False),
    ],
)
def test_each_answer_has_its_meaning(answer: BaseException | bytes, code: str, transient: bool) -> None:
    bucket, _ = scripted(answer)

    with pytest.raises(StoreError) as caught:
        read(bucket)

    assert (caught.value.code, caught.value.transient) == (code, transient)
    assert "secret" not in str(caught.value)


def test_one_object_that_the_store_cannot_read_is_given_up_quickly() -> None:
    bucket, client = scripted(refusal(500, "InternalError"))
    for _ in range(10):
        with pytest.raises(StoreError) as caught:
            read(bucket)
        assert (caught.value.code, caught.value.transient) == ("object_unreadable", False)

    assert client.calls == 1


# --- a real store -----------------------------------------------------------------------------------------------------


@pytest.mark.stack
def test_the_first_version_survives_a_flood_over_several_pages(weed: EmbeddedWeed, sink: BotoSink) -> None:
    credential = weed.credentials["reader"]
    options = S3Options(
        bucket=sink.bucket,
        endpoint_url=weed.url,
        access_key=credential.access_key,
        secret_key=credential.secret_key,
    )
    sink.put(key="t/0", data=b"before", sha256="")
    first = sink.put(key=KEY, data=DATA, sha256=sha256_hex(DATA))
    for number in range(VERSIONS_KEPT + 30):
        sink.client.put_object(Bucket=sink.bucket, Key=KEY, Body=b"%d" % number)
    sink.put(key="t/z", data=b"after", sha256="")

    groups = list(S3Bucket(options, page_size=10).versions("t/"))

    assert [group[0].key for group in groups] == ["t/0", KEY, "t/z"]
    assert len(groups[1]) == VERSIONS_KEPT
    assert groups[1][0] == StoredVersion(KEY, first.version_id, len(DATA))
    assert BucketSource(S3Bucket(options)).get(replace(first, version_id=None)) == DATA
