"""What is made of a Compose model before it is stored and applied."""

from typing import Any

import pytest

from margo_agent.model import pinned, sealed, self_contained
from margo_oci.errors import FormatError
from tests.unit.scenes import ID, lock

ARCHIVE = "/var/lib/margo-agent/components/1111"
PRIVATE = "/var/lib/margo-agent"
IMAGE = "registry.example/web:1"


def mounting(source: str, **more: Any) -> dict[str, Any]:
    volume = {"type": "bind", "source": source, "target": "/data", "bind": {"create_host_path": True}, **more}
    return {"services": {"web": {"image": IMAGE, "volumes": [volume]}}}


def seal(model: dict[str, Any]) -> dict[str, Any]:
    sealed_model = sealed(model, archive=ARCHIVE, private=PRIVATE)
    (volume,) = sealed_model["services"]["web"]["volumes"]
    assert isinstance(volume, dict)
    return volume


@pytest.mark.parametrize("source", [ARCHIVE, f"{ARCHIVE}/data", f"{ARCHIVE}/../1111/x", f"/{ARCHIVE}"])
def test_8_9_what_is_mounted_of_the_archive_is_read_only_and_never_made(source: str) -> None:
    volume = seal(mounting(source, read_only=False))
    assert (volume["read_only"], volume["bind"]) == (True, {"create_host_path": False})


@pytest.mark.parametrize(
    "source", [PRIVATE, f"{PRIVATE}/record.json", f"{PRIVATE}/components", f"{ARCHIVE}/../2222", f"{ARCHIVE}2"]
)
def test_8_9_the_agents_own_files_are_not_mounted(source: str) -> None:
    with pytest.raises(FormatError, match=r"services.web.volumes: .* is a path of the agent itself"):
        seal(mounting(source))


@pytest.mark.parametrize("source", ["/var/run/docker.sock", "/", "/var/lib/margo-agent-data"])
def test_8_9_paths_of_the_device_stay_as_they_are(source: str) -> None:
    assert seal(mounting(source)) == mounting(source)["services"]["web"]["volumes"][0]


def test_8_9_a_named_volume_stays_as_it_is() -> None:
    model = {"services": {"web": {"image": IMAGE, "volumes": [{"type": "volume", "source": "data", "target": "/d"}]}}}
    assert sealed(model, archive=ARCHIVE, private=PRIVATE) == model
    bare: dict[str, Any] = {"services": {"web": {"image": IMAGE}}}
    assert sealed(bare, archive=ARCHIVE, private=PRIVATE) == bare


def taking(kind: str) -> dict[str, Any]:
    return {
        "services": {"web": {"image": IMAGE, kind: [{"source": "one"}]}},
        kind: {"one": {"name": "p_one", "environment": "KEY"}},
    }


def test_a_config_from_a_variable_is_written_into_the_model() -> None:
    """Compose fills variables in again when it applies the stored model: a dollar sign must survive that."""
    found = self_contained(taking("configs"), {"KEY": "co$t"}, read=lambda _: b"")
    assert found.model["configs"] == {"one": {"name": "p_one", "content": "co$$t"}}
    assert found.secrets == {}


def test_a_secret_from_a_variable_keeps_its_value_out_of_the_model() -> None:
    """Its variable gets a name of ours: whatever it was called, it cannot steer Compose when it applies."""
    found = self_contained(taking("secrets"), {"KEY": "pa$$word"}, read=lambda _: b"")
    assert found.model["secrets"] == {"one": {"name": "p_one", "environment": "MARGO_SECRET_0"}}
    assert found.secrets == {"MARGO_SECRET_0": "pa$$word"}
    assert "pa$$word" not in str(found.model)


@pytest.mark.parametrize("kind", ["configs", "secrets"])
def test_a_variable_without_a_value_is_told(kind: str) -> None:
    with pytest.raises(FormatError, match=f"{kind}.one.environment: KEY has no value"):
        self_contained(taking(kind), {}, read=lambda _: b"")


@pytest.mark.parametrize("kind", ["configs", "secrets"])
def test_5_7_who_uses_a_value_changes_with_it(kind: str) -> None:
    def label(value: str) -> str:
        model = self_contained(taking(kind), {"KEY": value}, read=lambda _: b"").model
        return str(model["services"]["web"]["labels"])

    assert label("a") == label("a") != label("b")


def test_what_a_profile_turned_on_is_applied_without_the_profile() -> None:
    model = {"services": {"web": {"image": IMAGE, "profiles": ["debug"]}}}
    assert "profiles" not in pinned(model, lock(), device="edge-17", deployment=ID, component="web")["services"]["web"]
