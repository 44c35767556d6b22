"""Points of ours at libvirt: checkpoints, each with a bitmap of what changed since in every disk that it covers.

All bitmaps go on recording until their checkpoint is removed, so none depends on another and a backup that fails
leaves the base as good as it was.
"""

from __future__ import annotations

import json
import logging
import os
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from agents.drivers.base import POINT_PREFIX, DriverError
from agents.drivers.domains import Domain, DomainDisk, parse_xml, state_of
from agents.drivers.qemu_images import image_facts, remove_bitmap
from agents.drivers.read_plans import BITMAP_LOST, DISK_REPLACED, LAYER_ADDED
from agents.drivers.virsh import HypervisorError, Virsh, domain, lines, option

logger = logging.getLogger(__name__)

# Path and inode.
ImageMark: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`sizes` has the bytes of each disk that it covers, by target, as they were; 0 where that is not known.

    `images` says which file the image was, where that is known.
    """

    name: str
    sizes: Mapping[str, int]
    images: Mapping[str, ImageMark]


def image_marks(disks: Iterable[DomainDisk]) -> dict[str, ImageMark]:
    """By target: path and number of the image's file."""
    return {disk.target: (disk.path, os.stat(disk.path).st_ino) for disk in disks}


def why_lost(disk: DomainDisk, point: Checkpoint) -> str:
    """The reason when the bitmap of a point that libvirt knows is not there or not sound."""
    path, inode = point.images.get(disk.target, (disk.path, 0))
    if path in disk.chain[1:]:
        return LAYER_ADDED
    if path != disk.path or (inode and os.stat(path).st_ino != inode):
        return DISK_REPLACED
    return BITMAP_LOST


def our_checkpoints(virsh: Virsh, uuid: str) -> dict[str, Checkpoint]:
    names = lines(virsh.run("checkpoint-list", domain(uuid), "--name"))
    return {name: _checkpoint(virsh, uuid, name) for name in names if name.startswith(POINT_PREFIX)}


def checkpoint_xml(
    name: str, sizes: Mapping[str, int], images: Mapping[str, ImageMark], *, made_before: bool = False
) -> str:
    """`made_before`: its bitmaps are in the images already."""
    root = ElementTree.Element("domaincheckpoint")
    ElementTree.SubElement(root, "name").text = name
    ElementTree.SubElement(root, "description").text = json.dumps({"sizes": dict(sizes), "images": dict(images)})
    if made_before:
        ElementTree.SubElement(root, "creationTime").text = str(int(time.time()))
    disks = ElementTree.SubElement(root, "disks")
    for target in sizes:
        ElementTree.SubElement(disks, "disk", name=target, checkpoint="bitmap", bitmap=name)
    return ElementTree.tostring(root, encoding="unicode")


def register_checkpoint(virsh: Virsh, uuid: str, text: str, *, folder: str) -> None:
    """Tell libvirt of a checkpoint whose bitmaps are in the images of a server that is shut off."""
    path = os.path.join(folder, "checkpoint.xml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        virsh.run("checkpoint-create", domain(uuid), option("xmlfile", path), "--redefine")
    finally:
        os.unlink(path)


def take_disk_out(virsh: Virsh, server: Domain, point: Checkpoint, disk: DomainDisk, *, folder: str) -> None:
    """Of a server that is shut off: the point says nothing of this disk any more. For the others it stays as it was."""
    others = {target: size_bytes for target, size_bytes in point.sizes.items() if target != disk.target}
    if not others:
        remove_checkpoint(virsh, server, point.name)
        return
    virsh.run("checkpoint-delete", domain(server.uuid), option("checkpointname", point.name), "--metadata")
    if point.name in image_facts(disk.path, disk.format).bitmaps:
        remove_bitmap(disk.path, point.name)
    text = checkpoint_xml(point.name, others, point.images, made_before=True)
    try:
        register_checkpoint(virsh, server.uuid, text, folder=folder)
    except DriverError as error:
        # It costs the others a full backup, and nothing else.
        logger.warning("a point could not be kept", extra={"point": point.name, "reason": error.message})
        remove_bitmaps(server, [point.name])


def remove_checkpoint(virsh: Virsh, server: Domain, name: str) -> bool:
    """Remove checkpoint and bitmaps; False when something stays that the next sweep has to try again."""
    try:
        if state_of(virsh, server.uuid) == "shut off":
            with suppress(HypervisorError):  # it may be bitmaps alone
                virsh.run("checkpoint-delete", domain(server.uuid), option("checkpointname", name), "--metadata")
            remove_bitmaps(server, [name])
        else:
            _remove_running(virsh, server.uuid, name)
    except DriverError as error:
        logger.warning("a point could not be removed", extra={"point": name, "reason": error.message})
        return False
    return True


def remove_bitmaps(server: Domain, names: Iterable[str]) -> None:
    """From the images of a server that is shut off. DiskBusyError when it was started meanwhile."""
    wanted = set(names)
    for disk in server.disks:
        if disk.tells_changes and os.path.exists(disk.path):
            for name in sorted(wanted & set(image_facts(disk.path, disk.format).bitmaps)):
                remove_bitmap(disk.path, name)


def _remove_running(virsh: Virsh, uuid: str, name: str) -> None:
    which = option("checkpointname", name)
    try:
        virsh.run("checkpoint-delete", domain(uuid), which)
    except HypervisorError as error:
        # Its bitmap is gone or broken: only what libvirt remembers of it is left. The rest goes when the server is off.
        if "bitmap" not in error.message:
            raise
        virsh.run("checkpoint-delete", domain(uuid), which, "--metadata")


def _checkpoint(virsh: Virsh, uuid: str, name: str) -> Checkpoint:
    text = virsh.run("checkpoint-dumpxml", domain(uuid), option("checkpointname", name), "--no-domain")
    root = parse_xml(text)
    known: dict[str, int] = {}
    images: dict[str, ImageMark] = {}
    with suppress(ValueError, KeyError, TypeError):
        told = json.loads(root.findtext("description", ""))
        known = dict(told["sizes"])
        images = {target: (str(path), int(inode)) for target, (path, inode) in told["images"].items()}
    covered = [disk.get("name", "") for disk in root.findall("./disks/disk") if disk.get("checkpoint") == "bitmap"]
    return Checkpoint(name, {target: known.get(target, 0) for target in covered}, images)
