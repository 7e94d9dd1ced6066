"""Credential helpers: programs that keep logins (docker-credential-helpers). A verb and text go in, JSON comes out."""

import json
import os
import selectors
import subprocess
import time
from pathlib import Path

from margo_oci.auth import Credentials
from margo_oci.errors import FormatError, shown

HELPER_TIMEOUT_S = 30.0
HELPER_LIMIT_BYTES = 64 * 1024
IDENTITY_TOKEN = "<token>"  # noqa: S105  (the name that says that the secret is an identity token)
_UNKNOWN = "credentials not found"


def ask_helper(program: str | Path, host: str, *, what: str) -> Credentials | None:
    """Return what a helper keeps for `host`; None if it knows nothing of it. Raises FormatError, naming `what`."""
    code, answer = _run(program, "get", host, what)
    if code:
        if answer.lower().startswith(_UNKNOWN):
            return None
        raise FormatError(f"{what}: {program} get for {host} ended with {code}: {shown(answer) or 'no word why'}")
    return login_of(answer, what=f"{what}: {program}: its answer for {host}")


def login_of(answer: str, *, what: str) -> Credentials:
    """Return the login in a helper's answer. Raises FormatError, starting with `what`."""
    try:
        raw = json.loads(answer)
        username, secret = raw["Username"], raw["Secret"]
        if not isinstance(username, str) or not isinstance(secret, str):
            raise TypeError
        (username + secret).encode()  # half a surrogate pair could not be sent on
    except (ValueError, KeyError, TypeError, RecursionError):
        raise FormatError(f"{what} is not usable") from None
    return Credentials("", "", secret) if username == IDENTITY_TOKEN else Credentials(username, secret)


def store_login(program: str | Path, host: str, credentials: Credentials, *, what: str) -> None:
    """Have a helper keep a login. Raises FormatError if it does not."""
    secret = {"ServerURL": host, "Username": credentials.username, "Secret": credentials.password}
    code, answer = _run(program, "store", json.dumps(secret), what)
    if code:
        raise FormatError(f"{what}: {program} could not keep the login for {host}: {shown(answer) or 'no word why'}")


def erase_login(program: str | Path, host: str, *, what: str) -> bool:
    """Have a helper forget a host; tell whether it did. Raises FormatError for one that cannot be run."""
    return _run(program, "erase", host, what)[0] == 0


def _run(program: str | Path, verb: str, text: str, what: str) -> tuple[int, str]:
    """Run a helper; return its exit code and what it printed, whose length and time are bounded."""
    try:
        with subprocess.Popen(
            [program, verb], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                answer = _talk(process, text.encode(), time.monotonic() + HELPER_TIMEOUT_S)
                return process.wait(HELPER_TIMEOUT_S), answer.decode(errors="replace").strip()
            finally:
                process.kill()
    except FileNotFoundError:
        raise FormatError(f"{what}: credential helper {program}: it is not installed, or not in PATH") from None
    except (OSError, subprocess.TimeoutExpired, TimeoutError) as error:
        words = f"no answer within {HELPER_TIMEOUT_S:.0f} s" if _is_late(error) else str(error)
        raise FormatError(f"{what}: credential helper {program}: {words}") from None


def _talk(process: "subprocess.Popen[bytes]", text: bytes, deadline_s: float) -> bytes:
    """Write all, then read all, and give up on a helper that is too slow or says too much."""
    assert process.stdin  # noqa: S101  (pipes were asked for)
    assert process.stdout  # noqa: S101  (pipes were asked for)
    try:
        process.stdin.write(text)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it did not want to hear it all; its answer says why
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline_s - time.monotonic())):
            if not (chunk := os.read(process.stdout.fileno(), HELPER_LIMIT_BYTES)):
                return bytes(answer)
            answer += chunk
            if len(answer) > HELPER_LIMIT_BYTES:
                raise OSError(f"it said more than {HELPER_LIMIT_BYTES} bytes")
    raise TimeoutError


def _is_late(error: Exception) -> bool:
    return isinstance(error, subprocess.TimeoutExpired) or (isinstance(error, TimeoutError) and not error.errno)
