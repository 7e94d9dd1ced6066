"""A private Sigstore with keys of its own: a certificate authority, a log of certificates, a log of signatures.

What it makes is right by Sigstore's own rules, so that Sigstore's own library accepts it. There is no wire here.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from margo_oci.cosign import BUNDLE_TYPE, PAYLOAD_TYPE, pae
from margo_oci.identity import Identity

ISSUER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
LIFE = timedelta(minutes=10)
YEAR = timedelta(days=365)
Certified = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
URL = "http://sigstore.example"


class SimulatedSigstore:
    """One instance; two of them trust each other in nothing. `now` is when it works."""

    def __init__(self, now: datetime) -> None:
        self.now = now.replace(microsecond=0)
        self.ca_key, self.ct_key, self.rekor_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.ca = self._authority()
        self.logged: list[bytes] = []

    def certificate(self, key: ec.EllipticCurvePublicKey, who: Identity) -> x509.Certificate:
        """Certify a key for a login, as Fulcio does; the certificate's log has promised to list it."""
        san = x509.RFC822Name(who.subject) if "@" in who.subject else x509.UniformResourceIdentifier(who.subject)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=1))
            .not_valid_after(self.now + LIFE)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([san]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER, who.issuer.encode()), critical=False)
        )
        draft = self._with_sct(builder, b"\0" * 8)
        return self._with_sct(builder, self._promise(draft.tbs_precertificate_bytes))

    def entry(self, envelope: Mapping[str, Any], certificate: x509.Certificate) -> Mapping[str, Any]:
        """Log a DSSE envelope, as Rekor (version 1) does; return what it answers."""
        payload = base64.b64decode(envelope["payload"])
        verifier = _text(certificate.public_bytes(Encoding.PEM))
        body = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(_canonical(envelope)).hexdigest()},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                    "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": verifier}],
                },
            }
        )
        # Every entry has one neighbour: a tree of two, so that there is something to prove.
        neighbour, leaf = _leaf(b"another entry"), _leaf(body)
        tree = hashlib.sha256(b"\1" + neighbour + leaf).digest()
        self.logged.append(body)
        entry = {
            "body": _text(body),
            "integratedTime": int(self.now.timestamp()),
            "logID": _key_id(self.rekor_key).hex(),
            "logIndex": 1,
        }
        proof = {
            "checkpoint": self._checkpoint(tree), "hashes": [neighbour.hex()], "logIndex": 1,
            "rootHash": tree.hex(), "treeSize": 2,
        }  # fmt: skip
        promise = _text(self._by_rekor(_canonical(entry)))
        return {"uuid": entry | {"verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}}

    def bundle(
        self, statement: bytes, who: Identity, *, payload_type: str = PAYLOAD_TYPE, with_key: Certified | None = None
    ) -> bytes:
        """Sign a statement as `who`, with a key of its own that is thrown away unless there is one."""
        key, certificate = with_key or self._login(who)
        signature = key.sign(pae(payload_type, statement), ec.ECDSA(hashes.SHA256()))
        envelope = {
            "payload": _text(statement), "payloadType": payload_type, "signatures": [{"sig": _text(signature)}],
        }  # fmt: skip
        entry = self.entry(envelope, certificate)["uuid"]
        proof = entry["verification"]["inclusionProof"]
        logged = {
            "logIndex": str(entry["logIndex"]),
            "logId": {"keyId": _text(bytes.fromhex(entry["logID"]))},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(entry["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]},
            "inclusionProof": {
                "logIndex": str(proof["logIndex"]),
                "rootHash": _text(bytes.fromhex(proof["rootHash"])),
                "treeSize": str(proof["treeSize"]),
                "hashes": [_text(bytes.fromhex(one)) for one in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": entry["body"],
        }
        material = {"certificate": {"rawBytes": _text(certificate.public_bytes(Encoding.DER))}, "tlogEntries": [logged]}
        return _canonical({"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope})

    @property
    def trusted_root(self) -> Mapping[str, Any]:
        """What verifiers hold signatures against."""
        since = {"start": _moment(self.now - YEAR)}
        authority = {
            "subject": {"organization": "example.org", "commonName": "sigstore"},
            "uri": URL,
            "certChain": {"certificates": [{"rawBytes": _text(self.ca.public_bytes(Encoding.DER))}]},
            "validFor": since,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self.rekor_key, since)],
            "certificateAuthorities": [authority],
            "ctlogs": [_log(self.ct_key, since)],
            "timestampAuthorities": [],
        }

    def client_config(self, url: str) -> Mapping[str, Any]:
        """What signers know: where the services are, and the trusted root."""
        since = {"start": _moment(self.now - YEAR)}
        service = {"url": url, "majorApiVersion": 1, "validFor": since, "operator": "example.org"}
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.trusted_root,
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def token(self, who: Identity) -> str:
        """A login, as far as clients look at it: nobody here checks its signature."""
        second = int(self.now.timestamp())
        claims = {"iss": who.issuer, "sub": who.subject, "aud": "sigstore", "iat": second, "exp": second + 600}
        return ".".join(map(_url_text, (b'{"alg":"ES256","typ":"JWT"}', json.dumps(claims).encode(), b"unsigned")))

    def _login(self, who: Identity) -> Certified:
        key = ec.generate_private_key(ec.SECP256R1())
        return key, self.certificate(key.public_key(), who)

    def _authority(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sigstore")])
        public = self.ca_key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - YEAR)
            .not_valid_after(self.now + YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.ca_key, hashes.SHA256())
        )

    def _with_sct(self, builder: x509.CertificateBuilder, sct: bytes) -> x509.Certificate:
        listed = struct.pack(f"!HH{len(sct)}s", len(sct) + 2, len(sct), sct)
        octets = bytes([4, 0x81, len(listed)]) + listed if len(listed) > 127 else bytes([4, len(listed)]) + listed
        whole = builder.add_extension(x509.UnrecognizedExtension(SCT_LIST, octets), critical=False)
        return whole.sign(self.ca_key, hashes.SHA256())

    def _promise(self, precertificate: bytes) -> bytes:
        """A signed certificate timestamp (RFC 6962, 3.2)."""
        issuer = _key_id(self.ca_key)
        moment_ms = int(self.now.timestamp() * 1000)
        signed = struct.pack("!BBQH", 0, 0, moment_ms, 1) + issuer
        signed += len(precertificate).to_bytes(3) + precertificate + struct.pack("!H", 0)
        signature = self.ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        head = struct.pack("!B32sQH", 0, _key_id(self.ct_key), moment_ms, 0)
        return head + struct.pack("!BBH", 4, 3, len(signature)) + signature

    def _checkpoint(self, tree: bytes) -> str:
        note = f"rekor.example - 1\n2\n{_text(tree)}\n"
        signature = _text(_key_id(self.rekor_key)[:4] + self._by_rekor(note.encode()))
        return f"{note}\n— rekor.example {signature}\n"

    def _by_rekor(self, data: bytes) -> bytes:
        return self.rekor_key.sign(data, ec.ECDSA(hashes.SHA256()))


def _usage(**set_to: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**(dict.fromkeys(names, False) | set_to))


def _log(key: ec.EllipticCurvePrivateKey, since: Mapping[str, str]) -> Mapping[str, Any]:
    return {
        "baseUrl": URL,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": _text(_der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since},
        "logId": {"keyId": _text(_key_id(key))},
    }


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _leaf(body: bytes) -> bytes:
    return hashlib.sha256(b"\0" + body).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _url_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
