"""A new disk image made a disk of a server that is shut off, by its description: bus and name as its other disks."""

from __future__ import annotations

import os
import string
import tempfile
import xml.etree.ElementTree as ElementTree
from itertools import product

from agents.drivers.base import DriverError
from agents.drivers.domains import Domain, format_of_new, load_domain, parse_xml, state_of
from agents.drivers.virsh import HypervisorError, Virsh, domain, option

# What the guest calls its disks depends on the bus.
_PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd", "fdc": "fd", "xen": "xvd"}
_USUAL_BUS = "virtio"


class CannotAttachError(DriverError):
    """The disk is there and the server is as it was. The message says what a person does next."""

    code = "not_attached"


def attach_disk(virsh: Virsh, server_name: str, path: str) -> str:
    """Attach the image to the server, which gets it at its next start; returns the guest's name of the disk.

    Does nothing when the server has it already. Raises CannotAttachError.
    """
    server = load_domain(virsh, server_name)
    real = os.path.realpath(path)
    for disk in server.disks:
        if real in disk.chain:
            return disk.target
    bus, target = _free_place(parse_xml(server.configuration))
    told = _next_step(server, real, target)
    if state_of(virsh, server.uuid) != "shut off":
        raise CannotAttachError(f"The server {server.name} runs, so {told}")
    with tempfile.NamedTemporaryFile("w", suffix=".xml", encoding="utf-8") as file:
        file.write(_device(real, bus, target))
        file.flush()
        try:
            virsh.run("attach-device", domain(server.uuid), option("file", file.name), "--config")
        except HypervisorError as error:
            raise CannotAttachError(f"{error.message} So {told}") from error
    return target


def _next_step(server: Domain, path: str, target: str) -> str:
    image_format = format_of_new(path)
    command = f"virsh attach-disk {server.uuid} {path} {target} --subdriver {image_format} --persistent"
    return f"the disk is there and not attached. Attach it with: {command}"


def _device(path: str, bus: str, target: str) -> str:
    disk = ElementTree.Element("disk", type="file", device="disk")
    ElementTree.SubElement(disk, "driver", name="qemu", type=format_of_new(path))
    ElementTree.SubElement(disk, "source", file=path)
    ElementTree.SubElement(disk, "target", dev=target, bus=bus)
    return ElementTree.tostring(disk, encoding="unicode")


def _free_place(root: ElementTree.Element) -> tuple[str, str]:
    """The bus of the first disk that tells it, and the first name on it that nothing has."""
    targets = root.findall("./devices/disk/target")
    disks = root.findall("./devices/disk[@device='disk']/target")
    bus = next((name for disk in disks if (name := disk.get("bus", "")) in _PREFIXES), _USUAL_BUS)
    taken = {target.get("dev") for target in targets}
    letters = string.ascii_lowercase
    names = [*letters, *(first + second for first, second in product(letters, repeat=2))]
    return bus, next(name for letter in names if (name := _PREFIXES[bus] + letter) not in taken)
