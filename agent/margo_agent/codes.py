"""Why a deployment failed, as its status has it: code, source, words. No I/O."""

import re

from margo_oci.status import Fault

_COMPONENT = re.compile(r"component ([^\s:]{1,255}):")  # as `Runtime` and `Generations` begin their errors


def fault_of(code: str, words: str, name: str) -> Fault:
    """Return the failure of deployment `name`: the component to blame is its source, if one is named."""
    # What was done about it comes after a semicolon and is not what went wrong.
    blamed = _COMPONENT.search(words.partition("; ")[0])
    return Fault.of(code or "other", blamed[1] if blamed else name, words)
