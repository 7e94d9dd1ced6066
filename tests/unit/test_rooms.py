"""The rooms of the code and the arrows between them, as the code has them."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import margo_oci
from tests.unit.scenes import ROOT

FOLDERS = {"margo_oci": ROOT / "margo_oci", "margo_agent": ROOT / "agent" / "margo_agent",
           "margo_cli": ROOT / "cli" / "margo_cli"}  # fmt: skip

# A room may only import what stands above it. A new room takes its place here.
LEVELS = (
    {"errors"},
    {
        "content",
        "dependencies",
        "leash",
        "tarheaders",
        "units",
        "interpolation",
        "yamldoc",
        "yamltext",
        "algorithms",
        "cbor",
        "subjects",
        "identity",
        "pace",
        "platforms",
        "bulk",
    },
    {"archive", "yamltree"},
    {"reference", "manifest", "deployment", "cosign_key", "auth", "store", "answers", "proxy", "host_certificates"},
    {
        "faults",
        "layout",
        "editing",
        "revising",
        "versions",
        "keys",
        "envelopes",
        "trustpolicy",
        "composefile",
        "access",
        "helper",
        "freshness",
    },
    {
        "certificates",
        "jwk",
        "signed",
        "signers",
        "simple_signing",
        "tuf",
        "grants",
        "mirrors",
        "jsonfields",
        "settings",
        "composereads",
        "quadlet",
    },
    {"jwe"},
    {"files"},
    {"mounting"},
    {"desired_state", "package", "cosign", "notary", "truststore", "root", "status", "events", "capabilities"},
    {"device_status", "device_report", "constraints", "gitsource"},
    {"application"},
    {"apppackage", "deploying"},
    {"fleet", "signatures", "carrier", "keyless_check", "attestation", "compose", "registry", "upload", "credentials"},
    {"trust"},
    {"images", "transfer", "head", "trustconfig"},
    {"applications", "component", "signing", "keyless", "keyless_sign", "reports"},
    {"lock", "publish", "heads", "attest", "judging"},
    {"ceremony", "issue", "tree", "closure", "offering", "flux", "locks", "pinned"},
    {"bundle", "layout_registry", "serving", "copying"},
    {"__init__"},
)

PURE = (
    "margo_oci.content",
    "margo_oci.reference",
    "margo_oci.manifest",
    "margo_oci.tarheaders",
    "margo_oci.archive",
    "margo_oci.yamldoc",
    "margo_oci.yamltree",
    "margo_oci.composefile",
    "margo_oci.composereads",
    "margo_oci.units",
    "margo_oci.interpolation",
    "margo_oci.quadlet",
    "margo_oci.dependencies",
    "margo_oci.deployment",
    "margo_oci.faults",
    "margo_oci.settings",
    "margo_oci.constraints",
    "margo_oci.application",
    "margo_oci.apppackage",
    "margo_oci.deploying",
    "margo_oci.yamltext",
    "margo_oci.editing",
    "margo_oci.revising",
    "margo_oci.versions",
    "margo_oci.files",
    "margo_oci.mounting",
    "margo_oci.jwk",
    "margo_oci.jwe",
    "margo_oci.desired_state",
    "margo_oci.package",
    "margo_oci.algorithms",
    "margo_oci.cbor",
    "margo_oci.subjects",
    "margo_oci.keys",
    "margo_oci.cosign_key",
    "margo_oci.cosign",
    "margo_oci.simple_signing",
    "margo_oci.certificates",
    "margo_oci.trustpolicy",
    "margo_oci.envelopes",
    "margo_oci.notary",
    "margo_oci.signatures",
    "margo_oci.attestation",
    "margo_oci.trust",
    "margo_oci.freshness",
    "margo_oci.tuf",
    "margo_oci.root",
    "margo_oci.head",
    "margo_oci.carrier",
    "margo_oci.auth",
    "margo_agent.model",
    "margo_agent.placements",
    "margo_oci.answers",
    "margo_oci.platforms",
    "margo_agent.fit",
    "margo_agent.unready",
    "margo_oci.proxy",
    "margo_oci.jsonfields",
    "margo_oci.status",
    "margo_oci.device_status",
    "margo_oci.device_report",
    "margo_oci.events",
    "margo_oci.capabilities",
    "margo_oci.fleet",
    "margo_agent.plan",
    "margo_agent.window",
    "margo_agent.drift",
    "margo_agent.events",
    "margo_agent.garbage",
    "margo_agent.reasons",
    "margo_agent.codes",
    "margo_agent.textfile",
)
OUTSIDE = {
    "aiohttp", "asyncio", "docker", "glob", "http", "httpx2", "multiprocessing", "oras", "os", "random",
    "requests", "secrets", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib.request", "urllib3",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}  # a time is a value, to ask what time it is is not


def sources() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for file in sorted(folder.glob("**/*.py")):
            yield f"{package}.{file.relative_to(folder).with_suffix('').as_posix().replace('/', '.')}", file


TREES: Mapping[str, ast.Module] = {name: ast.parse(file.read_text(), str(file)) for name, file in sources()}


def imports(room: str) -> Iterator[str]:
    """Every module a room imports, also inside functions; `from a import b` counts as `a.b` where that is a module."""
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{room}:{node.lineno}: a relative import"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in TREES else str(node.module)


def rooms_within(package: str, room: str) -> set[str]:
    """Which rooms of `package` a room imports."""
    return {name for name in imports(room) if name.partition(".")[0] == package}


def calls(room: str) -> Iterator[str]:
    """The last name of everything a room calls."""
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr


def test_every_room_was_found() -> None:
    assert {"margo_oci.trust", "margo_agent.loop", "margo_cli.session"} <= set(TREES)
    assert {name.removeprefix("margo_oci.") for name in TREES if name.startswith("margo_oci.")} == set().union(*LEVELS)


@pytest.mark.parametrize(
    ("package", "stranger"),
    [
        ("margo_oci", "margo_agent"),
        ("margo_oci", "margo_cli"),
        ("margo_agent", "margo_cli"),
        ("margo_cli", "margo_agent"),
    ],
)
def test_the_library_knows_no_program_and_programs_do_not_know_each_other(package: str, stranger: str) -> None:
    found = {room: rooms_within(stranger, room) for room in TREES if room.startswith(f"{package}.")}
    assert {room: names for room, names in found.items() if names} == {}


@pytest.mark.parametrize("name", sorted(set().union(*LEVELS)))
def test_arrows_inside_the_library_point_one_way(name: str) -> None:
    level = next(number for number, rooms in enumerate(LEVELS) if name in rooms)
    allowed = {f"margo_oci.{room}" for rooms in LEVELS[:level] for room in rooms}
    assert rooms_within("margo_oci", f"margo_oci.{name}") <= allowed


@pytest.mark.parametrize("name", ["registry", "store", "auth", "archive", "manifest", "desired_state", "package"])
def test_only_what_stands_behind_trust_knows_of_it(name: str) -> None:
    assert "margo_oci.trust" not in reached(f"margo_oci.{name}")


def test_transfer_is_where_registry_trust_and_store_meet() -> None:
    meeting = {"margo_oci.registry", "margo_oci.trust", "margo_oci.store"}
    rooms = {room for room in TREES if room.startswith("margo_oci.") and meeting <= rooms_within("margo_oci", room)}
    assert rooms == {"margo_oci.transfer", "margo_oci.__init__"}


@pytest.mark.parametrize("room", sorted(TREES))
def test_nothing_imports_itself_round_a_corner(room: str) -> None:
    assert room not in reached(room)


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_neither_network_nor_disk_nor_clock(room: str) -> None:
    for each in {room, *reached(room)}:
        names = set(imports(each))
        assert not {name for name in names if name in OUTSIDE or name.partition(".")[0] in OUTSIDE}, each
        assert "Path" not in imported_names(each, "pathlib"), f"{each} imports pathlib.Path"
        assert not {"exec", "eval", "input", "print", *CLOCKS} & set(calls(each)), each


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_open_nothing_but_what_they_were_handed(room: str) -> None:
    for each in {room, *reached(room)}:
        for node in ast.walk(TREES[each]):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "io.open", "tarfile.open"):
                assert any(keyword.arg == "fileobj" for keyword in node.keywords), f"{each}:{node.lineno}"


def test_every_assert_says_why_it_cannot_fail() -> None:
    lines = [f"{name}: {line.strip()}" for name, file in sources() for line in file.read_text().splitlines()]
    assert [line for line in lines if "noqa: S101" in line and not line.endswith(")")] == []


def test_only_trust_says_that_a_state_is_verified() -> None:
    assert [room for room in TREES if "Verified" in calls(room)] == ["margo_oci.trust"]


def test_the_environment_is_read_where_programs_begin() -> None:
    readers = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert readers <= {"margo_agent.main", "margo_agent.local", "margo_agent.telling", "margo_cli.session"}


def test_the_front_door_is_complete_and_sorted() -> None:
    assert margo_oci.__all__ == sorted(margo_oci.__all__)
    assert set(margo_oci.__all__) == {name for names in margo_oci._ROOMS.values() for name in names}
    assert set(margo_oci.__all__) == {
        alias.name
        for node in ast.walk(TREES["margo_oci.__init__"])
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("margo_oci.")
        for alias in node.names
    }


@pytest.mark.parametrize("name", margo_oci.__all__)
def test_every_name_at_the_front_door_leads_somewhere(name: str) -> None:
    room = next(room for room, names in margo_oci._ROOMS.items() if name in names)
    assert getattr(margo_oci, name).__module__ == f"margo_oci.{room}"


def test_a_name_that_is_not_at_the_front_door_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'margo_oci' has no attribute 'Manager'"):
        margo_oci.Manager  # noqa: B018


@pytest.mark.parametrize(
    "modules",
    [
        ("margo_agent.main", "margo_agent.loop", "margo_agent.reporter"),
        ("margo_agent.watching", "margo_agent.address", "margo_agent.noticed"),
        ("margo_oci",),
        ("margo_oci.registry", "margo_oci.store"),
        ("margo_oci.freshness",),
    ],
    ids=" and ".join,
)
def test_an_idle_agent_holds_no_cryptography_in_memory(modules: tuple[str, ...]) -> None:
    code = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'cryptography', 'sigstore', 'margo_oci.keyless', 'docker', 'requests', 'oras',"
        "         'rich', 'margo_oci.trust', 'margo_agent.engine', 'opentelemetry', 'google', 'margo_oci.jwe'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_opentelemetry_is_reached_by_what_a_pass_does_last_and_by_nothing_else() -> None:
    users = [room for room in TREES if any(name.partition(".")[0] == "opentelemetry" for name in imports(room))]
    assert users == ["margo_agent.telemetry"]
    assert [room for room in TREES if users[0] in rooms_within("margo_agent", room)] == ["margo_agent.telling"]
    assert "margo_agent.telemetry" not in reached("margo_agent.loop")


def test_x_509_is_held_by_nobody_who_trusts_no_notary() -> None:
    code = (
        "import sys, margo_oci.trust, margo_oci.notary, margo_oci.trustpolicy, margo_oci.truststore, margo_oci.cosign\n"
        "heavy = {'cryptography.x509', 'margo_oci.certificates', 'margo_oci.cosign_key', 'nacl'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_checking_a_description_loads_neither_network_nor_cryptography() -> None:
    code = (
        "import sys, margo_cli.main, margo_cli.app, margo_cli.validate\n"
        "heavy = {'cryptography', 'httpx2', 'oras', 'requests', 'rich', 'asyncio', 'margo_cli.session', 'sigstore'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def reached(room: str) -> set[str]:
    """All rooms of ours that a room leads to."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        for name in imports(waiting.pop()):
            if name in TREES and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def imported_names(room: str, module: str) -> set[str]:
    """Which names a room takes out of a module; all of them are "Path" if it imports it whole."""
    names: set[str] = set()
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            names.add("Path")
    return names
