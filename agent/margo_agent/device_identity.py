"""What files for this device are encrypted to: a P-256 key and its certificate, made by `identity init`, or given."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from margo_agent.config import AgentConfig
from margo_oci.errors import FormatError
from margo_oci.jwk import p256, thumbprint
from margo_oci.keys import KEY_LIMIT_BYTES, FileKey, generate
from margo_oci.store import write_whole

DEFAULT_DAYS = 3650
_NAME_LIMIT_CHARS = 64  # of a common name (RFC 5280)
PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Identity:
    """A device's key and certificate, and the key that it had before, which still opens."""

    key: PrivateKey
    certificate: x509.Certificate
    earlier: Sequence[PrivateKey] = ()

    @property
    def kid(self) -> str:
        """The key's id, which encrypted files name."""
        return thumbprint(self.key.public_key())

    @property
    def pem(self) -> str:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def keys(self) -> Sequence[PrivateKey]:
        """All that open, the present one first."""
        return (self.key, *self.earlier)


def key_file(config: AgentConfig) -> Path:
    """Return where the key is, or will be."""
    return config.identity.key or config.state_dir / "identity" / "device.key"


def certificate_file(config: AgentConfig) -> Path:
    """Return where the certificate is, or will be."""
    return config.identity.certificate or config.state_dir / "identity" / "device.crt"


def load_identity(config: AgentConfig) -> Identity:
    """Return this device's identity. Raises FormatError if it has none, or one that cannot be used."""
    key, *earlier = load_keys(config)
    file = certificate_file(config)
    certificate = _certificate(file)
    if p256(certificate.public_key(), str(file)) != key.public_key():
        todo = "name the one that is" if config.identity.key else "make both anew: margo-agent identity init --renew"
        raise FormatError(f"identity: {file} is not the certificate of {key_file(config)}: {todo}")
    return Identity(key, certificate, earlier)


def load_keys(config: AgentConfig) -> Sequence[PrivateKey]:
    """Return the keys that open what is encrypted to this device, the present one first; they need no certificate.

    Raises FormatError if there is none, or one that cannot be used.
    """
    earlier = () if config.identity.key or not _earlier(config).exists() else (_key(_earlier(config)),)
    return (_key(key_file(config)), *earlier)


def make_identity(
    config: AgentConfig, now: datetime, *, days: int = DEFAULT_DAYS, renew: bool = False, drop_earlier: bool = False
) -> Identity:
    """Make key and certificate. Raises FormatError if they are there, unless to `renew` them, or are given.

    The key that is replaced still opens; the one that it replaced itself goes, if to `drop_earlier`.
    """
    key, certificate = key_file(config), certificate_file(config)
    if config.identity.key:
        raise FormatError(f"identity.key: {key} was given to this device: it is not for the agent to replace")
    if key.exists() and not renew:
        raise FormatError(f"{key} is there already: show it with identity show, replace it with identity init --renew")
    if _opens_more(config) and not drop_earlier:
        raise FormatError(
            f"{_earlier(config)}: the key before the last renewal opens what was not encrypted anew since: once all "
            "is, --drop-earlier lets it go"
        )
    key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = generate(None)[0]
    made = FileKey.from_pem(private, None, name=str(key)).key
    assert isinstance(made, PrivateKey)  # noqa: S101  (generate makes no other)
    if key.exists():
        write_whole(_earlier(config), key.read_bytes(), mode=0o600)
    # The certificate goes first: where this is cut off after it, the old key opens as before, and this is done again.
    write_whole(certificate, _self_signed(made, config.device, now, days), mode=0o644)
    write_whole(key, private, mode=0o600)
    return load_identity(config)


def request_of(config: AgentConfig) -> str:
    """Return a PKCS#10 request for a certificate of this device's key, as PEM. Raises FormatError."""
    key = _key(key_file(config))
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(config.device))
    request = builder.add_extension(_usage(), critical=True).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _earlier(config: AgentConfig) -> Path:
    return config.state_dir / "identity" / "earlier.key"


def _opens_more(config: AgentConfig) -> bool:
    """Tell whether the earlier key is another one: a renewal that was cut off leaves a copy of the present one."""
    earlier, key = _earlier(config), key_file(config)
    return earlier.exists() and not (key.exists() and key.read_bytes() == earlier.read_bytes())


def _self_signed(key: PrivateKey, device: str, now: datetime, days: int) -> bytes:
    subject = _subject(device)
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=int.from_bytes(os.urandom(16), "big") >> 1 or 1,
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=days),
    )
    builder = builder.add_extension(_usage(), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _subject(device: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device[:_NAME_LIMIT_CHARS])])


def _usage() -> x509.KeyUsage:
    """It agrees on keys; what it signs would be no report and no release (decision 0020)."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=True,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key(file: Path) -> PrivateKey:
    key = FileKey.from_pem(_read(file), None, name=f"identity: {file}").key
    assert isinstance(key, PrivateKey)  # noqa: S101  (from_pem refuses others)
    return key


def _certificate(file: Path) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificate(_read(file))
        found.public_key()  # what cannot be read is no error of x509 until it is asked for
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"identity: {file}: not a usable X.509 certificate (PEM)") from None
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(KEY_LIMIT_BYTES)
    except FileNotFoundError:
        raise FormatError(f"this device has no identity ({file} is not there): margo-agent identity init") from None
    except OSError as error:
        raise FormatError(f"identity: {file}: {error.strerror}") from None
