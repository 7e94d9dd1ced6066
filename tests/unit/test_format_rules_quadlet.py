"""Section 8 of docs/format.md: components as Quadlet Archives."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from margo_cli.bounded import bounded
from margo_oci.archive import Entry, unpack
from margo_oci.compose import Compose
from margo_oci.content import Descriptor
from margo_oci.desired_state import Lock
from margo_oci.errors import FormatError
from margo_oci.lock import Locker
from margo_oci.manifest import Manifest, kind_of
from margo_oci.package import (
    COMPOSE,
    QUADLET,
    QUADLET_ARTIFACT,
    QUADLET_LAYER,
    ComponentArtifact,
    archive_layer,
    build_component,
    form_of,
    form_of_content,
    open_archive,
)
from margo_oci.quadlet import images_of_units, names_only_the_archive, units_can_be_read, units_of, warnings_of
from margo_oci.registry import Access, Registry
from margo_oci.store import Store
from margo_oci.units import LINES_LIMIT, UNIT_LIMIT_BYTES, parse_unit
from tests.simulators.registry import SimulatedRegistry
from tests.unit.scenes import deployment, hostile, member

HOST = "registry.example"
KEY = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
WEB = """\
# what serves
[Unit]
Description=Web
After=network-online.target

[Container]
Image=registry.example/web:1
EnvironmentFile=config/web.env
Volume=data.volume:/data
Volume=./static:/srv:ro
Network=back.network
Exec=serve \\
  --port 80

[Install]
WantedBy=default.target
"""
SHOP = {
    "web.container": WEB, "config/web.env": "A=1\n", "static/index.html": "hi", "data.volume": "[Volume]\n",
    "back.network": "[Network]\nInternal=true\n", "all.pod": "[Pod]\n", "README.md": "# Shop\n",
}  # fmt: skip


def entries(files: dict[str, str], top: str = "hello") -> list[Entry]:
    return [Entry(f"{top}/{name}", text.encode()) for name, text in files.items()]


def built(files: dict[str, str], name: str = "hello") -> ComponentArtifact:
    named = {path: Entry(path, text.encode()) for path, text in files.items()}
    return build_component(named, name=name, version="1.4.0", form=QUADLET)


def refused(*members: Any) -> list[str]:
    with pytest.raises(FormatError) as error:
        open_archive(hostile(*members), what="c", form=QUADLET)
    return [fault.removeprefix("c: ") for fault in error.value.faults]


def container(text: str, **files: str) -> list[Entry]:
    return entries({"web.container": f"[Container]\nImage=x\n{text}\n", **files})


def faults(text: str, **files: str) -> list[str]:
    found = [*units_can_be_read(container(text, **files)), *names_only_the_archive(container(text, **files))]
    return [str(fault).removeprefix("hello/web.container:") for fault in found]


def test_8_10_a_quadlet_component_has_types_of_its_own() -> None:
    raw = json.loads(built(SHOP).manifest.data)
    assert raw["artifactType"] == "application/vnd.org.margo.component.quadlet.v1+json"
    assert [one["mediaType"] for one in raw["layers"]] == ["application/vnd.org.margo.component.quadlet.v1.tar.gzip"]
    assert raw["layers"][0]["annotations"]["org.margo.component.type"] == "quadlet"
    assert raw["annotations"]["org.margo.component.version"] == "1.4.0"
    assert built(SHOP) == built(dict(reversed(SHOP.items())))


@pytest.mark.parametrize("ending", ["v1.tar.gzip", "v1.tar+gzip"])
def test_8_10_both_spellings_of_the_layer_are_read(ending: str) -> None:
    layer = Descriptor.of(b"", f"application/vnd.org.margo.component.quadlet.{ending}")
    for artifact in (QUADLET_ARTIFACT, "application/vnd.oci.empty.v1+json"):
        manifest = Manifest.build(artifact, [layer])
        assert form_of(manifest, what="c") is QUADLET
        assert archive_layer(manifest, what="c", form=QUADLET) == layer


def test_8_10_one_kind_of_component_is_not_taken_for_the_other() -> None:
    manifest = built(SHOP).manifest
    with pytest.raises(FormatError, match=r"c: a Compose component is expected, got 'application/vnd.org.margo.compon"):
        archive_layer(manifest, what="c")
    with pytest.raises(FormatError, match="c: a component is expected, got 'a/b'"):
        form_of(Manifest.build("a/b", []), what="c")
    two = Manifest.build(QUADLET_ARTIFACT, [Descriptor.of(b"", QUADLET_LAYER), Descriptor.of(b"x", QUADLET_LAYER)])
    with pytest.raises(FormatError, match="exactly one Quadlet Archive layer is expected, got 2 layers"):
        archive_layer(two, what="c", form=QUADLET)


def test_8_10_the_files_say_which_kind_it_is() -> None:
    assert form_of_content(["web.container", "compose.txt"]) is QUADLET
    assert form_of_content(["units/web.container"]) is QUADLET
    assert form_of_content(["compose.yaml", "quadlet/web.container"]) is COMPOSE
    assert form_of_content(["compose.yml"]) is COMPOSE
    assert form_of_content([]) is COMPOSE


def test_8_11_there_is_one_folder_called_as_the_component() -> None:
    assert {one.path.split("/")[0] for one in unpack(built(SHOP, "pump").layer, what="c")} == {"pump"}
    unit = b"[Container]\nImage=x\n"
    assert refused(member("a/x.container", unit), member("b/y.container", unit)) == [
        "exactly one folder at the top is expected, got a, b"
    ]
    assert open_archive(hostile(member("a/x.container", unit)), what="c", form=QUADLET).top == "a"


@pytest.mark.parametrize("kind", ["container", "network", "volume", "image", "build", "pod", "kube"])
def test_8_12_there_is_at_least_one_unit(kind: str) -> None:
    text = f"[{kind.capitalize()}]\nImage=x\nYaml=a.yaml\n".encode()
    opened = open_archive(hostile(member(f"a/x.{kind}", text), member("a/a.yaml")), what="c", form=QUADLET)
    assert [one.path for one in opened.entries] == [f"x.{kind}", "a.yaml"]
    assert refused(member("a/x.service", text)) == [
        "no unit: at least one file *.container, *.network, *.volume, *.image, *.build, *.pod, *.kube is expected"
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("broken", "3: 'broken' is neither [Section] nor Key=value nor a comment"),
        ("[Unit", "3: '[Unit' is neither [Section] nor Key=value nor a comment"),
        ("a b=1", "3: 'a b=1' is neither [Section] nor Key=value nor a comment"),
        ("Exec=a \\\n  b\nbroken", "5: 'broken' is neither [Section] nor Key=value nor a comment"),
        ("Exec=\0", "3: a control character is not accepted"),
    ],
)
def test_8_12_a_unit_is_a_unit_file_and_a_fault_has_its_line(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.container", "Image=x\n", "a.container:1: 'Image=x' stands before the first [Section]"),
        ("a.container", "[Unit]\n", "a.container: the section [Container] is missing"),
        ("a.container", "[Container]\nExec=a\n", "a.container: Image= is missing in [Container]: name it there"),
        ("a.container", "[Container]\nImage=a\nImage=\n",
         "a.container: Image= is missing in [Container]: name it there"),
        ("a.image", "[Image]\n", "a.image: Image= is missing in [Image]: name it there"),
        ("a.kube", "[Kube]\n", "a.kube: Yaml= is missing in [Kube]: name it there"),
        ("a.volume", "", "a.volume: the section [Volume] is missing"),
    ],
)  # fmt: skip
def test_8_12_what_podman_needs_of_a_unit_is_there(name: str, text: str, fault: str) -> None:
    assert [str(one) for one in units_can_be_read(entries({name: text}, top="t"))] == [f"t/{fault}"]


def test_8_12_a_unit_is_bounded_and_text() -> None:
    assert parse_unit(b"\xff").faults == ((1, "not UTF-8: invalid start byte"),)
    (_, words), = parse_unit(b"x" * (UNIT_LIMIT_BYTES + 1)).faults  # fmt: skip
    assert words == f"at most {UNIT_LIMIT_BYTES} bytes and {LINES_LIMIT} lines are read"
    assert parse_unit(b"\n" * (LINES_LIMIT + 1)).faults


def test_8_12_all_units_together_are_bounded() -> None:
    many = {f"{n}.container": "[Container]\nImage=x\n" + "\n" * 15_000 for n in range(4)}
    assert [str(one) for one in units_can_be_read(entries(many))] == ["more than 50000 lines in all units together"]
    assert units_can_be_read(entries(dict(list(many.items())[:3]))) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Exec=a \\\n# note\nImage=evil", "4: a comment after a backslash is read in two ways: remove one of them"),
        (
            "Exec=a \\\n  ; note \\\nImage=evil",
            "4: a comment after a backslash is read in two ways: remove one of them",
        ),
        ("Exec=a \\\n\nImage=evil", "4: an empty line after a backslash is read in two ways: remove one of them"),
        ("Image=evil\nExec=a \\ \nImage=\nImage=x", "4: blanks after the backslash are read in two ways: remove them"),
        ("Image=evil\nImage\x1f=\nImage=x", "4: a control character is not accepted"),
        ("Image=evil\rImage=x", "3: a control character is not accepted"),
    ],
)
def test_8_12_what_podman_would_read_in_another_way_is_refused(text: str, fault: str) -> None:
    assert faults(text) == [fault]


def test_8_12_lines_that_go_on_are_one_and_a_comment_may_end_as_they_do() -> None:
    unit = parse_unit(WEB.encode() + b"[Service]\r\nRestart = always\r\nExecStart=a \\\n")
    (line,) = unit.values("Container", "Exec")
    assert (line.number, line.value) == (12, "serve    --port 80")
    assert [one.value for one in unit.values("Service", "Restart")] == ["always"]
    assert [one.value for one in unit.values("Service", "ExecStart")] == ["a"]
    assert unit.faults == ()
    assert parse_unit(b"# note \\\n[Service]\n\t; more \\ \nType=simple\n").faults == ()


def test_8_12_a_drop_in_is_a_part_of_a_unit() -> None:
    files = {"web.container": WEB, "web.container.d/10.conf": "[Container]\nImage=registry.example/other:2\n",
             "container.d/all.conf": "[Service]\nRestart=always\n", "note.d/x.conf": "no unit at all"}  # fmt: skip
    assert units_can_be_read(entries(files)) == []
    assert [(one.path, one.whole) for one in units_of(entries(files))] == [
        ("hello/web.container", True), ("hello/web.container.d/10.conf", False), ("hello/container.d/all.conf", False)
    ]  # fmt: skip
    assert images_of_units(entries(files), what="c") == ["registry.example/other:2", "registry.example/web:1"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("EnvironmentFile=x.env", "3: EnvironmentFile: 'x.env' is not in the archive"),
        ("EnvironmentFile=../x.env", "3: EnvironmentFile: '../x.env' leads out of the archive"),
        ("Volume=./gone:/x", "3: Volume: './gone' is not in the archive"),
        ("Volume=../a/b:/x", "3: Volume: '../a/b' leads out of the archive"),
    ],
)
def test_8_13_files_that_units_name_are_in_the_archive(text: str, fault: str) -> None:
    assert faults(text) == [fault]


@pytest.mark.parametrize(
    "text",
    ["EnvironmentFile=web.env", "EnvironmentFile=./web.env", "EnvironmentFile=/etc/web.env",
     "EnvironmentFile=%h/web.env",
     "Volume=data.volume:/x", "Volume=data:/x", "Volume=/dev:/dev", "Volume=./web.env:/x", "Volume=.:/x", "Volume=/x",
     "EnvironmentFile=gone.env\nEnvironmentFile="],
)  # fmt: skip
def test_8_13_what_lies_elsewhere_by_its_nature_may_be_named(text: str) -> None:
    assert faults(text, **{"web.env": ""}) == []


def test_8_13_a_file_is_no_folder_and_an_empty_folder_may_be_mounted() -> None:
    made = [*container("EnvironmentFile=conf\nVolume=./conf:/a\nVolume=./data:/b"), Entry("hello/conf", folder=True),
            Entry("hello/data", folder=True)]  # fmt: skip
    assert [str(one) for one in names_only_the_archive(made)] == [
        "hello/web.container:3: EnvironmentFile: 'conf' is not in the archive"
    ]


def test_8_13_many_mounts_and_many_files_are_held_against_each_other_in_no_time() -> None:
    files = [Entry(f"hello/{number}/file") for number in range(5_000)]
    unit = b"[Container]\nImage=x\n" + b"Volume=./gone:/x\n" * 16_000
    with bounded("many mounts", 8.0):
        found = names_only_the_archive([*files, *(Entry(f"hello/{name}.container", unit) for name in "abc")])
    assert len(found) == 48_000


def test_8_13_a_kube_unit_brings_its_files() -> None:
    files = {"a.kube": "[Kube]\nYaml=a.yaml\nConfigMap=maps/b.yaml\n", "a.yaml": ""}
    assert [str(one) for one in names_only_the_archive(entries(files))] == [
        "hello/a.kube:3: ConfigMap: 'maps/b.yaml' is not in the archive"
    ]


def test_8_13_secrets_are_not_shipped_and_paths_of_the_device_get_a_warning() -> None:
    with pytest.raises(FormatError, match=r"^hello/tls/key.pem: a private key must not be shipped: "):
        built({**SHOP, "tls/key.pem": KEY.decode()})
    found = warnings_of(container("Volume=/dev/ttyS0:/dev/ttyS0\nEnvironmentFile=/etc/x.env\nSecret=token"))
    assert [str(one) for one in found] == [
        "hello/web.container:4: EnvironmentFile: '/etc/x.env' is a path of the device: not shipped",
        "hello/web.container:3: Volume: '/dev/ttyS0' is a path of the device: not shipped",
    ]
    assert {one.fault.level for one in found} == {"warning"}


@pytest.mark.parametrize(
    "bad", [member("/a"), member("a/../b"), member("a/x", mode=0o4755), member("a/x", kind=b"2", link="/etc/passwd")]
)
def test_8_13_the_rules_for_all_archives_hold_for_these(bad: Any) -> None:
    assert len(refused(member("a/x.container", WEB.encode()), bad)) == 1


@pytest.mark.parametrize("name", [".container", "..container", "a.b.container", "sub/.container"])
def test_8_14_the_image_of_whatever_podman_takes_for_a_unit_is_locked(name: str) -> None:
    unit = {name: "[Container]\nServiceName=web\nImage=registry.example/web:1\n"}
    assert images_of_units(entries(unit), what="c") == ["registry.example/web:1"]
    for other in ("container", "x.containers", ".container.bak"):
        assert images_of_units(entries({other: unit[name]}), what="c") == []


def test_8_14_images_of_units_are_those_that_run() -> None:
    files = {
        **SHOP, "tool.image": "[Image]\nImage=registry.example/tool:2\n",
        "tool.container": "[Container]\nImage=tool.image\n",
        "ro.volume": "[Volume]\nDriver=image\nImage=registry.example/data:3\n",
        "job.container": "[Container]\nImage=registry.example/job@sha256:" + "1" * 64 + "\nMount=type=image,"
        "source=registry.example/model:4,destination=/m\nMount=type=bind,source=/x,destination=/y\n",
    }  # fmt: skip
    assert images_of_units(entries(files), what="c") == [
        "registry.example/data:3", "registry.example/job@sha256:" + "1" * 64, "registry.example/model:4",
        "registry.example/tool:2", "registry.example/web:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.build", "[Build]\n", "a.build: no digest covers what a device builds: push the image and name it"),
        ("a.kube", "[Kube]\nYaml=x.yaml\n", "a.kube: its images cannot be locked: write .container units"),
        ("a.container", "[Container]\nRootfs=/srv\n",
         "a.container:2: Rootfs: a folder of the device, which no digest covers: name an image"),
        ("a.container", "[Container]\nImage=x:%i\n",
         "a.container:2: Image: 'x:%i' is not known before it runs: write it out"),
        ("a.container", "[Container]\nImage=b.build\n", "a.container:2: Image: 'b.build' is no unit of the archive"),
    ],
)  # fmt: skip
def test_8_14_what_no_lock_covers_is_not_published(name: str, text: str, words: str) -> None:
    with pytest.raises(FormatError) as error:
        images_of_units(entries({name: text}, top="t"), what="c")
    assert error.value.faults == (f"c: t/{words}",)


@pytest.mark.parametrize(
    "mount",
    [
        '"type=image",source=registry.example/m:1,destination=/x',
        "'\"type=image\",source=registry.example/m:1'",
        "Type=IMAGE,Src=registry.example/m:1",
        "type=tmpfs,destination=/t type=image,source=registry.example/m:1",
        "type=bind,type=image,source=registry.example/m:1",
    ],
)
def test_8_14_an_image_that_is_mounted_is_locked_however_it_is_written(mount: str) -> None:
    assert images_of_units(container(f"Mount={mount}"), what="c") == ["registry.example/m:1", "x"]


@pytest.mark.parametrize(
    ("mount", "kind"),
    [
        ("type=artifact,source=registry.example/m:1", "artifact"),
        ('"type=glob",source=/x*', "glob"),
        (r"ty\x70e=image,source=registry.example/m:1", "unclear"),
        ("type=image,\\\nsource=registry.example/m:1", "unclear"),
        ('"type=image,source=registry.example/m:1', "unclear"),
    ],
)
def test_8_14_a_mount_that_no_lock_covers_is_not_published(mount: str, kind: str) -> None:
    found = container(f"Mount={mount}")
    words = f"hello/web.container:3: Mount: '{kind}' is not accepted: bind, volume, tmpfs, devpts, image are, "
    with pytest.raises(FormatError) as error:
        images_of_units(found, what="c")
    assert error.value.faults == (f"c: {words}written without backslashes",)
    assert [str(one) for one in warnings_of(found)] == [f"{words}written without backslashes"]


def test_8_14_what_may_get_round_the_lock_gets_a_warning() -> None:
    found = warnings_of(
        container(
            "AutoUpdate=registry\nPodmanArgs=--pull=always\nGlobalArgs=--url=x\nContainersConfModule=/x\n"
            "[Service]\nExecStartPre=podman run x",
            **{"a.build": "[Build]\n"},
        )
    )
    assert [str(one).removeprefix("hello/") for one in found] == [
        "web.container:3: AutoUpdate: what it brings is not what was locked",
        "web.container:4: PodmanArgs: not looked at: it may get round the lock",
        "web.container:5: GlobalArgs: not looked at: it may get round the lock",
        "web.container:6: ContainersConfModule: not looked at: it may get round the lock",
        "web.container:8: ExecStartPre: what it runs on the device is not looked at: it may get round the lock",
        "a.build: no digest covers what a device builds: push the image and name it",
    ]


def locked(folder: Path, artifact: ComponentArtifact, *, profile: str = "quadlet", name: str = "hello") -> Lock:
    sim = SimulatedRegistry(host=HOST)
    sim.put_blob("components/hello", artifact.layer)
    sim.put_manifest("components/hello", "1.0.0", artifact.manifest.data)
    sim.put_manifest("web", "1", b"web:1")
    components = [{"name": name, "properties": {"repository": f"oci://{HOST}/components/hello", "revision": "1.0.0"}}]

    async def lock() -> Lock:
        async with (
            Registry(lambda _: Access(), transport_for=lambda _: sim.transport) as registry,
            Locker(registry, Store(folder), lambda: Compose((), {})) as locker,
        ):
            one = deployment(deploymentProfile={"type": profile, "components": components})
            return await locker.lock(one, what="hello.yaml")

    return asyncio.run(lock())


@pytest.mark.parametrize("profile", ["quadlet", "quadlet.v1"])
def test_8_14_a_deployment_is_locked_with_the_images_of_its_units(profile: str, tmp_path: Path) -> None:
    artifact = built(SHOP)
    found = locked(tmp_path, artifact, profile=profile)
    assert found.components == {f"oci://{HOST}/components/hello:1.0.0": artifact.manifest.digest}
    assert list(found.images) == [f"{HOST}/web:1"]


def test_8_14_a_component_of_another_name_or_kind_is_not_locked(tmp_path: Path) -> None:
    words = "its folder is called 'hello', and must be called as the component: pump"
    with pytest.raises(FormatError, match=f"^hello.yaml: component pump: component {HOST}/components/hello: {words}$"):
        locked(tmp_path, built(SHOP), name="pump")
    with pytest.raises(FormatError, match="a Compose component is expected"):
        locked(tmp_path, built(SHOP), profile="compose")
    composed = build_component({"compose.yaml": Entry("compose.yaml", b"services: {}")}, name="hello", version="1.0.0")
    with pytest.raises(FormatError, match="a Quadlet component is expected"):
        locked(tmp_path, composed)


def test_8_1_and_8_10_every_spelling_is_known() -> None:
    assert kind_of("application/vnd.org.margo.component.compose.tar+gzip") == "compose-archive"
    assert kind_of(QUADLET_ARTIFACT) == "quadlet"


@given(st.text(alphabet="[]=\\#; \nAIaemg./%x\r\t", max_size=80))
def test_any_text_is_a_unit_or_has_faults(text: str) -> None:
    files = entries({"web.container": text, "web.image.d/a.conf": text})
    for fault in (*units_can_be_read(files), *names_only_the_archive(files), *warnings_of(files)):
        assert fault.file.startswith("hello/web.")
