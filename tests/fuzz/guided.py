"""The same targets under atheris, guided by coverage: `python -m tests.fuzz.guided TARGET [options of libFuzzer]`.

atheris is no dependency of ours: `pip install atheris` where there is a wheel for this Python.
"""

import sys
import tempfile
from random import Random

import atheris

from margo_oci.errors import MargoError

with atheris.instrument_imports(include=["margo_oci", "margo_agent"]):
    from tests.fuzz.engine import FINDINGS, SEEDS
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import BY_NAME


def main() -> None:
    """Fuzz one target until it breaks, or as long as the options say (`-max_total_time=60`)."""
    target, options = BY_NAME[sys.argv[1]], sys.argv[2:]

    def feed(data: bytes) -> None:
        try:
            target.feed(data)
        except MargoError:
            return

    def change(data: bytes, limit_bytes: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, limit_bytes))
        return mutated(target, [data], Random(seed))[:limit_bytes]  # noqa: S311  (chance that can be repeated)

    found = f"-artifact_prefix={FINDINGS / target.name}/"
    kept = [str(folder / target.name) for folder in (SEEDS, FINDINGS) if (folder / target.name).is_dir()]
    (FINDINGS / target.name).mkdir(exist_ok=True)
    # libFuzzer keeps what is new in the first folder.
    atheris.Setup([sys.argv[0], found, *options, tempfile.mkdtemp(), *kept], feed, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
