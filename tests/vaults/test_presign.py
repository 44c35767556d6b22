"""Own presigning: the same bytes as botocore's, and no way to leave an upload unbound."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from vaults.presign import (
    LONGEST_LIFETIME,
    MUST_BE_SIGNED,
    BoundPut,
    ObjectPlace,
    SigningKey,
    presign,
    presign_put,
)

NOW = datetime(2026, 11, 21, 7, 40, 41, tzinfo=UTC)
KEY = SigningKey("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
PLACE = ObjectPlace("http://127.0.0.1:8001", "backup-vault-one", "t/one/d/two/p/abc")
LIFETIME = timedelta(minutes=15)
_clients: dict[tuple[str, str], Any] = {}


def a_put(data: bytes = b"data", until: datetime = NOW + timedelta(days=26)) -> BoundPut:
    sha256, md5 = hashlib.sha256(data).digest(), hashlib.md5(data).digest()
    return BoundPut(len(data), base64.b64encode(md5).decode(), base64.b64encode(sha256).decode(), until)


def botocore_client(place: ObjectPlace, region: str) -> Any:
    """Making one takes longer than a thousand signatures."""
    if (place.endpoint_url, region) not in _clients:
        _clients[place.endpoint_url, region] = boto3.client(
            "s3",
            endpoint_url=place.endpoint_url,
            region_name=region,
            aws_access_key_id=KEY.access_key,
            aws_secret_access_key=KEY.secret_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    return _clients[place.endpoint_url, region]


def by_botocore(
    operation: str, params: dict[str, Any], *, now: datetime, place: ObjectPlace, region: str, seconds: int
) -> str:
    client = botocore_client(place, region)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now.replace(tzinfo=None)):
        url: str = client.generate_presigned_url(
            operation, Params={"Bucket": place.bucket, "Key": place.key, **params}, ExpiresIn=seconds
        )
    return url


moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))
# No dot segments: the grants refuse them, and botocore's HTTP layer would fold them.
keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80).filter(
    lambda key: not key.startswith("/") and "." not in key.split("/") and ".." not in key.split("/")
)
endpoints = st.sampled_from(
    ["http://127.0.0.1:8001", "https://s3.example.org", "https://s3.example.org:443", "http://S3.example.org:80"]
)
regions = st.sampled_from(["us-east-1", "gra", "eu-west-3"])


@settings(max_examples=150, deadline=None)
@given(keys, st.binary(max_size=64), moments, moments, endpoints, regions, st.integers(1, 604800))
def test_an_upload_is_signed_byte_for_byte_as_botocore_does(
    key: str, data: bytes, now: datetime, until: datetime, endpoint: str, region: str, seconds: int
) -> None:
    place = ObjectPlace(endpoint, "backup-vault-one", key)
    put = a_put(data, until.replace(microsecond=0))

    ours = presign_put(
        signing_key=SigningKey(KEY.access_key, KEY.secret_key, region),
        now=now,
        place=place,
        put=put,
        lifetime=timedelta(seconds=seconds),
    )

    theirs = by_botocore(
        "put_object",
        {
            "ContentLength": put.size_bytes,
            "ContentMD5": put.md5_base64,
            "ChecksumSHA256": put.sha256_base64,
            "IfNoneMatch": "*",
            "ObjectLockMode": "COMPLIANCE",
            "ObjectLockRetainUntilDate": put.retain_until,
        },
        now=now,
        place=place,
        region=region,
        seconds=seconds,
    )
    assert ours == theirs


@settings(max_examples=100, deadline=None)
@given(keys, st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), moments, endpoints, regions)
def test_a_download_is_signed_byte_for_byte_as_botocore_does(
    key: str, version_id: str, now: datetime, endpoint: str, region: str
) -> None:
    place = ObjectPlace(endpoint, "backup-vault-one", key, version_id)

    ours = presign(
        signing_key=SigningKey(KEY.access_key, KEY.secret_key, region),
        now=now,
        method="GET",
        place=place,
        headers={},
        lifetime=LIFETIME,
    )

    assert ours == by_botocore(
        "get_object", {"VersionId": version_id}, now=now, place=place, region=region, seconds=900
    )


@given(moments, st.binary(max_size=32))
def test_every_upload_binds_all_of_it_at_whatever_time(now: datetime, data: bytes) -> None:
    url = presign_put(signing_key=KEY, now=now, place=PLACE, put=a_put(data), lifetime=LIFETIME)

    told = parse_qs(urlsplit(url).query)
    assert set(told["X-Amz-SignedHeaders"][0].split(";")) == MUST_BE_SIGNED
    assert told["X-Amz-Expires"] == ["900"]
    assert told["X-Amz-Date"] == [now.strftime("%Y%m%dT%H%M%SZ")]


@pytest.mark.parametrize("empty", ["md5_base64", "sha256_base64"])
def test_an_upload_without_a_hash_is_not_signed(empty: str) -> None:
    values: dict[str, Any] = {"size_bytes": 4, "md5_base64": "a", "sha256_base64": "b", "retain_until": NOW, empty: ""}

    with pytest.raises(ValueError, match="may not leave these to its holder"):
        presign_put(signing_key=KEY, now=NOW, place=PLACE, put=BoundPut(**values), lifetime=LIFETIME)


def test_the_holder_is_told_the_headers_that_were_signed() -> None:
    names = {name.lower() for name in a_put().headers()}

    assert names == MUST_BE_SIGNED - {"host"}


def test_a_lock_date_of_another_zone_is_told_in_utc() -> None:
    until = datetime(2027, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))

    assert a_put(until=until).headers()["x-amz-object-lock-retain-until-date"] == "2027-01-01T00:00:00Z"


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), LONGEST_LIFETIME + timedelta(seconds=1)])
def test_a_senseless_lifetime_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(ValueError, match="one second to seven days"):
        presign_put(signing_key=KEY, now=NOW, place=PLACE, put=a_put(), lifetime=lifetime)


def test_a_time_without_a_zone_is_refused() -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="without a zone"):
        presign_put(signing_key=KEY, now=naive, place=PLACE, put=a_put(), lifetime=LIFETIME)
    with pytest.raises(ValueError, match="without a zone"):
        presign_put(signing_key=KEY, now=NOW, place=PLACE, put=a_put(until=naive), lifetime=LIFETIME)


@pytest.mark.parametrize(
    "headers",
    [
        {"a\n": "b"},
        {"a": "b\nhost:evil"},
        {"a": "b\r"},
        {"": "b"},
        {"A": "1", "a": "2"},
        {"Host": "x"},
        {"host": "x"},
        {"a:": "b"},
    ],
)
def test_headers_that_could_be_read_in_two_ways_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be signed"):
        presign(signing_key=KEY, now=NOW, method="GET", place=PLACE, headers=headers, lifetime=LIFETIME)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://user:word@host", "http://host?x=1", "host:80"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the address of a store"):
        presign(signing_key=KEY, now=NOW, method="GET", place=ObjectPlace(url, "b", "k"), headers={}, lifetime=LIFETIME)


def test_the_secret_shows_nowhere() -> None:
    url = presign_put(signing_key=KEY, now=NOW, place=PLACE, put=a_put(), lifetime=LIFETIME)

    assert KEY.secret_key not in repr(KEY) and KEY.secret_key not in url
