"""Keyless signatures: a short-lived certificate for a login, noted in a log. Sigstore's own library checks them.

It runs in a process of its own for each bundle (`keyless_check`): what it imports is heavy, and ends with it.
"""

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from margo_oci.errors import FormatError, TrustError, said
from margo_oci.identity import Identity
from margo_oci.transfer import Voucher

CHECK_LIMIT_S = 120.0  # most of it is importing, on a small device
ANSWER_LIMIT_BYTES = 256 * 1024  # a statement of 64 KiB in base64, and some words
# -P, and / as working directory: nothing that lies about where the program was started is imported.
CHECKER = (sys.executable, "-P", "-m", "margo_oci.keyless_check")
MISSING = "keyless signatures need sigstore: pip install 'margo-oci[keyless]'"


def need_sigstore() -> None:
    """Raise FormatError if sigstore is not installed; nothing of it is imported."""
    if find_spec("sigstore") is None:
        raise FormatError(MISSING)


def voucher(trusted_root: Path | None, *, program: Sequence[str] = CHECKER, limit_s: float = CHECK_LIMIT_S) -> Voucher:
    """Return what checks keyless bundles: with a trusted root (or a client trust config) from a file, without network.

    None stands for Sigstore's public instance, whose root is fetched and refreshed by TUF. Raises FormatError if
    sigstore is not installed. What is returned raises TrustError `bad-identity`, `malformed-signature`, and FormatError
    for a file that is no trusted root.
    """
    need_sigstore()
    root = str(trusted_root.absolute()) if trusted_root else ""

    async def vouch(digest: str, bundle: bytes, identities: Sequence[Identity]) -> tuple[str, bytes]:
        request = {
            "bundle": bundle.decode(errors="replace"),
            "identities": [[one.subject, one.issuer] for one in identities],
            "trustedRoot": root,
        }
        try:
            data = await asyncio.wait_for(_asked(program, json.dumps(request).encode()), limit_s)
        except TimeoutError:
            raise TrustError(
                "bad-identity", f"{digest}: the check of identities did not end in {limit_s:g} s"
            ) from None
        except OverflowError:
            raise TrustError("bad-identity", f"{digest}: the check of identities said too much") from None
        return _read(digest, data)

    return vouch


async def _asked(program: Sequence[str], request: bytes) -> bytes:
    """Run the check; return what it printed, at most so much of it."""
    process = await asyncio.create_subprocess_exec(
        *program,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
    )
    assert process.stdin  # noqa: S101  (pipes were asked for)
    assert process.stdout  # noqa: S101  (pipes were asked for)
    try:
        process.stdin.write(request)
        process.stdin.close()
        data = await _all(process.stdout)
        await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            await process.wait()
    return data


async def _all(stream: asyncio.StreamReader) -> bytes:
    """Read to the end. Raises OverflowError for more than an answer can be."""
    data = bytearray()
    while chunk := await stream.read(ANSWER_LIMIT_BYTES):
        data += chunk
        if len(data) > ANSWER_LIMIT_BYTES:
            raise OverflowError
    return bytes(data)


def _read(digest: str, data: bytes) -> tuple[str, bytes]:
    try:
        answer: Mapping[str, Any] = json.loads(data)
        if "statement" in answer:
            return str(answer["signedBy"]), base64.b64decode(answer["statement"], validate=True)
        if "fault" in answer:
            raise FormatError(said(answer["fault"]))
        reason, words = answer["refused"]
    except (ValueError, LookupError, TypeError):
        raise TrustError("bad-identity", f"{digest}: the check of identities ended without an answer") from None
    raise TrustError(str(reason), f"{digest}: {said(words)}")
