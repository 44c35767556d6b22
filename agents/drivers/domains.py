"""What libvirt's description of a server (domain XML) tells: its disks, and what of it is kept with a backup."""

from __future__ import annotations

import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass

from agents.drivers.base import DiskMissingError, DriverError
from agents.drivers.virsh import HypervisorError, Virsh, domain, lines, option

_XML_MAX = 4 * 1024 * 1024


class ConfigurationError(DriverError):
    """A server's description cannot be used."""

    code = "bad_configuration"


class ServerExistsError(DriverError):
    """There is a server of that name on the node."""

    code = "server_exists"


@dataclass(frozen=True, slots=True)
class DomainDisk:
    """`target` is the guest's name of the disk, such as vda. `chain` has real paths, the present image first."""

    target: str
    format: str
    chain: tuple[str, ...]

    @property
    def path(self) -> str:
        return self.chain[0]

    @property
    def tells_changes(self) -> bool:
        """Only qcow2 keeps bitmaps of changed blocks."""
        return self.format == "qcow2"


@dataclass(frozen=True, slots=True)
class Domain:
    """`owner` is the user that its QEMU runs as, where libvirt says it."""

    uuid: str
    name: str
    state: str
    configuration: str
    disks: tuple[DomainDisk, ...]
    owner: int | None = None

    @property
    def is_off(self) -> bool:
        return self.state == "shut off"

    def disk_at(self, path: str) -> DomainDisk:
        """The disk with that image, also when newer layers lie over it."""
        for disk in self.disks:
            if path in disk.chain:
                return disk
        raise DiskMissingError(f"The server {self.name} has no disk at {path}. Was the disk detached or moved?")


def load_domain(virsh: Virsh, server: str) -> Domain:
    """The server of that UUID or name. Raises DiskMissingError when there is none."""
    for line in lines(virsh.run("list", "--all", "--uuid", "--name")):
        uuid, _, name = line.partition(" ")
        if server in (uuid, name.strip()):
            break
    else:
        raise DiskMissingError(f"The server {server or '(no name)'} is not on this node. Was it moved or removed?")
    state = state_of(virsh, uuid)
    present = parse_xml(virsh.run("dumpxml", domain(uuid)))
    kept = parse_xml(virsh.run("dumpxml", domain(uuid), "--inactive"))
    return Domain(uuid, name.strip(), state, without_secrets(kept), _disks(present), _owner(present))


def state_of(virsh: Virsh, uuid: str) -> str:
    return virsh.run("domstate", domain(uuid)).strip()


def parse_xml(text: str) -> ElementTree.Element:
    """Refuses document types, and with them entities: libvirt writes none."""
    if len(text) > _XML_MAX or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigurationError("The description of the server is too long or has a document type.")
    try:
        return ElementTree.fromstring(text)  # noqa: S314  # without a document type there are no entities to expand
    except ElementTree.ParseError as error:
        raise ConfigurationError(f"The description of the server is no XML: {error}.") from None


def without_secrets(root: ElementTree.Element) -> str:
    """libvirt leaves most passwords out by itself; what is left of them goes here."""
    for element in root.iter():
        for name in ("passwd", "passwdValidTo"):
            element.attrib.pop(name, None)
    for child in list(root):
        if child.tag.endswith("}commandline") and re.search("secret|passw", _text_of(child), re.IGNORECASE):
            root.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


def configuration_for(configuration: str, *, name: str, disks: Mapping[str, str]) -> str:
    """The description for a new server: its name, new identities, and the new path for that of each old image."""
    root = parse_xml(configuration)
    if root.tag != "domain" or root.find("devices") is None:
        raise ConfigurationError("This is no description of a server.")
    for tag in ("name", "uuid", "genid"):
        for element in root.findall(tag):
            root.remove(element)
    root.attrib.pop("id", None)
    ElementTree.SubElement(root, "name").text = name
    for nvram in root.findall("./os/nvram"):
        nvram.text = None
    for interface in root.findall("./devices/interface"):
        for mac in interface.findall("mac"):
            interface.remove(mac)
    _replace_disks(root, disks)
    return ElementTree.tostring(root, encoding="unicode")


def define_server(virsh: Virsh, configuration: str, *, name: str, disks: Mapping[str, str]) -> str:
    """Make a new server, shut off, of a description from a backup; returns its UUID.

    `disks` has the absolute path of the new image for that of each old one. UUID and MAC addresses are new. Raises
    ServerExistsError when the name is taken: nothing that exists is ever changed. ConfigurationError when a disk of
    the description has no new image, or one that is named is not in it.
    """
    text = configuration_for(configuration, name=name, disks=disks)
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            # There is no UUID in it, so libvirt refuses a name that is taken.
            virsh.run("define", option("file", file.name))
        except HypervisorError as error:
            if "already exists" in error.message:
                raise ServerExistsError(f"There is a server {name} already. Choose another name.") from error
            raise
    return load_domain(virsh, name).uuid


def format_of_new(path: str) -> str:
    """The format that an image gets which is made at this path."""
    return "qcow2" if path.endswith(".qcow2") else "raw"


def _replace_disks(root: ElementTree.Element, disks: Mapping[str, str]) -> None:
    new, left = {os.path.realpath(old): path for old, path in disks.items()}, {*map(os.path.realpath, disks)}
    for disk in root.findall("./devices/disk"):
        old = os.path.realpath(_path_of(disk) or "/")
        for tag in ("source", "backingStore", "mirror", "auth", "encryption"):
            for element in disk.findall(tag):
                disk.remove(element)
        if disk.get("device", "disk") not in ("disk", "lun"):
            continue  # a drive without its medium
        if old not in new:
            raise ConfigurationError(f"No new image is named for the disk {_target_of(disk)} of the server ({old}).")
        disk.set("type", "file")
        ElementTree.SubElement(disk, "source").set("file", new[old])
        driver = disk.find("driver")
        driver = driver if driver is not None else ElementTree.SubElement(disk, "driver", {"name": "qemu"})
        driver.set("type", format_of_new(new[old]))
        left.discard(old)
    if left:
        raise ConfigurationError(f"The server has no disk at {', '.join(sorted(left))}.")


def _disks(root: ElementTree.Element) -> tuple[DomainDisk, ...]:
    found = []
    for disk in root.findall("./devices/disk"):
        path = _path_of(disk)
        if disk.get("device", "disk") not in ("disk", "lun") or path is None:
            continue
        chain, layer = [path], disk.find("backingStore")
        while layer is not None and (below := _path_of(layer)) is not None:
            chain.append(below)
            layer = layer.find("backingStore")
        driver = disk.find("driver")
        image_format = driver.get("type", "raw") if driver is not None else "raw"
        found.append(DomainDisk(_target_of(disk), image_format, tuple(map(os.path.realpath, chain))))
    return tuple(found)


def _owner(root: ElementTree.Element) -> int | None:
    label = root.findtext("./seclabel[@model='dac']/label", "")
    found = re.match(r"\+?(\d+):", label)
    return int(found.group(1)) if found else None


def _path_of(element: ElementTree.Element) -> str | None:
    source = element.find("source")
    return (source.get("file") or source.get("dev")) if source is not None else None


def _target_of(disk: ElementTree.Element) -> str:
    target = disk.find("target")
    return target.get("dev", "") if target is not None else ""


def _text_of(element: ElementTree.Element) -> str:
    return " ".join(value for part in element.iter() for value in part.attrib.values())
