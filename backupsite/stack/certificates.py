"""Certificates for one server that talks only to itself: a new authority at each start, whose key is then forgotten."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from backupsite.stack.ports import LOOPBACK
from backupsite.stack.secret_files import write_private

_LIFETIME = datetime.timedelta(days=3650)
_PEM = serialization.Encoding.PEM


def write_certificates(directory: Path, *, now: datetime.datetime) -> None:
    """Write ca.pem, cert.pem and key.pem: a certificate for the loopback address, as server and as client."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    authority_name, name = _name("backupsite embedded storage"), _name("backupsite storage server")
    authority = (
        _builder(subject=authority_name, issuer=authority_name, key=authority_key, now=now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(subject=name, issuer=authority_name, key=key, now=now)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(directory / "ca.pem", authority.public_bytes(_PEM))
    write_private(directory / "cert.pem", certificate.public_bytes(_PEM))
    write_private(directory / "key.pem", private)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    *, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
    )
