"""`check`: is every object there that any backup needs, and, when asked, does every byte have its hash?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from engine.alone.bucket import Bucket, BucketSource
from engine.alone.catalogue import FoundManifest, OpenDomain, read_manifests
from engine.alone.layout import sha256_of_key
from engine.alone.moves import Moves
from engine.alone.parallel import REQUESTS_AT_ONCE, ordered_results
from engine.codec import OBJECT_SIZE_MAX
from engine.errors import EngineError, FormatError, IntegrityError, StoreError, StoreNotFoundError
from engine.manifest import ManifestBody
from engine.store.base import ObjectKind, ObjectRef, fetch_whole

# Whole packs of up to 64 MiB are in memory while they are hashed.
_PACKS_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class BadObject:
    """`problem`: `missing`, `unreadable` or `damaged`. `backups`: the hashes of the manifests that need it."""

    key: str
    problem: str
    backups: tuple[str, ...]


@dataclass(slots=True)
class CheckResult:
    backup_count: int = 0
    object_count: int = 0
    read_bytes: int = 0
    bad_objects: list[BadObject] = field(default_factory=list)
    bad_manifests: list[FoundManifest] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.bad_objects and not self.bad_manifests


def check_domain(
    bucket: Bucket, domain: OpenDomain, *, read_data: bool, tell: Callable[[CheckResult], None] = lambda _: None
) -> CheckResult:
    """Each object once, however many backups share it; manifests are read again only to name those that are hit."""
    result = CheckResult()
    moves = Moves(bucket, domain)
    needed = _needed(bucket, domain, result)
    for ref in moves.pack_refs():
        needed.setdefault(bytes.fromhex(ref.sha256), ref)
    checker = _Checker(BucketSource(bucket), read_data=read_data)
    problems: dict[str, str] = {}
    at_once = _PACKS_AT_ONCE if read_data else REQUESTS_AT_ONCE
    for ref, problem in ordered_results(checker.check, needed.values(), at_once=at_once):
        result.object_count += 1
        result.read_bytes += ref.size_bytes if read_data else 0
        if problem is not None:
            problems[ref.key] = problem
        tell(result)
    result.bad_objects = _affected(bucket, domain, problems, moves)
    return result


def _needed(bucket: Bucket, domain: OpenDomain, result: CheckResult) -> dict[bytes, ObjectRef]:
    needed: dict[bytes, ObjectRef] = {}
    for found in read_manifests(bucket, domain):
        if found.body is None:
            result.bad_manifests.append(found)
            continue
        result.backup_count += 1
        for ref in found.body.needed_refs():
            needed.setdefault(bytes.fromhex(ref.sha256), ref)
    return needed


class _Checker:
    """Thread-safe."""

    def __init__(self, source: BucketSource, *, read_data: bool) -> None:
        self._source = source
        self._read_data = read_data

    def check(self, ref: ObjectRef) -> tuple[ObjectRef, str | None]:
        try:
            if not self._read_data:
                self._source.locate(ref)
                return ref, None
        except StoreNotFoundError:
            return ref, "missing"
        except (IntegrityError, StoreError) as error:
            _raise_transient(error)
        # A first bad look is not yet damage: the bytes decide.
        return ref, self._read_twice(ref)

    def _read_twice(self, ref: ObjectRef) -> str | None:
        return self._read(ref) and self._read(ref)

    def _read(self, ref: ObjectRef) -> str | None:
        try:
            fetch_whole(self._source, ref, size_max=OBJECT_SIZE_MAX)
        except StoreNotFoundError:
            return "missing"
        except StoreError as error:
            _raise_transient(error)
            return "unreadable"
        except (IntegrityError, FormatError):
            return "damaged"
        return None


def _raise_transient(error: EngineError) -> None:
    """Trouble of the whole store ends the check; trouble with one object is a finding."""
    if error.transient:
        raise error


def _affected(bucket: Bucket, domain: OpenDomain, problems: Mapping[str, str], moves: Moves) -> list[BadObject]:
    if not problems:
        return []
    bad_packs = {bytes.fromhex(sha256_of_key(key)) for key in problems}
    backups: dict[str, list[str]] = {key: [] for key in problems}
    for found in read_manifests(bucket, domain):
        if found.body is None or found.ref is None:
            continue
        hit = {ref.key for ref in found.body.needed_refs() if ref.key in problems}
        hit -= _replaced_envelopes(found.body, domain, hit)
        hit -= _moved_packs(found.body, found.ref, hit, moves, bad_packs)
        for key in hit:
            backups[key].append(found.place.sha256)
    return [BadObject(key, problems[key], tuple(names)) for key, names in sorted(backups.items()) if names]


def _replaced_envelopes(body: ManifestBody, domain: OpenDomain, hit: Collection[str]) -> set[str]:
    """Envelopes that are not needed any more, because another one holds the session's key for us."""
    keys = {body.object_ref(ObjectKind.KEY, session.envelope).key: session for session in body.sessions}
    return {key for key in keys.keys() & hit if domain.keyring.other_data_key(keys[key]) is not None}


def _moved_packs(
    body: ManifestBody, ref: ObjectRef, hit: Collection[str], moves: Moves, bad_packs: Collection[bytes]
) -> set[str]:
    """Packs that are not needed any more, because all of their blocks lie elsewhere."""
    keys = {body.object_ref(ObjectKind.PACK, entry).key: entry for entry in body.packs}
    packs = {key: keys[key] for key in keys.keys() & hit}
    return set(packs) if packs and moves.is_whole(ref, packs.values(), bad_packs=bad_packs) else set()
