"""CBOR as signature envelopes use it (RFC 8949): one strict reading of every byte.

Own lines rather than a library: the readers that exist are lenient by design (indefinite lengths, a key twice,
values that become Python objects, no bound on depth), and a device needs a dozen kinds of bytes, not all of CBOR.
Refused here: indefinite lengths, a length or number not in its shortest form, a key twice, floats, and anything deep.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from margo_oci.errors import FormatError

DEPTH_LIMIT = 8
_SIMPLE = {20: False, 21: True, 22: None}
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)


@dataclass(frozen=True)
class Tagged:
    """A value with its tag (RFC 8949, 3.4)."""

    tag: int
    value: Any


def parse_cbor(data: bytes, *, what: str, limit_bytes: int) -> Any:
    """Return the one value in `data`. Raises FormatError, starting with `what`."""
    if len(data) > limit_bytes:
        raise FormatError(f"{what}: {len(data)} bytes, at most {limit_bytes} are read")
    reader = _Reader(data, what)
    value = reader.value(DEPTH_LIMIT)
    if reader.at != len(data):
        raise FormatError(f"{what}: {len(data) - reader.at} bytes follow after its end")
    return value


class _Reader:
    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at = data, what, 0

    def value(self, depth: int) -> Any:
        if depth == 0:
            raise self.fault(f"nested deeper than {DEPTH_LIMIT} levels")
        kind, number = self.head()
        match kind:
            case 0:
                return number
            case 1:
                return -1 - number
            case 2:
                return self.take(number)
            case 3:
                return self.text(number)
            case 4:
                return [self.value(depth - 1) for _ in self.items(number)]
            case 5:
                return self.mapping(number, depth - 1)
            case 6:
                return Tagged(number, self.value(depth - 1))
        return _SIMPLE[number]

    def head(self) -> tuple[int, int]:
        first = self.take(1)[0]
        kind, small = first >> 5, first & 31
        if kind == _OTHER and small not in _SIMPLE:
            raise self.fault("a float or a special value, which no envelope has")
        if small < 24:
            return kind, small
        if small > 27:
            raise self.fault("a length that is not given beforehand")
        size = 1 << (small - 24)
        number = int.from_bytes(self.take(size))
        if number < (24 if size == 1 else 1 << (4 * size)):
            raise self.fault("a number that is not in its shortest form")
        return kind, number

    def items(self, count: int) -> Iterator[int]:
        if count > len(self.data) - self.at:  # each takes a byte at least: a count alone never allocates
            raise self.fault(f"{count} entries announced, and it ends before")
        return iter(range(count))

    def mapping(self, count: int, depth: int) -> Mapping[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in self.items(count):
            key = self.value(depth)
            if not isinstance(key, int | str) or isinstance(key, bool):
                raise self.fault("a key is a whole number or text")
            if key in found:
                raise self.fault(f"key {key!r:.80} stands twice")
            found[key] = self.value(depth)
        return found

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.fault("text that is not UTF-8") from None

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.fault("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def fault(self, words: str) -> FormatError:
        return FormatError(f"{self.what}: not usable CBOR: {words} (byte {self.at})")


def encode_cbor(value: int | bytes | str | Sequence[Any] | Mapping[Any, Any] | Tagged | None) -> bytes:
    """Return `value` in CBOR's shortest form; maps keep their order."""
    match value:
        case None:
            return _head(_OTHER, 22)
        case bool():
            return _head(_OTHER, 21 if value else 20)
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            return _head(_TEXT, len(value.encode())) + value.encode()
        case Tagged():
            return _head(_TAG, value.tag) + encode_cbor(value.value)
        case Mapping():
            return _head(_MAP, len(value)) + b"".join(encode_cbor(k) + encode_cbor(v) for k, v in value.items())
        case _:
            return _head(_ARRAY, len(value)) + b"".join(encode_cbor(item) for item in value)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    small = next(small for small in range(24, 28) if number < 1 << (8 << (small - 24)))
    return bytes([kind << 5 | small]) + number.to_bytes(1 << (small - 24))
