"""Damage of file trees is listed by file, that of streams by range; both are checked with keys as disks are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups import verifier
from backups.checking import Outcome
from backups.content import open_content
from backups.damage import review_damage
from backups.lost_ranges import LISTED_PATH_BYTES, Loss, path_text
from backups.models import Backup
from backups.serializers import BackupDetailSerializer
from backups.states import BackupHealth
from engine.errors import DamagedError
from engine.fetching import RestoreKeys
from engine.index import resolve
from engine.stream_restore import restore_stream
from engine.stream_survey import AffectedRange, chunk_entries
from engine.tree_restore import TreeDamagedError, restore_tree
from tests.backups.library import Library, library
from tests.engine.support import noise
from tests.factories import make_person
from vaults.custody import session_data_keys
from vaults.damage import Damage
from vaults.models import StoredObject

__all__ = ["library"]

# No compression: the packs are filled by the sizes below.
PLAIN = {"compression_level": None}
ODD_NAME = b"\xff odd\\name"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(12):
        (root / f"file{number:02}").write_bytes(noise(3000, f"file {number}"))
    with open(bytes(root) + b"/" + ODD_NAME, "wb") as file:
        file.write(noise(3000, "odd"))
    (root / "empty").mkdir()
    return root


def review(library: Library) -> int:
    return review_damage(vault_id=library.vault.pk, now=library.now)


def verify(library: Library, backup: Backup) -> Any:
    job = verifier.request_verification(backup=library.fresh(backup), actor=None, now=library.now)
    verdict = verifier.verify_backup(job_id=job.pk, clock=library.clock, beat_seconds=3600)
    assert verdict is not None
    return verdict.outcome


def keys_of(library: Library, backup: Backup) -> RestoreKeys:
    content = open_content(library.fresh(backup))
    names = {session.session_id.hex() for session in content.body.sessions}
    data_keys = session_data_keys(library.domain, names)
    return RestoreKeys(content.keys, {bytes.fromhex(name): key for name, key in data_keys.items()})


def what_a_restore_misses(library: Library, backup: Backup, pack: StoredObject, target: Path) -> dict[str, list[Any]]:
    """Lost ranges by path, as a real restore without the pack tells them."""
    content = open_content(library.fresh(backup))
    target.mkdir()
    with pytest.raises(TreeDamagedError) as caught:
        restore_tree(
            manifest_ref=content.ref,
            object_source=content.source,
            keys=keys_of(library, backup),
            trusted_writers=[library.writer_key.public],
            target=target,
            gone_packs={bytes.fromhex(pack.sha256)},
        )
    return {path_text(file.path): [list(found) for found in file.ranges] for file in caught.value.result.damaged_files}


def test_a_lost_pack_shows_as_the_files_that_a_restore_would_miss(library: Library, tree: Path, tmp_path: Path) -> None:
    backup = library.write_tree(tree, **PLAIN)
    pack = library.needed(backup, "p")[1]
    missed = what_a_restore_misses(library, backup, pack, tmp_path / "target")
    library.mark(pack)

    assert review(library) == 1

    found = library.fresh(backup)
    assert found.health == BackupHealth.DAMAGED
    assert found.damaged_ranges == []
    shown = {item["path"]: covered(item["ranges"]) for item in found.damaged_files}
    assert shown == {path: covered(ranges) for path, ranges in missed.items()}
    assert 0 < len(shown) < 13
    assert found.damaged_bytes == sum(len(places) for places in shown.values())


def covered(ranges: list[Any]) -> set[int]:
    return {place for offset, length in ranges for place in range(offset, offset + length)}


def test_health_comes_back_with_the_pack(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree)
    pack = library.needed(backup, "p")[0]
    library.mark(pack)
    review(library)
    library.mend(pack)

    review(library)

    found = library.fresh(backup)
    assert (found.health, found.damage, found.damaged_bytes) == (BackupHealth.UNVERIFIED, [], 0)


def test_a_lost_page_of_names_is_listed_even_when_it_hides_no_byte(library: Library, tmp_path: Path) -> None:
    (tmp_path / "root" / "only a folder").mkdir(parents=True)
    backup = library.write_tree(tmp_path / "root")
    library.mark(*library.needed(backup, "i"))

    review(library)

    found = library.fresh(backup)
    assert (found.health, found.damaged_bytes) == (BackupHealth.DAMAGED, 0)
    [item] = found.damaged_files
    assert item == {"kind": "names", "path": "", "next_path": None, "lost_bytes": 0, "ranges": []}


def test_a_lost_page_of_names_counts_with_the_files_that_it_hides(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree)
    library.mark(*library.needed(backup, "i"))

    review(library)

    assert library.fresh(backup).damaged_bytes == 13 * 3000


def test_a_lost_envelope_costs_all_files(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree)
    library.mark(*library.needed(backup, "k"))

    review(library)

    assert {item["path"] for item in library.fresh(backup).damaged_files} >= {"file00", "file11"}
    assert library.fresh(backup).damaged_bytes == 13 * 3000


def test_a_name_that_is_no_text_is_shown_and_answered(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree)
    library.mark(*library.needed(backup, "p"))
    review(library)

    answer = BackupDetailSerializer(library.fresh(backup)).data

    assert "\\xff odd\\name" in {item["path"] for item in answer["damaged_files"]}
    assert (answer["damage"], answer["damaged_bytes"]) == ([], 13 * 3000)


def test_the_page_of_the_backup_names_the_files(library: Library, tree: Path, client: Any) -> None:
    backup = library.write_tree(tree)
    library.mark(*library.needed(backup, "p"))
    review(library)
    client.force_login(make_person("root", superadmin=True))

    text = client.get(f"/backups/{backup.pk}/").content.decode()

    assert "/file00" in text and "/file05" in text
    assert "and 3 more places" in text


def test_a_lost_pack_shows_as_the_ranges_of_a_stream(library: Library) -> None:
    data = noise(60_000)
    backup = library.write_stream(data, **PLAIN)
    pack = library.needed(backup, "p")[2]
    content = open_content(library.fresh(backup))
    library.mark(pack)

    review(library)
    with pytest.raises(DamagedError) as caught:
        restore_stream(
            manifest_ref=content.ref,
            object_source=content.source,
            keys=keys_of(library, backup),
            trusted_writers=[library.writer_key.public],
            output=io.BytesIO(),
            fill_damaged=True,
            gone_packs={bytes.fromhex(pack.sha256)},
        )

    found = library.fresh(backup)
    assert found.damaged_ranges == [list(place) for place in caught.value.ranges]
    assert found.damaged_files == []
    assert 0 < found.damaged_bytes < len(data)


# --- checks with keys -------------------------------------------------------------------------------------------------


def test_a_tree_and_a_stream_that_are_whole_are_verified(library: Library, tree: Path) -> None:
    backups = [library.write_tree(tree), library.write_stream(noise(20_000))]

    assert [verify(library, backup) for backup in backups] == [Outcome.VERIFIED] * 2
    assert {library.fresh(backup).health for backup in backups} == {BackupHealth.VERIFIED}


def spoilt_chunk(library: Library, backup: Backup) -> tuple[StoredObject, bytes]:
    """Spoil one chunk; its pack, and the chunk's content id."""
    content = open_content(library.fresh(backup))
    entries = chunk_entries(manifest=content.info, object_source=content.source, map_key=content.keys.map_key)
    entry = list(entries)[7]
    pack = StoredObject.objects.get(sha256=resolve(entry.object_name).hex())
    library.spoil(pack, at=entry.offset + 5)
    return pack, entry.content_id


def test_a_spoilt_chunk_is_blamed_on_its_pack_and_listed_by_file(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree, **PLAIN)
    pack, _ = spoilt_chunk(library, backup)

    assert verify(library, backup) == Outcome.DAMAGED

    assert StoredObject.objects.get(pk=pack.pk).damage == Damage.WRONG_BYTES
    assert not StoredObject.objects.exclude(pk=pack.pk).exclude(damage="").exists()
    assert library.fresh(backup).health == BackupHealth.DAMAGED
    assert library.fresh(backup).damaged_files


def test_a_spoilt_page_is_blamed_on_its_segment(library: Library, tree: Path) -> None:
    backup = library.write_tree(tree)
    [segment] = library.needed(backup, "i")
    library.spoil(segment, at=100)

    assert verify(library, backup) == Outcome.DAMAGED
    assert StoredObject.objects.get(pk=segment.pk).damage == Damage.WRONG_BYTES


def test_the_map_of_a_stream_is_walked_where_only_the_customer_has_the_key(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backups import checking

    def closed(*_: object, **__: object) -> None:
        raise checking.CustomerKeyNeededError("only the customer")

    monkeypatch.setattr(checking, "session_data_keys", closed)
    whole, broken = library.write_stream(noise(20_000)), library.write_stream(noise(20_000, "other"))
    library.spoil(library.needed(broken, "i")[0], at=100)

    assert verify(library, whole) == Outcome.VERIFIED_WITHOUT_KEY
    assert verify(library, broken) == Outcome.DAMAGED


# --- the list alone ---------------------------------------------------------------------------------------------------

_places = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c" * 50_000, b"d" * 60_000]), st.integers(0, 99), st.integers(1, 9)),
    max_size=60,
)


@given(_places, st.integers(1, 5))
def test_the_list_of_files_is_bounded_and_its_total_is_over_everything(
    places: list[tuple[bytes, int, int]], most: int
) -> None:
    found = [AffectedRange(path, offset, length) for path, offset, length in sorted(places)]

    loss = Loss.of_chunks(found, most=most)

    assert loss.total_bytes == sum(length for _, _, length in places)
    assert loss.is_empty == (not places)
    assert len(loss.files) <= most
    assert [file.path for file in loss.files] == sorted({path for path, _, _ in places})[: len(loss.files)]
    assert sum(len(file.path) for file in loss.files) <= LISTED_PATH_BYTES
    for file in loss.files:
        assert file.lost_bytes == sum(length for path, _, length in places if path == file.path)
        assert len(file.ranges) <= 10


def test_a_file_between_two_lost_pages_keeps_its_own_row() -> None:
    found = [
        AffectedRange(b"a", 0, None, b"b", 5),
        AffectedRange(b"b", 0, 3),
        AffectedRange(b"b", 9, 3),
        AffectedRange(b"b", 0, None, None, 7),
    ]

    loss = Loss.of_chunks(found, most=9)

    assert [(file.path, file.is_page, file.lost_bytes) for file in loss.files] == [
        (b"a", True, 5),
        (b"b", False, 6),
        (b"b", True, 7),
    ]
