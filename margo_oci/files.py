"""Extra files of a deployment: each is a layer of its own, plain or encrypted (format section 14)."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from margo_oci.archive import Entry, pack, safe_path, unpack
from margo_oci.content import Descriptor
from margo_oci.errors import FormatError
from margo_oci.manifest import TITLE, kind_of

FILE_LAYER = "application/vnd.margo.oci.files.layer.v1+tar+gzip"
SECRET_LAYER = "application/vnd.margo.oci.secret.layer.v1+json"  # noqa: S105  (a media type)
DEPLOYMENT = "org.margo.oci.deployment"  # whose file it is; also of the layer of a deployment (3.1)
VARIABLE = "MARGO_FILES"
SUFFIX = ".jwe"
FILE_COUNT_LIMIT = 256  # of one deployment, as the rest
LAYER_LIMIT_BYTES = 8 * 1024 * 1024
SECRET_LIMIT_BYTES = 2 * 1024 * 1024
SUM_LIMIT_BYTES = 32 * 1024 * 1024
PATH_LIMIT_BYTES = 255


@dataclass(frozen=True)
class ExtraFile:
    """One file at its path below `${MARGO_FILES}`; `data` of a secret is the JWE."""

    path: str
    data: bytes
    executable: bool = False
    secret: bool = False


def pack_file(file: ExtraFile) -> tuple[bytes, str]:
    """Return the bytes of a file's layer and their media type: the same file gives the same (format 14.2)."""
    if file.secret:
        return file.data, SECRET_LAYER
    return pack({file.path: Entry(file.path, file.data, file.executable)}), FILE_LAYER


def read_file_layer(layer: Descriptor, data: bytes, *, what: str) -> ExtraFile:
    """Return the file in a layer, a secret still closed. Raises FormatError (format 14.2, 14.9)."""
    path = layer.annotations[TITLE]
    if is_secret(layer):
        # Imported when one is met: a state without secrets needs none of it.
        from margo_oci.jwe import parse_envelope

        parse_envelope(data, what=f"{what}: {path}")
        return ExtraFile(path, data, secret=True)
    entries = [entry for entry in unpack(data, what=what, limit_bytes=LAYER_LIMIT_BYTES) if not entry.folder]
    if [entry.path for entry in entries] != [path]:
        found = ", ".join(entry.path for entry in entries[:3]) or "nothing"
        raise FormatError(f"{what}: annotation {TITLE} says {path}, inside is {found:.300}")
    return ExtraFile(path, entries[0].data, entries[0].executable)


def is_secret(layer: Descriptor) -> bool:
    """Tell whether a layer of a file is encrypted."""
    return kind_of(layer.media_type) == "secret"


def files_of(
    layers: Sequence[Descriptor], deployments: Iterable[str], *, what: str
) -> Mapping[str, Sequence[Descriptor]]:
    """Return the layers of files by deployment, in the order of their paths.

    Raises FormatError for what is of no deployment that has a layer of its own, for paths that are unsafe or meet, and
    for too many or too much (format 14.3 to 14.5).
    """
    known = set(deployments)
    found: dict[str, list[Descriptor]] = {}
    for layer in layers:
        if kind_of(layer.media_type) in ("file", "secret"):
            deployment = layer.annotations.get(DEPLOYMENT, "")
            at = f"{what}: layer {layer.digest[:19]}"
            if deployment not in known:
                raise FormatError(
                    f"{at}: a file of deployment {deployment or '(none)'!r:.80}, which is not in this state"
                )
            check_path(layer.annotations.get(TITLE, ""), at)
            if fault := size_fault(layer):
                raise FormatError(f"{at}: {layer.annotations[TITLE]}: {fault}")
            found.setdefault(deployment, []).append(layer)
    for deployment, mine in found.items():
        at = f"{what}: files of deployment {deployment}"
        if len(mine) > FILE_COUNT_LIMIT:
            raise FormatError(f"{at}: {len(mine)} of them, at most {FILE_COUNT_LIMIT} are read")
        if (size := sum(layer.size for layer in mine)) > SUM_LIMIT_BYTES:
            raise FormatError(f"{at}: {size} bytes, at most {SUM_LIMIT_BYTES} are read")
        if faults := meeting([layer.annotations[TITLE] for layer in mine]):
            raise FormatError(f"{at}: {faults[0]}")
        mine.sort(key=lambda layer: layer.annotations[TITLE])
    return found


def check_path(path: str, at: str) -> None:
    """Raise FormatError unless `path` is a safe relative path as it stands (format 14.4)."""
    if safe_path(path, at) != path or len(path.encode(errors="surrogateescape")) > PATH_LIMIT_BYTES:
        raise FormatError(
            f"{at}: path {path!r:.200}: at most {PATH_LIMIT_BYTES} bytes in its plainest form are expected"
        )
    if path.endswith(SUFFIX):
        raise FormatError(
            f"{at}: path {path!r:.200}: {SUFFIX} is the ending of what is encrypted, on the operator's side"
        )
    if not path.isprintable():
        raise FormatError(f"{at}: path {path!r:.200}: printable characters are expected")


def meeting(paths: Sequence[str]) -> Sequence[str]:
    """Return which paths meet: the same, also when case or Unicode forms are folded, or one below the other."""
    seen: dict[str, str] = {}
    faults = []
    for path in paths:
        folded = unicodedata.normalize("NFC", path).casefold()
        if seen.get(folded) == path:
            faults.append(f"{path} is there twice: with and without {SUFFIX} it is one path")
        elif folded in seen:
            faults.append(f"{path} and {seen[folded]} are the same path on some disks")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        above = next((one for n in range(1, len(parts)) if (one := "/".join(parts[:n])) in seen), None)
        if above is not None:
            faults.append(f"{path} lies below the file {seen[above]}")
    return faults


def size_fault(layer: Descriptor) -> str:
    """Return why a file's layer is too large; "" if it is not."""
    limit_bytes = SECRET_LIMIT_BYTES if is_secret(layer) else LAYER_LIMIT_BYTES
    return f"{layer.size} bytes as a layer, at most {limit_bytes} are read" if layer.size > limit_bytes else ""
