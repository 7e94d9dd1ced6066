"""The files of Notary's trust policy and trust store, read from a folder laid out as notation lays out its own.

trustpolicy.oci.json (or trustpolicy.json)
truststore/x509/<ca|signingAuthority>/<name>/*.crt, *.cer, *.pem
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from margo_oci.errors import FormatError
from margo_oci.trustpolicy import POLICY_LIMIT_BYTES, TrustPolicy, parse_trust_policy

FILE_LIMIT_BYTES = 256 * 1024
FILES_LIMIT = 256
SUFFIXES = (".crt", ".cer", ".pem")


def read_trust_policy(folder: Path) -> TrustPolicy:
    """Read the policy, the newer name first. Raises FormatError; OSError when a file cannot be read."""
    files = [folder / "trustpolicy.oci.json", folder / "trustpolicy.json"]
    found = next((file for file in files if file.exists()), None)
    if found is None:
        raise FormatError(f"{folder}: neither trustpolicy.oci.json nor trustpolicy.json is there")
    return parse_trust_policy(_read(found, POLICY_LIMIT_BYTES), what=str(found))


def read_trust_stores(folder: Path, names: Sequence[str]) -> Mapping[str, Sequence[bytes]]:
    """Read the stores that a policy names (`TrustPolicy.stores`): certificates in DER by `type:name`.

    Raises FormatError for a store that is not there or holds something else; OSError when a file cannot be read.
    """
    return {name: _read_store(folder / "truststore" / "x509" / Path(*name.split(":", 1)), name) for name in names}


def _read_store(folder: Path, name: str) -> Sequence[bytes]:
    # Imported when there is a store to read: an idle device holds no X.509 in memory.
    from margo_oci.certificates import check_anchor, read_certificates

    if folder.is_symlink() or not folder.is_dir():
        raise FormatError(f"trust store {name}: {folder} is not a folder")
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files or len(files) > FILES_LIMIT:
        raise FormatError(f"trust store {name}: {len(files)} certificates in {folder}: 1 to {FILES_LIMIT} are expected")
    certificates: list[bytes] = []
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise FormatError(f"trust store {name}: {file} is not a plain file")
        for certificate in read_certificates(_read(file, FILE_LIMIT_BYTES), name=str(file)):
            check_anchor(certificate, name=str(file))
            certificates.append(certificate)
    return certificates


def _read(file: Path, limit_bytes: int) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise FormatError(f"{file}: more than {limit_bytes} bytes")
    return data
