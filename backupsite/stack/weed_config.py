"""The configuration files of the embedded object storage: who may do what, and every side door shut.

Measured against the server itself (tests/stack): with these files and flags the only way to its data is the S3 port
with one of the keys below. Of backups only the reaper may delete, and only versions without a lock; COMPLIANCE locks
hold against all of them. The provisioner may try everything on the probe's own objects (`probe/`), nothing on backups.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backupsite.stack.secret_files import S3Credential, write_private

_JWT_SECTIONS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_GRPC_SECTIONS = ("volume", "master", "filer", "s3", "msg_broker", "msg_agent", "admin", "worker", "client")


@dataclass(frozen=True, slots=True)
class S3Identity:
    """A key pair and the S3 actions it may use on objects, on the probe's own objects, and on buckets."""

    name: str
    credential: S3Credential = field(repr=False)
    object_actions: tuple[str, ...]
    bucket_actions: tuple[str, ...] = ()
    probe_actions: tuple[str, ...] = ()

    @property
    def policy(self) -> str:
        statements = [
            _statement("Allow", self.object_actions, "arn:aws:s3:::*/*"),
            _statement("Allow", self.probe_actions, "arn:aws:s3:::*/probe/*"),
            _statement("Allow", self.bucket_actions, "arn:aws:s3:::*"),
        ]
        if self.probe_actions:
            # A star spans slashes: without this line "probe" inside a name of a backup's object would open it.
            statements.append(_statement("Deny", ("s3:*",), "arn:aws:s3:::*/t/*"))
        return json.dumps({"Version": "2012-10-17", "Statement": [one for one in statements if one["Action"]]})


def _statement(effect: str, actions: tuple[str, ...], resource: str) -> dict[str, str | list[str]]:
    return {"Effect": effect, "Action": list(actions), "Resource": [resource]}


def stack_identities(credentials: Mapping[str, S3Credential]) -> tuple[S3Identity, ...]:
    """The keys of the stack. There is no administrator's key."""
    return (
        S3Identity(
            name="signer",
            credential=credentials["signer"],
            # A PUT with lock headers needs PutObjectRetention too, so the signer can also extend; it can never shorten.
            object_actions=("s3:PutObject", "s3:PutObjectRetention", "s3:GetObject", "s3:GetObjectVersion"),
        ),
        S3Identity(
            name="keeper",
            credential=credentials["keeper"],
            object_actions=("s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention", "s3:PutObjectRetention"),
            bucket_actions=(
                "s3:ListBucket",
                "s3:ListBucketVersions",
                "s3:GetBucketObjectLockConfiguration",
                "s3:GetBucketVersioning",
            ),
        ),
        S3Identity(
            name="provisioner",
            credential=credentials["provisioner"],
            object_actions=(),
            bucket_actions=(
                "s3:CreateBucket",
                "s3:ListBucket",
                "s3:ListAllMyBuckets",
                "s3:GetBucketLocation",
                "s3:GetBucketVersioning",
                "s3:GetBucketObjectLockConfiguration",
                "s3:PutBucketObjectLockConfiguration",
                # The probe must be the one whom the store itself refuses, not a policy before it.
                "s3:PutBucketVersioning",
                "s3:ListBucketVersions",
                "s3:GetLifecycleConfiguration",
                "s3:GetBucketPolicy",
                "s3:GetBucketPublicAccessBlock",
            ),
            probe_actions=(
                "s3:PutObject",
                "s3:PutObjectRetention",
                "s3:GetObject",
                "s3:GetObjectVersion",
                "s3:GetObjectRetention",
                "s3:DeleteObject",
                "s3:DeleteObjectVersion",
                "s3:BypassGovernanceRetention",
            ),
        ),
        S3Identity(
            name="copier",
            credential=credentials["copier"],
            # For what the service writes itself, always locked: it can neither read nor remove anything.
            object_actions=("s3:PutObject", "s3:PutObjectRetention"),
        ),
        S3Identity(name="reaper", credential=credentials["reaper"], object_actions=("s3:DeleteObjectVersion",)),
    )


def write_s3_config(path: Path, identities: Iterable[S3Identity]) -> None:
    known = tuple(identities)
    entries = [
        {
            "name": identity.name,
            "credentials": [{"accessKey": identity.credential.access_key, "secretKey": identity.credential.secret_key}],
            "policyNames": [identity.name],
        }
        for identity in known
    ]
    policies = [{"name": identity.name, "content": identity.policy} for identity in known]
    write_private(path, json.dumps({"identities": entries, "policies": policies}))


def write_security(path: Path, *, certificates: Path) -> None:
    """Keys for tokens between the server's parts (they live seconds, so new ones at each start) and mutual TLS."""
    lines = [line for section in _JWT_SECTIONS for line in (f"[{section}]", f'key = "{secrets.token_hex(32)}"')]
    lines += ["[access]", "ui = false", "[filer.expose_directory_metadata]", "enabled = false"]
    lines += ["[grpc]", f"ca = {_quoted(certificates / 'ca.pem')}"]
    for section in _GRPC_SECTIONS:
        lines += [
            f"[grpc.{section}]",
            f"cert = {_quoted(certificates / 'cert.pem')}",
            f"key = {_quoted(certificates / 'key.pem')}",
        ]
    write_private(path, "\n".join(lines) + "\n")


def write_filer(path: Path, *, database: Path) -> None:
    """SQLite for the names and locks of objects: it is synced to disk, the default store is not."""
    write_private(path, f"[leveldb2]\nenabled = false\n[sqlite]\nenabled = true\ndbFile = {_quoted(database)}\n")


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
