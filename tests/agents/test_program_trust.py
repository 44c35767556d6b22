"""Whom the agent program trusts: pinned keys of TLS, signed releases, programs of root."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import socket
import ssl
import tarfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agents.agent_messages import JobOffer, ReleaseManifest, UpdateOffer
from agents.answer_signing import sign_release
from agents.program.agent.daemon import Trial
from agents.program.agent.errors import NotTrustedError, UpdateError, UsageError
from agents.program.agent.hooks import HookError, hooks_around
from agents.program.agent.tls import Endpoint, connect, read_url, trust_this_system
from agents.program.agent.update import Installation, checked_release, install_release
from engine.crypto import generate_writer_key
from tests.agents.test_program_loop import Mover, World

_CURVE = ec.SECP256R1()


class Authority:
    """A certificate authority that the system trusts, and servers with certificates of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(_CURVE)
        self.certificate = self._signed("ca", self.key, days=(-1, 1), is_authority=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, *, days: tuple[int, int] = (-1, 1)) -> tuple[ssl.SSLContext, bytes]:
        """Its TLS, and the hash of its public key."""
        key = ec.generate_private_key(_CURVE)
        encoding = serialization.Encoding
        private = key.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = self.folder / f"{name}.pem"
        path.write_bytes(private + self._signed(name, key, days=days).public_bytes(encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        public = key.public_key().public_bytes(encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return context, hashlib.sha256(public).digest()

    def _signed(self, name: str, key: Any, *, days: tuple[int, int], is_authority: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + timedelta(days=days[0])).not_valid_after(now + timedelta(days=days[1]))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        address = x509.IPAddress(ip_address("127.0.0.1"))
        return builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(
            self.key, hashes.SHA256()
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def served(context: ssl.SSLContext) -> Iterator[Endpoint]:
    """A server that shakes hands until nobody comes any more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listening.accept()
                    context.wrap_socket(raw, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield Endpoint(True, "127.0.0.1", listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.case("AG-12")
def test_a_key_that_is_not_the_pinned_one_is_refused_though_the_system_trusts_it(authority: Authority) -> None:
    theirs, pin_of_theirs = authority.server("control plane")
    middle, pin_of_middle = authority.server("somebody between")
    for endpoint in served(middle):
        ca = str(authority.file)
        # Without a pin it would be let in: this is what the pin is for.
        connect(endpoint, pins=[], ca_file=ca).close()
        with pytest.raises(NotTrustedError) as refused:
            connect(endpoint, pins=[pin_of_theirs], ca_file=ca)
        assert refused.value.code == "wrong_tls_key"
        connect(endpoint, pins=[pin_of_theirs, pin_of_middle], ca_file=ca).close()
    for endpoint in served(theirs):
        with pytest.raises(NotTrustedError, match="ca_file"):
            connect(endpoint, pins=[pin_of_theirs])


@pytest.mark.case("AG-05")
@pytest.mark.parametrize("days", [(-900, -800), (800, 900)], ids=["this clock is ahead", "this clock is behind"])
def test_with_a_wrong_clock_the_pin_alone_says_who_it_is(authority: Authority, days: tuple[int, int]) -> None:
    context, pin = authority.server("control plane", days=days)
    for endpoint in served(context):
        ca = str(authority.file)
        with pytest.raises(NotTrustedError, match="clock"):
            connect(endpoint, pins=[], ca_file=ca)
        with pytest.raises(NotTrustedError):
            connect(endpoint, pins=[bytes(32)], ca_file=ca)
        connect(endpoint, pins=[pin], ca_file=ca).close()


def test_a_frozen_program_trusts_what_the_system_trusts_unless_it_was_told_otherwise(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("debian", "rhel", "suse")]
    environment: dict[str, str] = {}
    trust_this_system(environment, files)
    assert environment == {}
    for name in files[1:]:
        Path(name).touch()
    trust_this_system(environment, files)
    assert environment == {"SSL_CERT_FILE": files[1]}
    told = {"SSL_CERT_DIR": "/srv/certificates"}
    trust_this_system(told, files)
    assert told == {"SSL_CERT_DIR": "/srv/certificates"}


@pytest.mark.parametrize(
    "url",
    ["http://backup.example.com", "ftp://a", "https://u@h", "https://h/?x", "https://h:99999", "h", "https://", ""],
)
def test_addresses_that_are_none_of_a_control_plane(url: str) -> None:
    with pytest.raises(UsageError):
        read_url(url)


def test_addresses_of_control_planes() -> None:
    found = [read_url(url).url for url in ("https://h/", "https://h:8443/a/", "http://127.0.0.1:80", "https://[::1]:1")]
    assert found == ["https://h", "https://h:8443/a", "http://127.0.0.1", "https://[::1]:1"]


# --- releases ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Releases:
    """Where releases are made, and one machine that runs number 7."""

    folder: Path

    def __post_init__(self) -> None:
        self.key = generate_writer_key()
        self.installation = Installation(self.folder)
        self.files: dict[str, bytes] = {}
        self._program(7)
        self.installation.switch(7)

    def _program(self, number: int) -> None:
        program = self.installation.folder(number) / "bin/backupsite-agent"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")

    def offer(
        self, number: int, *, said: str = "", key: Any = None, member: str = "bin/backupsite-agent"
    ) -> UpdateOffer:
        data = io.BytesIO()
        script = f"#!/bin/sh\necho {said or f'backupsite-agent 9.{number} release 0'}\n".encode()
        with tarfile.open(fileobj=data, mode="w:gz") as tar:
            found = tarfile.TarInfo(member)
            found.size, found.mode = len(script), 0o755
            tar.addfile(found, io.BytesIO(script))
        content = data.getvalue()
        name = f"backupsite-agent-9.{number}.tar.gz"
        self.files[name] = content
        manifest = msgspec.json.encode(
            ReleaseManifest(number, f"9.{number}", name, len(content), hashlib.sha256(content).hexdigest())
        )
        return UpdateOffer(manifest, sign_release(private_key=(key or self.key).private, manifest=manifest))

    def take(self, offer: UpdateOffer, *, failed: int = 0) -> None:
        running = self.installation.current
        manifest = checked_release(offer, release_key=self.key.public, running=running, failed=failed)
        install_release(manifest, self.installation, self._fetch)

    def _fetch(self, file: str, to: Path, *, size_bytes: int) -> str:
        to.write_bytes(self.files[file])
        return hashlib.sha256(self.files[file]).hexdigest() if len(self.files[file]) == size_bytes else ""


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


@pytest.mark.case("AG-06", "AG-08")
def test_a_release_is_taken_tried_and_kept_or_gone_back_from(releases: Releases) -> None:
    at = releases.installation
    releases.take(releases.offer(8))
    assert at.current == 8 and at.trial() is not None and at.folder(7).is_dir()
    at.confirm()
    assert at.trial() is None and sorted(path.name for path in (at.programs / "releases").iterdir()) == ["7", "8"]
    releases.take(releases.offer(9))
    assert at.go_back() == 9 and at.current == 8 and at.failed() == 9 and at.trial() is None
    with pytest.raises(UpdateError, match="not newer"):
        releases.take(releases.offer(9), failed=at.failed())
    releases.take(releases.offer(10), failed=at.failed())
    at.confirm()
    assert at.current == 10 and at.go_back() == 0
    assert sorted(path.name for path in (at.programs / "releases").iterdir()) == ["10", "8"]


@pytest.mark.case("AG-08")
def test_a_release_that_is_not_right_is_refused_and_nothing_of_it_stays(releases: Releases) -> None:
    good = releases.offer(8)
    tampered = releases.offer(12)
    releases.files["backupsite-agent-9.12.tar.gz"] += b"x"
    changed = releases.offer(13)
    content = bytearray(releases.files["backupsite-agent-9.13.tar.gz"])
    content[30] ^= 1
    releases.files["backupsite-agent-9.13.tar.gz"] = bytes(content)
    bad = {
        "not signed": [
            UpdateOffer(good.manifest, bytes(64)),
            UpdateOffer(good.manifest.replace(b"9.8", b"9.9"), good.signature),
            releases.offer(11, key=generate_writer_key()),
        ],
        "not newer": [releases.offer(7), releases.offer(6)],
        "not the one that was signed": [tampered, changed],
        "cannot be unpacked": [releases.offer(15, member="../../outside")],
        "does not start here|is not version": [releases.offer(16, said="something else")],
        "names no file": [_named(releases, "../x.tar.gz"), _named(releases, "x" * 200)],
        "no program that starts": [releases.offer(17, member="lib/other")],
    }
    for why, offers in bad.items():
        for offer in offers:
            with pytest.raises(UpdateError, match=why):
                releases.take(offer)
    assert releases.installation.current == 7 and releases.installation.trial() is None
    assert [path.name for path in (releases.folder / "releases").iterdir()] == ["7"]
    assert not (releases.folder.parent / "outside").exists()
    with pytest.raises(UpdateError, match="by hand"):
        checked_release(good, release_key=b"", running=7, failed=0)


def _named(releases: Releases, name: str) -> UpdateOffer:
    manifest = msgspec.json.encode(ReleaseManifest(20, "9.20", name, 5, "0" * 64))
    return UpdateOffer(manifest, sign_release(private_key=releases.key.private, manifest=manifest))


@pytest.mark.case("AG-08")
def test_a_release_has_to_report_in_and_one_that_failed_is_told(releases: Releases, tmp_path: Path) -> None:
    world = World(tmp_path / "home")
    at, agent = releases.installation, world.agent
    releases.take(releases.offer(8))
    trial = Trial(at, agent)
    assert not trial.is_over() and at.trial() is not None
    agent.step()
    assert not trial.is_over() and at.trial() is None and agent.memory.release == 8

    # The next one never reaches the control plane; a job under way is not cut for that.
    releases.take(releases.offer(9))
    trial = Trial(at, agent, seconds=0)
    world.plane.down = True
    world.agent.running = (JobOffer("job-1", "backup"), Mover(order=None))  # type: ignore[arg-type]
    assert not trial.is_over() and at.current == 9
    world.agent.running = None
    assert trial.is_over() and at.current == 8
    world.plane.down = False
    again = world.restarted()
    Trial(at, again)
    again.step()
    assert world.plane.polls[-1].problem_code == "update_failed" and "Release 9" in world.plane.polls[-1].problem
    Trial(at, world.restarted())
    world.pass_time(100)
    assert world.plane.polls[-1].problem_code == ""
    # A release that came while this one runs: it is started as soon as nothing is under way.
    assert not (trial := Trial(at, world.agent)).is_over()
    releases.take(releases.offer(10), failed=9)
    assert trial.is_over()


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    folder = tmp_path / "hooks.d"
    folder.mkdir(mode=0o700)
    return folder


def hook(folder: Path, name: str, text: str, mode: int = 0o700) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def test_hooks_run_before_and_after_also_when_it_failed(hooks: Path) -> None:
    said = hooks.parent / "said"
    for name in ("pre-2", "pre-1", "post-1"):
        hook(hooks, name, f'echo {name} "$@" $(env | wc -l) >> {said}')
    hook(hooks, "post-0", "exit 3")
    hook(hooks, "other", "exit 1")
    with pytest.raises(ZeroDivisionError), hooks_around(hooks, seconds=10, trusted_owner=os.geteuid()):
        assert said.read_text().split()[::2] == ["pre-1", "pre-2"]
        raise ZeroDivisionError
    assert said.read_text().split()[::2] == ["pre-1", "pre-2", "post-1"]


@pytest.mark.parametrize(
    "how",
    [
        "others may write it",
        "others may write its folder",
        "it is of somebody else",
        "its folder is of somebody else",
        "a link",
        "no program",
        "fails",
        "hangs",
    ],
)
def test_hooks_that_stop_a_backup(hooks: Path, how: str) -> None:
    text = {"fails": "echo it is broken; exit 4", "hangs": "sleep 60 & wait"}.get(how, "true")
    path = hook(hooks, "pre-x", text)
    if how == "others may write it":
        path.chmod(0o722)
    elif how == "others may write its folder":
        hooks.chmod(0o777)
    elif how.endswith("of somebody else"):
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(path if how.startswith("it is") else hooks, 1000, 1000)
    elif how == "a link":
        path.rename(hooks / "real")
        path.symlink_to("real")
    elif how == "no program":
        path.chmod(0o600)
    expected = {"fails": "exit code 4: it is broken", "hangs": "longer than", "no program": "no program"}
    with (
        pytest.raises(HookError, match=expected.get(how, "belong to root")),
        hooks_around(hooks, seconds=0.3, trusted_owner=os.geteuid()),
    ):
        pytest.fail("it went on")
