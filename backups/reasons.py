"""Why all of a disk was read although its driver can tell what changed, in words. Pure; the codes are stable."""

from __future__ import annotations

from collections.abc import Mapping

_WORDS: Mapping[str, str] = {
    "first_backup": "it is the first backup of this disk in its vault",
    "no_point": "the backup before it left nothing on the node to compare with",
    "restored_since": "the disk was restored since the backup before it",
    "base_unreadable": "the backup before it could not be read in the vault",
    "base_mismatch": "the backup before it was cut in other blocks",
    "point_missing": "the node no longer knows the point of the backup before it",
    "server_moved": "the server was moved here or defined anew since the backup before it",
    "disk_replaced": "the disk's image is another file than at the backup before it",
    "layer_added": "a newer layer (a snapshot) was laid over the disk's image",
    "bitmap_lost": "the node lost what it had noted since the backup before it",
    "disk_resized": "the disk has another size than at the backup before it",
    "format_without_changes": "the format of its image does not note what changes",
    "base_lost": "the snapshot of the backup before it is gone from its dataset",
    "target_changed": "the copies before it were changed on their storage",
}


def in_words(code: str) -> str:
    """The reason as the end of "Full, because ..."; a code of a driver that is not known here is shown as it is."""
    return _WORDS.get(code, code.replace("_", " "))
