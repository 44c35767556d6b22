"""`root` of agent.toml: no policy says what of a server is protected, so its backups and the doctor do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.program.agent.moving import host_settings
from agents.program.agent.places import Places, Settings
from tests.agents.program_machine import POLICY, Machine
from tests.agents.stand_in import ControlPlane


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    plane = ControlPlane(policy=POLICY).start()
    machine = Machine(tmp_path, plane)
    yield machine
    machine.end()
    plane.stop()


def test_a_part_of_the_server_is_a_warning_of_each_backup_under_every_policy() -> None:
    for policy in (POLICY, None):
        told = host_settings(Places(Path("/etc/x"), Path("/var/x")), Settings(root="/srv"), policy)

        [warning] = told.warnings
        assert warning.code == "part_of_server"
        assert warning.message == "Only /srv of this server is in its backup: `root` of agent.toml there says so."


@pytest.mark.parametrize("root", ["/", "//", "/./", "/etc/.."])
def test_the_whole_server_needs_no_warning(root: str) -> None:
    assert host_settings(Places(Path("/etc/x"), Path("/var/x")), Settings(root=root), POLICY).warnings == ()


def test_the_doctor_names_the_part(machine: Machine) -> None:
    machine.enrol()

    # The service does not run, which is bad; the part is something to know.
    part = next(one for one in machine.json("doctor", code=1)["findings"] if one["name"] == "root")
    assert (part["said"], part["bad"]) == (f"only {machine.root} of this server is protected", False)
    assert "part_of_server" in part["advice"]

    machine.configure(root="/")
    assert not [one for one in machine.json("doctor", code=1)["findings"] if one["name"] == "root"]
