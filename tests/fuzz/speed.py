"""How long it takes to verify a release and a head that are in memory: `python -m tests.fuzz.speed`."""

import statistics
import time
from collections.abc import Callable

from margo_oci.head import verify_head, verify_release
from margo_oci.manifest import Manifest
from margo_oci.root import Root
from margo_oci.signatures import Attached, Found
from margo_oci.trust import verify
from tests.fuzz.targets import NOW, SCOPE, fixed, policy, trusted_root

ROUNDS = 1000


def release() -> None:
    manifest = Manifest.from_bytes(fixed("manifest.json"), what="manifest")
    verify(manifest, Found([Attached("bundle", fixed("bundle.json"))]), policy(), now=NOW)


def head() -> None:
    verify_head(fixed("head.json"), trusted_root(), scopes=[SCOPE], now=NOW)


def head_and_release() -> None:
    found = verify_head(fixed("head.json"), trusted_root(), scopes=[SCOPE], now=NOW)
    manifest = Manifest.from_bytes(fixed("manifest.json"), what="manifest")
    verify_release(manifest, [fixed("bundle.json")], found, trusted_root())


def all_with_the_root() -> None:
    found = verify_head(fixed("head.json"), Root.from_bytes(fixed("root.json")), scopes=[SCOPE], now=NOW)
    manifest = Manifest.from_bytes(fixed("manifest.json"), what="manifest")
    verify_release(manifest, [fixed("bundle.json")], found, trusted_root())


def measured(work: Callable[[], None]) -> list[float]:
    """Return milliseconds, the first call (which imports) aside."""
    work()
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def main() -> None:
    """Print the median and the 99th of a hundred."""
    for work in (release, head, head_and_release, all_with_the_root):
        took = measured(work)
        name = work.__name__.replace("_", " ")
        print(f"{name:18} {statistics.median(took):.2f} ms, 99 of 100 within {took[int(0.99 * ROUNDS)]:.2f} ms")


if __name__ == "__main__":
    main()
