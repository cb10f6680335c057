"""Certificates for one pool: made when it opens, known to nobody else, and handed to its workers through Ray.

Mutual TLS 1.3: each side shows a certificate that the pool's own authority has signed, and accepts no other. Which
worker it speaks to, the caller knows by the name in the certificate.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from poise._protocol.descriptors import keep_from_children

if TYPE_CHECKING:
    from collections.abc import Generator

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LIFETIME: Final = timedelta(days=3650)
"""Longer than any pool: a certificate is void when the pool's authority is gone, which lives in memory only."""
CLOCK_SKEW: Final = timedelta(days=1)


class Identity(NamedTuple):
    """What one side needs to show who it is and to know the other, in PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


class Authority:
    """Signs the certificates of one pool. Its key never leaves this object."""

    def __init__(self) -> None:
        """Make a new key."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("poise pool")
        authority = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(self._name, self._name, self._key).add_extension(authority, critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str) -> Identity:
        """Make an identity of this name, with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(_name(name), self._name, key)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        return Identity(self._certificate.public_bytes(pem), certificate.public_bytes(pem), secret)


def tls_context(identity: Identity, *, is_server: bool) -> ssl.SSLContext:
    """A context that speaks TLS 1.3 only, shows this identity, and requires one of the same pool's from the peer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.authority.decode())
    if is_server:
        context.num_tickets = 0  # connections are made once: no tickets to resume them with
    with _secret_file(identity.certificate + identity.key) as path:
        context.load_cert_chain(path)
    return context


@contextlib.contextmanager
def _secret_file(content: bytes) -> Generator[str]:
    """The path of a file for the ssl module, which reads keys from files only."""
    if hasattr(os, "memfd_create"):  # in memory alone: a process that is killed just now leaves no key behind
        with open(os.memfd_create("poise"), "wb") as file:
            keep_from_children(file)
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.TemporaryDirectory(prefix="poise-") as directory:  # which nobody else can enter
        path = os.path.join(directory, "identity.pem")
        with open(path, "wb", opener=_private) as file:
            file.write(content)
        yield path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )
