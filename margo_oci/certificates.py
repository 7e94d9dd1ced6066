"""Certificate chains of code signers (Notary signature-specification, "Certificate Requirements").

Import it where a chain is at hand: X.509 costs memory that only who trusts Notary signatures should pay.
Nothing is asked for over the network: whether a certificate was revoked is for `revocation_sources` to say
that nobody knows, and for the policy to decide.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey
from margo_oci.subjects import Subject

T = TypeVar("T", bound=x509.ExtensionType)
CHAIN_LIMIT = 10
CERTIFICATE_LIMIT_BYTES = 16 * 1024
_SHORT_NAMES = {NameOID.SERIAL_NUMBER: "SERIALNUMBER", NameOID.POSTAL_CODE: "POSTALCODE"}
_NOT_FOR_SIGNERS = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.TIME_STAMPING: "timeStamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)
_OTHER_USES = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
               "crl_sign")  # fmt: skip
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Chain:
    """Certificates from the signer's to the root; that they fit together was checked when it was parsed."""

    certificates: Sequence[x509.Certificate]

    @classmethod
    def parse(cls, chain: Sequence[bytes]) -> "Chain":
        """Parse DER certificates, the signer's first, and check everything but times and trust. Raises FormatError."""
        if not 1 <= len(chain) <= CHAIN_LIMIT:
            raise FormatError(f"certificates: 1 to {CHAIN_LIMIT} are expected, got {len(chain)}")
        parsed = cls([_load(der, f"certificate {number}") for number, der in enumerate(chain, 1)])
        with _faults("certificates"):
            _check_links(parsed.certificates)
            _check_leaf(parsed.certificates[0])
            for above, certificate in enumerate(parsed.certificates[1:]):
                _check_authority(certificate, above)
        return parsed

    @property
    def key(self) -> PublicKey:
        """The signer's key. Raises FormatError if it is of a kind, or a size, that does not sign here."""
        with _faults("certificates"):
            return PublicKey.of(self.certificates[0].public_key(), name=_name(self.certificates[0]))

    @property
    def signer(self) -> str:
        """Whom the signer's certificate names, for people."""
        return self.certificates[0].subject.rfc4514_string()[:160]

    @property
    def name(self) -> str:
        """The same, as it is compared: whole; order, case and spaces count for nothing (RFC 5280, 7.1)."""
        parts = ((part.oid.dotted_string, str(part.value)) for part in self.certificates[0].subject)
        return "\n".join(sorted(f"{oid} {' '.join(value.casefold().split())}" for oid, value in parts))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the signer's certificate, in hex."""
        return fingerprint(self.certificates[0].public_bytes(Encoding.DER))

    @property
    def subject(self) -> Subject:
        """Whom the signer's certificate names. Raises FormatError for a name that no policy could state."""
        with _faults("certificates"):
            return _subject(self.certificates[0])

    def check_times(self, at: datetime) -> None:
        """Check that every certificate is valid at `at` (with a time zone). Raises FormatError."""
        for certificate in self.certificates:
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not begin <= at <= end:
                raise FormatError(
                    f"{_name(certificate)}: valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, "
                    f"and not at {at:%Y-%m-%d %H:%M %Z}: look at the clock, or sign again with a new certificate"
                )

    @property
    def revocation_sources(self) -> Sequence[str]:
        """Certificates that name a place (OCSP, CRL) to ask whether they were revoked; the root is not asked about."""
        with _faults("certificates"):
            return [_name(each) for each in self.certificates[:-1] or self.certificates if _names_a_source(each)]


def read_certificates(data: bytes, *, name: str) -> Sequence[bytes]:
    """Return the DER certificates of a file with one in DER, or with several in PEM. Raises FormatError."""
    blocks = _PEM.findall(data)
    if not blocks:
        return [_load(data, name).public_bytes(Encoding.DER)]
    with _faults(name):
        return [x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER) for block in blocks]


def check_anchor(der: bytes, *, name: str) -> None:
    """Check that a certificate may stand in a trust store: an authority's, or one that signed itself.

    Raises FormatError.
    """
    certificate = _load(der, name)
    with _faults(name):
        basic = _extension(certificate, x509.BasicConstraints)
        if not (basic and basic.value.ca) and not _signed_itself(certificate):
            raise FormatError(f"{name}: {_name(certificate)}: neither an authority's certificate nor self-signed")


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate in hex, as Notary's manifests list it."""
    return hashlib.sha256(der).hexdigest()


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Turn whatever the parser says about strange bytes, warnings too, into a FormatError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except FormatError:
        raise
    except Exception as error:  # the parser has many, some of them only `Exception`; none may reach a user
        raise FormatError(f"{what}: not a usable X.509 certificate: {error!s:.200}") from None


def _load(der: bytes, name: str) -> x509.Certificate:
    if len(der) > CERTIFICATE_LIMIT_BYTES:
        raise FormatError(f"{name}: {len(der)} bytes, at most {CERTIFICATE_LIMIT_BYTES} are read")
    with _faults(name):
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions, certificate.subject, certificate.issuer
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc  # X.509 has a year 0, Python has none
        if der[-len(certificate.signature) - 1] != 0:  # the parser takes any number of left-over bits there
            raise ValueError("its signature is no whole number of bytes")
        return certificate


def _check_links(chain: Sequence[x509.Certificate]) -> None:
    for number, certificate in enumerate(chain):
        last = number == len(chain) - 1
        _issued(certificate, certificate if last else chain[number + 1])
        if not last and _signed_itself(certificate):
            raise FormatError(f"{_name(certificate)}: it signed itself, and yet others follow in the chain")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    hashing = certificate.signature_hash_algorithm
    if hashing is None or hashing.name not in ("sha256", "sha384", "sha512"):
        used = hashing.name.upper() if hashing else "no hash"
        raise FormatError(f"{_name(certificate)}: signed with {used}: SHA-256, SHA-384 or SHA-512 is expected")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        whom = "itself: the chain ends with no root" if certificate is issuer else _name(issuer)
        raise FormatError(f"{_name(certificate)}: not issued by {whom}") from None


def _signed_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_leaf(leaf: x509.Certificate) -> None:
    name = _name(leaf)
    usage = _usage(leaf)
    if not usage.digital_signature or any(getattr(usage, other) for other in _OTHER_USES):
        raise FormatError(f"{name}: its key usage is to be digitalSignature, and nothing else")
    basic = _extension(leaf, x509.BasicConstraints)
    if basic and basic.value.ca:
        raise FormatError(f"{name}: an authority's certificate does not sign artifacts")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    for other in extended.value if extended else ():
        if other in _NOT_FOR_SIGNERS:
            raise FormatError(f"{name}: a certificate for {_NOT_FOR_SIGNERS[other]} does not sign artifacts")


def _check_authority(certificate: x509.Certificate, above: int) -> None:
    name = _name(certificate)
    basic = _extension(certificate, x509.BasicConstraints)
    if not basic or not basic.critical or not basic.value.ca:
        raise FormatError(f"{name}: no authority: basicConstraints with CA is to be there, and critical")
    if basic.value.path_length is not None and basic.value.path_length < above:
        raise FormatError(f"{name}: path length {basic.value.path_length}, and {above} authorities follow below it")
    if not _usage(certificate).key_cert_sign:
        raise FormatError(f"{name}: its key usage is to include keyCertSign")
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        raise FormatError(f"{name}: RSA with {key.key_size} bits: at least 2048 are expected of an authority")


def _usage(certificate: x509.Certificate) -> x509.KeyUsage:
    strange = [each.oid for each in certificate.extensions if each.critical and not isinstance(each.value, _UNDERSTOOD)]
    if strange:
        raise FormatError(f"{_name(certificate)}: the critical extension {strange[0].dotted_string} is not understood")
    usage = _extension(certificate, x509.KeyUsage)
    if not usage or not usage.critical:
        raise FormatError(f"{_name(certificate)}: key usage is to be there, and critical")
    return usage.value


def _names_a_source(certificate: x509.Certificate) -> bool:
    access = _extension(certificate, x509.AuthorityInformationAccess)
    ocsp = access and any(each.access_method == AuthorityInformationAccessOID.OCSP for each in access.value)
    return bool(ocsp or _extension(certificate, x509.CRLDistributionPoints))


def _extension(certificate: x509.Certificate, kind: type[T]) -> x509.Extension[T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _subject(certificate: x509.Certificate) -> Subject:
    attributes: dict[str, str] = {}
    for part in certificate.subject.rdns:
        first, *more = part
        key = _SHORT_NAMES.get(first.oid, first.rfc4514_attribute_name)
        if more or key in attributes:
            raise FormatError(f"{_name(certificate)}: its name has {key} twice, or two values in one: no policy fits")
        attributes[key] = first.value if isinstance(first.value, str) else first.value.hex()
    return Subject(attributes)


def _name(certificate: x509.Certificate) -> str:
    return f"certificate '{certificate.subject.rfc4514_string()[:120]}'"
