"""What each key of the stack can do, tried one by one against the server: the table below is the documentation."""

from __future__ import annotations

import datetime
import itertools
import json
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError

from backupsite.stack.weed import EmbeddedWeed

from .conftest import s3_client

pytestmark = pytest.mark.stack

BUCKET = "identities"
KEYS = ("signer", "keeper", "provisioner", "reaper", "copier")
_numbers = itertools.count()


def later(seconds: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


class Objects:
    """One locked and one unlocked object, made anew for each attempt by a key that may do everything."""

    def __init__(self, root: Any, folder: str = "") -> None:
        number = next(_numbers)
        self.locked, self.unlocked, self.fresh = (f"{folder}{name}-{number}" for name in ("locked", "unlocked", "new"))
        lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": later(3600)}
        self.locked_version = root.put_object(Bucket=BUCKET, Key=self.locked, Body=b"1", **lock)["VersionId"]
        self.unlocked_version = root.put_object(Bucket=BUCKET, Key=self.unlocked, Body=b"2")["VersionId"]

    @property
    def locked_one(self) -> dict[str, str]:
        return {"Bucket": BUCKET, "Key": self.locked, "VersionId": self.locked_version}

    @property
    def unlocked_one(self) -> dict[str, str]:
        return {"Bucket": BUCKET, "Key": self.unlocked, "VersionId": self.unlocked_version}


def retain(mode: str, seconds: int) -> dict[str, Any]:
    return {"Retention": {"Mode": mode, "RetainUntilDate": later(seconds)}}


LOCK = {"ObjectLockMode": "COMPLIANCE"}
OPEN_TO_ALL = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}
OPEN_POLICY = json.dumps({"Version": "2012-10-17", "Statement": [OPEN_TO_ALL]})
EXPIRE = {"Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}
Attempt = Callable[[Any, Objects], Any]
ATTEMPTS: dict[str, tuple[set[str], Attempt]] = {
    "write": ({"signer", "copier"}, lambda c, o: c.put_object(Bucket=BUCKET, Key=o.fresh, Body=b"x")),
    "write locked": (
        {"signer", "copier"},
        lambda c, o: c.put_object(Bucket=BUCKET, Key=o.fresh, Body=b"x", **LOCK, ObjectLockRetainUntilDate=later(60)),
    ),
    "start multipart": ({"signer", "copier"}, lambda c, o: c.create_multipart_upload(Bucket=BUCKET, Key=o.fresh)),
    "copy": (
        {"signer"},
        lambda c, o: c.copy_object(Bucket=BUCKET, Key=o.fresh, CopySource={"Bucket": BUCKET, "Key": o.locked}),
    ),
    "read": ({"signer", "keeper"}, lambda c, o: c.get_object(Bucket=BUCKET, Key=o.locked)),
    "read version": ({"signer", "keeper"}, lambda c, o: c.get_object(**o.locked_one)),
    "head version": ({"signer", "keeper"}, lambda c, o: c.head_object(**o.locked_one)),
    "read retention": ({"keeper"}, lambda c, o: c.get_object_retention(**o.locked_one)),
    "extend": (
        {"signer", "keeper", "copier"},
        lambda c, o: c.put_object_retention(**o.locked_one, **retain("COMPLIANCE", 7200)),
    ),
    "lock unlocked": (
        {"signer", "keeper", "copier"},
        lambda c, o: c.put_object_retention(**o.unlocked_one, **retain("COMPLIANCE", 60)),
    ),
    "list": ({"keeper", "provisioner"}, lambda c, o: c.list_objects_v2(Bucket=BUCKET)),
    "list versions": ({"keeper", "provisioner"}, lambda c, o: c.list_object_versions(Bucket=BUCKET)),
    "list buckets with names": ({"keeper", "provisioner"}, lambda c, o: _names(c.list_buckets())),
    "head bucket": ({"keeper", "provisioner"}, lambda c, o: c.head_bucket(Bucket=BUCKET)),
    "read versioning": ({"keeper", "provisioner"}, lambda c, o: c.get_bucket_versioning(Bucket=BUCKET)),
    "read lock configuration": ({"keeper", "provisioner"}, lambda c, o: c.get_object_lock_configuration(Bucket=BUCKET)),
    "create locked bucket": (
        {"provisioner"},
        lambda c, o: c.create_bucket(Bucket=o.fresh, ObjectLockEnabledForBucket=True),
    ),
    "set default retention": (
        {"provisioner"},
        lambda c, o: c.put_object_lock_configuration(
            Bucket=BUCKET, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
        ),
    ),
    "shorten": (set(), lambda c, o: c.put_object_retention(**o.locked_one, **retain("COMPLIANCE", 60))),
    "shorten with bypass": (
        set(),
        lambda c, o: c.put_object_retention(**o.locked_one, **retain("COMPLIANCE", 60), BypassGovernanceRetention=True),
    ),
    "downgrade": (set(), lambda c, o: c.put_object_retention(**o.locked_one, **retain("GOVERNANCE", 7200))),
    "delete locked version": (set(), lambda c, o: c.delete_object(**o.locked_one)),
    "delete locked version with bypass": (
        set(),
        lambda c, o: c.delete_object(**o.locked_one, BypassGovernanceRetention=True),
    ),
    "delete unlocked version": ({"reaper"}, lambda c, o: c.delete_object(**o.unlocked_one)),
    "delete without version": (set(), lambda c, o: c.delete_object(Bucket=BUCKET, Key=o.unlocked)),
    "delete many": ({"reaper"}, lambda c, o: _deleted(c, o)),
    "legal hold": (set(), lambda c, o: c.put_object_legal_hold(**o.locked_one, LegalHold={"Status": "ON"})),
    "change acl": (set(), lambda c, o: c.put_object_acl(Bucket=BUCKET, Key=o.locked, ACL="public-read")),
    "tag": (set(), lambda c, o: c.put_object_tagging(**o.locked_one, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})),
    "suspend versioning": (
        set(),
        lambda c, o: c.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}),
    ),
    "bucket policy": (set(), lambda c, o: c.put_bucket_policy(Bucket=BUCKET, Policy=OPEN_POLICY)),
    "lifecycle": (
        set(),
        lambda c, o: c.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration=EXPIRE),
    ),
    "delete bucket": (set(), lambda c, o: c.delete_bucket(Bucket=BUCKET)),
    "delete empty bucket": (set(), lambda c, o: c.delete_bucket(Bucket="empty-bucket")),
}


# Here the key has the right, so that the probe sees the store itself refuse.
REFUSED_BY_THE_STORE = {("provisioner", "suspend versioning"): 409}
DELETES_UNLOCKED = {"delete unlocked version", "delete many"}


def _names(answer: Any) -> None:
    if not answer["Buckets"]:
        raise _refused("ListBuckets")


def _deleted(client: Any, objects: Objects) -> None:
    asked = {"Objects": [{"Key": objects.unlocked, "VersionId": objects.unlocked_version}]}
    if not client.delete_objects(Bucket=BUCKET, Delete=asked).get("Deleted"):
        raise _refused("DeleteObjects")


def _refused(operation: str) -> ClientError:
    answer: Any = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    return ClientError(answer, operation)


@pytest.fixture(scope="module")
def root(weed: EmbeddedWeed) -> Any:
    client = s3_client(weed.url, weed.credentials["root"])
    client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    client.create_bucket(Bucket="empty-bucket")
    return client


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_key_can_do_exactly_this(weed: EmbeddedWeed, root: Any, key: str, what: str) -> None:
    allowed, attempt = ATTEMPTS[what]
    objects = Objects(root)

    try:
        attempt(s3_client(weed.url, weed.credentials[key]), objects)
        worked = True
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == REFUSED_BY_THE_STORE.get((key, what), 403)
        worked = False

    assert worked == (key in allowed)
    assert root.get_object(**objects.locked_one)["Body"].read() == b"1"
    if not (worked and what in DELETES_UNLOCKED):
        assert root.get_object(**objects.unlocked_one)["Body"].read() == b"2"


def test_not_even_a_key_for_everything_removes_or_shortens_a_compliance_lock(root: Any) -> None:
    objects = Objects(root)

    for attempt in (
        "delete locked version",
        "delete locked version with bypass",
        "shorten",
        "shorten with bypass",
        "downgrade",
    ):
        with pytest.raises(ClientError) as caught:
            ATTEMPTS[attempt][1](root, objects)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403

    assert root.get_object(**objects.locked_one)["Body"].read() == b"1"


def test_a_presigned_put_of_the_signer_works(weed: EmbeddedWeed, root: Any) -> None:
    url = s3_client(weed.url, weed.credentials["signer"]).generate_presigned_url(
        "put_object", Params={"Bucket": BUCKET, "Key": "signed", **LOCK, "ObjectLockRetainUntilDate": later(60)}
    )
    headers = {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": _date_in(url)}

    request = urllib.request.Request(url, data=b"body", method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        version = answer.headers["x-amz-version-id"]

    head = root.head_object(Bucket=BUCKET, Key="signed", VersionId=version)
    assert head["ObjectLockMode"] == "COMPLIANCE"


def _date_in(url: str) -> str:
    found = parse_qs(urlsplit(url).query)
    return found.get("x-amz-object-lock-retain-until-date", [later(60).strftime("%Y-%m-%dT%H:%M:%SZ")])[0]


PROBE_RIGHTS: dict[str, tuple[bool, Attempt]] = {
    "write": (True, lambda c, o: c.put_object(Bucket=BUCKET, Key=o.fresh, Body=b"x")),
    "read": (True, lambda c, o: c.get_object(**o.locked_one)),
    "lay a marker": (True, lambda c, o: c.delete_object(Bucket=BUCKET, Key=o.unlocked)),
    "delete unlocked version": (True, lambda c, o: c.delete_object(**o.unlocked_one)),
    "extend": (True, lambda c, o: c.put_object_retention(**o.locked_one, **retain("COMPLIANCE", 7200))),
    "delete locked version with bypass": (
        False,
        lambda c, o: c.delete_object(**o.locked_one, BypassGovernanceRetention=True),
    ),
    "shorten with bypass": (
        False,
        lambda c, o: c.put_object_retention(**o.locked_one, **retain("COMPLIANCE", 60), BypassGovernanceRetention=True),
    ),
}


@pytest.mark.parametrize("what", PROBE_RIGHTS)
def test_the_provisioner_can_do_this_to_what_the_probe_wrote(weed: EmbeddedWeed, root: Any, what: str) -> None:
    allowed, attempt = PROBE_RIGHTS[what]

    assert _works(attempt, s3_client(weed.url, weed.credentials["provisioner"]), Objects(root, "probe/")) == allowed


@pytest.mark.parametrize("folder", ["t/one/", "t/one/probe/", "probes/", ""])
@pytest.mark.parametrize("what", PROBE_RIGHTS)
def test_the_provisioner_can_do_nothing_to_backups(weed: EmbeddedWeed, root: Any, what: str, folder: str) -> None:
    attempt = PROBE_RIGHTS[what][1]

    assert not _works(attempt, s3_client(weed.url, weed.credentials["provisioner"]), Objects(root, folder))


def _works(attempt: Attempt, client: Any, objects: Objects) -> bool:
    try:
        attempt(client, objects)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        return False
    return True
