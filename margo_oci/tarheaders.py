"""The headers of a tar, looked at before tarfile parses them: its pax parser takes quadratic time (format 7.4)."""

import io
import re

from margo_oci.errors import FormatError

BLOCK_BYTES = 512
EXTENSION_LIMIT_BYTES = 8 * 1024  # a name has at most 1,024 bytes, and so has a link's target
DIGITS_LIMIT = 64  # of a number in a pax record
EXTENSIONS_PER_ENTRY = 2  # a long name and a long link's target
_PAX = (b"x", b"g", b"X")
_EXTENSIONS = (*_PAX, b"L", b"K")
_RECORD = re.compile(rb"([1-9][0-9]{0,4}) ([^=\n]{1,255})=")
_DIGITS = re.compile(
    rb"[0-9]{%d}" % (DIGITS_LIMIT + 1)
)  # in a name or value; tarfile searches from each digit to the end of the run


class Headers(io.BytesIO):
    """A tar from which headers alone can be read: what tarfile gets to parse is looked at first.

    A walk of our own could lose step with tarfile's and then look at other headers than it does.
    """

    def __init__(self, data: bytes, *, entry_limit: int, what: str) -> None:
        super().__init__(data)
        self.what = what
        self.extensions_left = EXTENSIONS_PER_ENTRY * entry_limit
        self.kind = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return what tarfile asks for. Raises FormatError if that is more than a header, or a hostile one."""
        if size is None or not 0 <= size <= EXTENSION_LIMIT_BYTES:
            raise FormatError(f"{self.what}: a tar header of more than {EXTENSION_LIMIT_BYTES} bytes")
        data = super().read(size)
        if self.kind in _PAX:
            check_records(data, self.what)
        self.kind = data[156:157] if self.kind not in _EXTENSIONS and size == BLOCK_BYTES else b""
        if self.kind in _EXTENSIONS:
            self.extensions_left -= 1
        if self.extensions_left < 0:
            raise FormatError(f"{self.what}: more than {EXTENSIONS_PER_ENTRY} tar headers for each entry")
        return data


def check_records(data: bytes, what: str) -> None:
    """Raise FormatError unless pax records stand one after the other, as POSIX writes them; linear in their length."""
    if _DIGITS.search(data):
        raise FormatError(f"{what}: a tar header with a number of more than {DIGITS_LIMIT} digits")
    position = 0
    while position < len(data) and data[position]:
        record = _RECORD.match(data, position)
        end = position + int(record[1]) if record else 0
        if not record or end <= record.end() or data[end - 1 : end] != b"\n":
            raise FormatError(f"{what}: not a usable tar: a pax header that is not well-formed")
        if record[2].startswith(b"GNU.sparse"):
            raise FormatError(f"{what}: only plain files and folders are accepted, no sparse ones")
        position = end
