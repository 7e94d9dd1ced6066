"""Makes inputs out of seeds: bytes changed anywhere, and shapes changed where they are (JSON, CBOR, tar, DER, lines).

All chance comes from the `random.Random` that is handed in: the same seed makes the same inputs.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from margo_oci.cbor import Tagged, encode_cbor, parse_cbor
from margo_oci.errors import FormatError
from tests.fuzz.targets import BETWEEN, Target, fixed

INPUT_LIMIT_BYTES = 256 * 1024
PUMPED = 0.01  # of the inputs are long: they take as much time as all others
PUMPED_BYTES = 128 * 1024
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x0A, 0x22, 0x5C, 0x2F, 0x2E, 0x30)
_WORDS: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, 0.5, 1.0, 32768.0, "", "a" * 300, "\x00", "../..",
    "\ud800", "\u0661", [], {}, [[]], {"": {}}, "sha256:" + "0" * 64, "<token>",
)  # fmt: skip
Mutator = Callable[[bytes, Random], bytes]


def mutated(target: Target, seeds: Sequence[bytes], chance: Random) -> bytes:
    """Return a new input for a target: one of `seeds`, changed once or several times."""
    data = chance.choice(seeds)
    if chance.random() < PUMPED:
        return pumped(target, data, chance)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if target.shape in SHAPES and chance.random() < 0.6:
            data = SHAPES[target.shape](data, chance)
        elif target.tokens and chance.random() < 0.3:
            data = with_token(data, target.tokens, chance)
        elif chance.random() < 0.1:
            data = spliced(data, chance.choice(seeds), chance)
        else:
            data = bytes_changed(data, chance)
    return data[:INPUT_LIMIT_BYTES]


def pumped(target: Target, data: bytes, chance: Random) -> bytes:
    """Repeat a few bytes, or a word of the format, very often: what takes time with the square of something shows."""
    at = chance.randrange(len(data) + 1)
    end = at + chance.choice((1, 1, 2, 3, 5, 8, 20, 60))
    piece = chance.choice(target.tokens) if target.tokens and chance.random() < 0.3 else data[at:end]
    if piece and chance.random() < 0.3:
        piece = piece + bytes([chance.choice(_EDGES)])
    count = min(PUMPED_BYTES // max(len(piece), 1), chance.choice((100, 1000, 5000, PUMPED_BYTES)))
    return (data[:at] + piece * count + data[chance.choice((at, end)) :])[:INPUT_LIMIT_BYTES]


def bytes_changed(data: bytes, chance: Random) -> bytes:
    """Flip, set, delete, repeat, insert or exchange bytes."""
    if not data:
        return chance.randbytes(chance.randrange(1, 40))
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 64, 512)))
    match chance.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([chance.choice(_EDGES)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:end] + data[at:end] * chance.choice((1, 1, 2, 16, 300)) + data[end:]
        case 4:
            return data[:at] + chance.randbytes(end - at) + data[at:]
        case 5:
            to = chance.randrange(len(data))
            return data[:to] + data[at:end] + data[to:]
        case 6:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case _:
            return data[:at]


def spliced(data: bytes, other: bytes, chance: Random) -> bytes:
    """The beginning of one seed and the end of another."""
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def with_token(data: bytes, tokens: Sequence[bytes], chance: Random) -> bytes:
    """A word of the format, put in or over what stands there."""
    at, token = chance.randrange(len(data) + 1), chance.choice(tokens)
    return data[:at] + token + data[at + chance.choice((0, 0, len(token))) :]


def json_changed(data: bytes, chance: Random) -> bytes:
    """Change a value anywhere in a JSON document (one of several parts); text may be base64 of more JSON."""
    found = data.split(BETWEEN)
    which = chance.randrange(len(found))
    head = b"" if found[which][:1] in (b"{", b"[", b"-") else found[which][:1]
    if found[which].lstrip().startswith(b"-----BEGIN"):
        return _sealed_changed(data, chance)
    try:
        value = json.loads(found[which][len(head) :])
    except (ValueError, RecursionError):
        return bytes_changed(data, chance)
    found[which] = head + _json(changed(value, chance, depth=chance.randrange(1, 7)))
    return BETWEEN.join(found)


def _sealed_changed(data: bytes, chance: Random) -> bytes:
    """The JSON in a PEM block."""
    lines = data.split(b"\n")
    try:
        value = json.loads(base64.b64decode(b"".join(line for line in lines if b"-" not in line)))
    except (ValueError, RecursionError):
        return bytes_changed(data, chance)
    body = base64.b64encode(_json(changed(value, chance, depth=chance.randrange(1, 5))))
    return b"\n".join([lines[0], body, *[line for line in lines[1:] if line.startswith(b"-----END")], b""])


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def changed(value: Any, chance: Random, depth: int) -> Any:
    """Return a value with another one somewhere in it."""
    if depth and isinstance(value, dict) and value:
        key = chance.choice(list(value))
        return _in_map(value, key, chance, depth)
    if depth and isinstance(value, list) and value:
        at = chance.randrange(len(value))
        match chance.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * chance.choice((2, 2, 17, 70)) + value[at + 1 :]
        return [*value[:at], changed(value[at], chance, depth - 1), *value[at + 1 :]]
    if isinstance(value, Tagged):
        return Tagged(chance.choice((value.tag, 0, 1, 18, 2**32)), changed(value.value, chance, max(depth - 1, 0)))
    if isinstance(value, str) and chance.random() < 0.6:
        return _text_changed(value, chance)
    if isinstance(value, bytes):
        return bytes_changed(value, chance)
    if isinstance(value, int) and chance.random() < 0.5:
        return value + chance.choice((-1, 1, 2**32))
    return chance.choice(_WORDS)


def _in_map(value: dict[Any, Any], key: Any, chance: Random, depth: int) -> dict[Any, Any]:
    match chance.randrange(8):
        case 0:
            return {name: one for name, one in value.items() if name != key}
        case 1:
            return {**value, chance.choice(("", "x", "data", 7, "__class__")): chance.choice(_WORDS)}
        case 2:
            return {(f"{name}x" if name == key else name): one for name, one in value.items()}
        case 3:
            return {**value, key: value[chance.choice(list(value))]}
    return {**value, key: changed(value[key], chance, depth - 1)}


def _text_changed(text: str, chance: Random) -> str:
    """Change text, or what it is base64 of."""
    try:
        inner = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_" if "-" in text or "_" in text else None)
        if len(text) > 20 and chance.random() < 0.7:
            inner = json_changed(inner, chance) if inner[:1] == b"{" else bytes_changed(inner, chance)
            return base64.b64encode(inner).decode().rstrip("=" if chance.random() < 0.3 else "")
    except (ValueError, binascii.Error):
        pass
    return bytes_changed(text.encode(errors="surrogatepass"), chance).decode("utf-8", "replace")


def cbor_changed(data: bytes, chance: Random) -> bytes:
    """Change a value anywhere in CBOR, also in CBOR that is wrapped in bytes."""
    if data[:1] == b"{":
        return json_changed(data, chance)
    try:
        return encode_cbor(changed(parse_cbor(data, what="x", limit_bytes=1 << 20), chance, chance.randrange(1, 6)))
    except (FormatError, RuntimeError, StopIteration, TypeError, ValueError, AttributeError):
        return bytes_changed(data, chance)  # our writer has no word for it


def tar_changed(data: bytes, chance: Random) -> bytes:
    """Change a tar behind its compression: a field of a header, with its checksum set right, or a block."""
    try:
        raw = bytearray(zlib.decompressobj(wbits=31).decompress(data, 4 * INPUT_LIMIT_BYTES))
    except zlib.error:
        return bytes_changed(data, chance)
    blocks = len(raw) // 512
    if not blocks or chance.random() < 0.15:
        raw = bytearray(bytes_changed(bytes(raw), chance))
    else:
        at = 512 * chance.choice([i for i in range(blocks) if raw[512 * i + 257 : 512 * i + 262] == b"ustar"] or [0])
        _header_changed(raw, at, chance)
    deflater = zlib.compressobj(1, wbits=31)
    return deflater.compress(bytes(raw)) + deflater.flush()


_FIELDS = ((0, 100), (100, 108), (124, 136), (136, 148), (156, 157), (156, 157), (157, 257), (257, 265), (345, 500))
_TAR_WORDS = (
    b"../x", b"/x", b"a\\b", b"\xff\xfe", b"0" * 11, b"7" * 11, b"\x80" + b"\xff" * 11, b"-1", b"9", b"x", b"g", b"L",
    b"K", b"S", b"1", b"2", b"5", b"3", b"13 path=a/b/c\n", b"22 GNU.sparse.size=1\n",
    b"30 size=99999999999999999999\n",
)  # fmt: skip


def _header_changed(raw: bytearray, at: int, chance: Random) -> None:
    begin, end = chance.choice(_FIELDS)
    match chance.randrange(4):
        case 0:
            word = chance.choice(_TAR_WORDS)[: end - begin]
            raw[at + begin : at + begin + len(word)] = word
        case 1:
            raw[at + chance.randrange(begin, end)] = chance.choice(_EDGES)
        case 2:  # another header in front, which may speak for this one
            word = chance.choice(_TAR_WORDS)
            extra = bytearray(raw[at : at + 512])
            extra[124:136], extra[156] = b"%011o\0" % len(word), chance.choice(b"xgLKXS")
            raw[at:at] = extra + word.ljust(512, b"\0")
        case _:
            raw[at : at + 512] = raw[at : at + 512] * chance.choice((0, 2, 3, 40))
    if len(raw) >= at + 512:
        raw[at + 148 : at + 156] = b" " * 8
        raw[at + 148 : at + 156] = b"%06o\0 " % (sum(raw[at : at + 512]) & 0o777777)


def lines_changed(data: bytes, chance: Random) -> bytes:
    """Drop, repeat, exchange or indent lines; set a value."""
    lines = data.split(b"\n")
    at, to = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines[at:at] = [lines[at]] * chance.choice((1, 1, 2, 40, 400))
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines[at] = b" " * chance.randrange(8) + lines[at].lstrip()
        case 4:
            word = chance.choice(_WORDS)
            lines[at] = re.sub(rb":.*", lambda _: b": " + _json(word), lines[at], count=1)
        case _:
            lines.insert(to, lines[at].replace(b": ", b": &a ", 1) if chance.random() < 0.5 else b"<<: *a")
    return b"\n".join(lines)


def der_changed(data: bytes, chance: Random) -> bytes:
    """Change an element anywhere in the first certificate, and have it sign itself anew: so all of it is looked at."""
    first, *others = data.split(BETWEEN)
    try:
        tree = _der_tree(first)
        body = tree[1][0]
        _der_mutate(body, chance)
        tbs = _der_bytes(body)
        alone = chance.random() < 0.5
        signature = signing_key().sign(tbs, ec.ECDSA(hashes.SHA256()))
        tree[1] = [body, tree[1][1], [0x03, b"\0" + signature]]
        return BETWEEN.join([_der_bytes(tree)] + ([] if alone else others))
    except (IndexError, ValueError, TypeError, RecursionError):
        return bytes_changed(data, chance)


def signing_key() -> ec.EllipticCurvePrivateKey:
    key = serialization.load_der_private_key(fixed("leaf.key"), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _der_tree(data: bytes) -> list[Any]:
    tree, end = _der_one(data, 0)
    if end != len(data):
        raise ValueError
    return tree


def _der_one(data: bytes, at: int) -> tuple[list[Any], int]:
    tag, size, at = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[at : at + count]), at + count
    body = data[at : at + size]
    if len(body) != size:
        raise ValueError
    if not tag & 0x20:
        return [tag, body], at + size
    items, place = [], 0
    while place < size:
        item, place = _der_one(body, place)
        items.append(item)
    return [tag, items], at + size


def _der_bytes(tree: list[Any]) -> bytes:
    body = tree[1] if isinstance(tree[1], bytes) else b"".join(_der_bytes(item) for item in tree[1])
    size = len(body)
    length = (
        bytes([size])
        if size < 128
        else bytes([0x80 | (size.bit_length() + 7) // 8]) + size.to_bytes((size.bit_length() + 7) // 8)
    )
    return bytes([tree[0]]) + length + body


def _der_mutate(tree: list[Any], chance: Random) -> None:
    while isinstance(tree[1], list) and tree[1] and chance.random() < 0.85:
        parent, tree = tree, chance.choice(tree[1])
        if chance.random() < 0.05:
            parent[1].remove(tree)
            return
        if chance.random() < 0.05:
            parent[1].append(tree)
            return
    if chance.random() < 0.15:
        tree[0] = chance.choice((0x01, 0x02, 0x03, 0x04, 0x05, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x30, 0x31, 0xA0, 0xA3))
    elif tree[0] in (0x17, 0x18) and chance.random() < 0.7:
        tree[:] = [
            0x18,
            chance.choice((b"00000101000000Z", b"99991231235959Z", b"19500101000000Z", b"20270101000000Z")),
        ]
    elif isinstance(tree[1], bytes):
        tree[1] = bytes_changed(tree[1], chance)


SHAPES: dict[str, Mutator] = {
    "json": json_changed, "cbor": cbor_changed, "tar": tar_changed, "text": lines_changed, "der": der_changed,
}  # fmt: skip
