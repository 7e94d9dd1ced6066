"""Signers beyond files: a command that signs, such as `openssl`, `pkcs11-tool` or a cloud's own.

What it answers is held against the public key at once, so that a wrong key or a wrong format is found before
anything is pushed.
"""

import base64
import binascii
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from margo_oci import algorithms
from margo_oci.errors import FormatError
from margo_oci.keys import PublicKey

ANSWER_LIMIT_BYTES = 16 * 1024
PIECE_BYTES = 4096
Input = Literal["data", "digest"]


@dataclass(frozen=True)
class CommandSigner:
    """A `Signer` that runs a command for each signature: bytes to its input, the signature from its output.

    `data` is what most take (`openssl dgst -sha256 -sign`, `pkcs11-tool --mechanism ECDSA-SHA256`); with `digest` it
    gets the digest's bytes (SHA-256 for P-256). It may answer in DER, as `r` and `s` side by side, and in base64.
    """

    public: PublicKey
    command: Sequence[str]
    input: Input = "data"
    timeout_s: float = 60

    def __post_init__(self) -> None:
        if not self.command:
            raise FormatError("signer: a command and its arguments are expected")

    def sign(self, data: bytes) -> bytes:
        """Return a signature over `data`, as `Signer` says. Raises FormatError that tells what the command did."""
        algorithm = self.public.algorithm
        given = data if self.input == "data" else algorithms.digest(algorithm, data)
        answer = self._run(given)
        for signature in _readings(answer, algorithm):
            if self.public.verified_with(signature, data) == algorithm:
                return signature
        raise FormatError(
            f"{self._name}: its answer ({len(answer)} bytes) is no signature by {self.public.name}: another key, or "
            f"it expects {'the digest instead of the data' if self.input == 'data' else 'the data, not the digest'}"
        )

    def _run(self, given: bytes) -> bytes:
        try:
            process = subprocess.Popen(
                list(self.command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except (OSError, ValueError) as error:
            raise FormatError(f"{self._name}: it cannot be started: {error}") from None
        with process:
            try:
                answer, words = _talk(process, given, until=time.monotonic() + self.timeout_s)
                code = process.wait(self.timeout_s)
            except (TimeoutError, subprocess.TimeoutExpired):
                raise FormatError(f"{self._name}: no answer in {self.timeout_s:g} s") from None
            except OverflowError:
                raise FormatError(
                    f"{self._name}: more than {ANSWER_LIMIT_BYTES} bytes, which no signature has"
                ) from None
            finally:
                process.kill()
        if code != 0:
            raise FormatError(f"{self._name}: it ended with {code}: {_last(words)}")
        return answer

    @property
    def _name(self) -> str:
        return f"signer {self.command[0]}"


def _readings(answer: bytes, algorithm: str) -> Iterator[bytes]:
    """Everything the answer could be: as it is or in base64, DER or side by side."""
    for raw in (answer, _from_base64(answer)):
        if raw:
            yield raw
            try:
                yield algorithms.from_side_by_side(algorithm, raw, what="answer")
            except FormatError:
                continue


def _from_base64(answer: bytes) -> bytes:
    packed = b"".join(answer.split()).translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


def _talk(process: subprocess.Popen[bytes], given: bytes, *, until: float) -> tuple[bytes, bytes]:
    """Write what is given and read what comes, at most so much and so long. Raises TimeoutError, OverflowError."""
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018  (Popen was told to make them)
    answer, words, rest = bytearray(), bytearray(), given
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdin, selectors.EVENT_WRITE)
        waiting.register(process.stdout, selectors.EVENT_READ, answer)
        waiting.register(process.stderr, selectors.EVENT_READ, words)
        while waiting.get_map():
            ready = waiting.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            for found, _ in ready:
                if found.data is None:
                    rest = _give(found.fd, rest)
                    if not rest:
                        waiting.unregister(process.stdin)
                        process.stdin.close()
                elif piece := os.read(found.fd, PIECE_BYTES):
                    found.data.extend(piece)
                    del words[:-PIECE_BYTES]  # only the last of what it says is told
                    if len(answer) > ANSWER_LIMIT_BYTES:
                        raise OverflowError
                else:
                    waiting.unregister(found.fileobj)
    return bytes(answer), bytes(words)


def _give(to: int, rest: bytes) -> bytes:
    try:
        return rest[os.write(to, rest[:PIECE_BYTES]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:  # it reads no more: its exit code and its words will say why
        return b""


def _last(words: bytes) -> str:
    lines = [line.strip() for line in words.decode(errors="replace").splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-400:] or "it said nothing"
