"""Certificates for one pool: made when it opens, known to nobody else, and handed to its workers through Ray.

Mutual TLS 1.3: each side shows a certificate that the pool's own authority has signed, and accepts no other. Which
worker it speaks to, the caller knows by the name in the certificate.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from poise._protocol.tls import Identity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LIFETIME: Final = timedelta(days=3650)
"""Longer than any pool: a certificate is void when the pool's authority is gone, which lives in memory only."""
CLOCK_SKEW: Final = timedelta(days=1)


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
