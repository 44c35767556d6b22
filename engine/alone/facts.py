"""What a backup keeps of its server beside the data: disk layout, boot and packages of a whole server, or a virtual
server's own definition.

It lies sealed in the manifest, as one text that the machine wrote which made the backup: nothing of it is trusted to
have a form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.alone.bucket import Bucket, BucketSource
from engine.alone.catalogue import FoundManifest, OpenDomain
from engine.alone.finding import NothingFoundError
from engine.errors import EngineError
from engine.repository import open_manifest

# What is no JSON object, such as the XML of a virtual server, is one part of this name.
_WHOLE = "configuration"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """`parts` by name, in the order of the text, such as `partition_tables/sda` and `files/etc/fstab`."""

    backup: str
    parts: Mapping[str, str]

    def part(self, name: str) -> str:
        """NothingFoundError when there is none of the name; it says which there are."""
        if name not in self.parts:
            there = ", ".join(self.parts)
            raise NothingFoundError(f"these facts have no part {name!r}, only: {there}", code="unknown_part")
        return self.parts[name]


def read_facts(bucket: Bucket, domain: OpenDomain, found: FoundManifest) -> ServerFacts:
    """NothingFoundError (no_facts) for a backup that keeps none; else what reading a manifest raises."""
    if found.ref is None:
        raise found.problem or EngineError("the manifest was not read")
    info = open_manifest(
        manifest_ref=found.ref,
        object_source=BucketSource(bucket),
        trusted_writers=domain.description.body.writers,
        map_key=domain.domain_keys.map_key,
    )
    told = (info.source_facts or {}).get("configuration")
    if not isinstance(told, str) or not told:
        message = "this backup keeps no facts of its server: whole servers and virtual servers have them"
        raise NothingFoundError(message, code="no_facts")
    return ServerFacts(found.place.sha256, dict(_parts(told)))


def _parts(told: str) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(told)
    # Nested thousandfold is no layout.
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        yield _WHOLE, told
        return
    for name, part in value.items():
        if isinstance(part, dict):
            yield from ((f"{name}/{inner.lstrip('/')}", _text(one)) for inner, one in part.items())
        else:
            yield name, _text(part)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
