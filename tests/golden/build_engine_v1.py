"""Makes the fixture and the pinned names of format version 1. Run once; never again after a release.

    python -m tests.golden.build_engine_v1

A later change of the writer must leave tests/golden/engine_v1 alone: old vaults look like that for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

from engine.store.base import ObjectRef
from engine.writer import WriteResult
from tests.engine.support import BLOCK_SIZE, Vault, noise

FOLDER = Path(__file__).parent / "engine_v1"


def golden_images() -> list[bytes]:
    """Noise, text, zeros, repeated blocks and an odd end; the second differs in four blocks and is longer."""
    first = noise(20 * BLOCK_SIZE) + b"compress me " * 500 + bytes(30 * BLOCK_SIZE) + noise(BLOCK_SIZE) * 3 + b"end"
    second = bytearray(first + noise(700, "grown"))
    second[5 * BLOCK_SIZE : 7 * BLOCK_SIZE] = noise(2 * BLOCK_SIZE, "changed")
    second[60 * BLOCK_SIZE : 61 * BLOCK_SIZE] = bytes(BLOCK_SIZE)
    return [first, bytes(second)]


def write_chain(vault: Vault, *, compression_level: int | None) -> list[WriteResult]:
    results: list[WriteResult] = []
    for image in golden_images():
        base = results[-1] if results else None
        results.append(vault.write(image, base=base, compression_level=compression_level))
    return results


def pinned_names() -> list[str]:
    """Keys of all objects of a chain with fixed randomness; uncompressed, so that no zstd version matters.

    HPKE draws its own randomness, so the wrapped keys are replaced by fixed bytes. One upload at a time: the store
    numbers versions as they arrive, and manifests name them.
    """
    vault = Vault(seed="pinned")
    wrapped = patch("engine.envelope._wrap", lambda secret, public, info: noise(144, "wrapped"))
    with wrapped, patch("engine.upload._THREADS", 1):
        write_chain(vault, compression_level=None)
    return [version.key for version in vault.store.list_versions()]


def main() -> None:
    vault = Vault(seed="golden")
    results = write_chain(vault, compression_level=3)
    FOLDER.mkdir(exist_ok=True)
    objects = {}
    for version in vault.store.list_versions():
        (FOLDER / f"{version.sha256}.bin").write_bytes(version.data)
        objects[version.key] = version.sha256
    description = {
        "objects": objects,
        "manifests": [_ref(result.manifest) for result in results],
        "tenant_private_key": vault.tenant_key.private.hex(),
        "writer_public_key": vault.writer_key.public.hex(),
        "pinned": pinned_names(),
    }
    (FOLDER / "index.json").write_text(json.dumps(description, indent=1) + "\n")


def _ref(ref: ObjectRef) -> dict[str, object]:
    return {"key": ref.key, "sha256": ref.sha256, "size_bytes": ref.size_bytes}


if __name__ == "__main__":
    main()
