"""Which of the stable codes a failure has, by its words: an engine and Compose say no more than words. No I/O."""

import re

from margo_oci.status import Fault

_COMPONENT = re.compile(r"component ([^\s:]{1,255}):")
# The first that fits. What is said of the disk and of ports comes from the engine, whatever was under way.
_WORDS = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    for code, pattern in (
        ("no-room", r"no space left|disk quota exceeded|no room|not enough (room|space)"),
        ("port-taken", r"port is already allocated|address already in use"),
        ("dependency", r"dependency|depends on|dependsOn"),
        ("rolled-back", r"rolled back|taken back"),
        ("not-removed", r"^compose down|could not be taken down"),
        ("engine", r"^engine at |cannot connect to the docker daemon|engine is away|stopped on request"),
        ("pull-failed", r"(^|: )(pull|image) [^ ]+[:/][^ ]*:|while (fetching|pulling)|no such image|manifest unknown"),
        ("unsupported-profile", r"^profile .* is not supported"),
        ("unhealthy", r"is unhealthy"),
        ("exited", r"exited with|exited \("),
        ("not-up", r"not up after|not done after"),
        ("unfit", r"compose config|compose\.yaml|parameter|not in the lock|unlocked|format|: .* is expected"),
    )
)


def code_of(words: str) -> str:
    """Return the code of a failure."""
    return next((code for code, pattern in _WORDS if pattern.search(words)), "other")


def fault_of(words: str, name: str) -> Fault:
    """Return the failure of deployment `name`: the component to blame is its source, if one is named."""
    blamed = _COMPONENT.search(words)
    # What was done about it comes after a semicolon and is not what went wrong.
    return Fault.of(code_of(words.partition("; ")[0]), blamed[1] if blamed else name, words)
