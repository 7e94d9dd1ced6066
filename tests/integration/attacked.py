"""A device that runs a workload, a hostile registry in front of the real one, and what attackers and operators do."""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from margo_oci.access import Access
from margo_oci.carrier import TUF_TYPE, build_carrier, build_chain
from margo_oci.ceremony import Change, RoleName, add_signature, begin, rotate
from margo_oci.content import EMPTY_CONFIG, EMPTY_JSON, Descriptor
from margo_oci.cosign import BUNDLE_TYPE, sign, signature_manifest
from margo_oci.desired_state import DesiredState, Layer, build_state
from margo_oci.head import Head, sign_head
from margo_oci.keys import FileKey
from margo_oci.manifest import Manifest
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Registry
from margo_oci.root import Root
from margo_oci.signing import Attacher
from margo_oci.upload import Uploader
from tests.integration.site import Site, page
from tests.parts.hostile import HostileRegistry

SCOPE = "edge-17"
HOLDERS = ("ana", "ben", "cem")
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
WAIT_S = 20.0
T = TypeVar("T")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port: int = door.getsockname()[1]
        return port


def utc() -> datetime:
    """What time it is, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class World:
    """One device at one hostile registry. `begin_anew` puts device and registry back to where every attack begins:
    it accepted release 2 by head 2, and runs `hello`.
    """

    site: Site
    front: HostileRegistry
    port: int
    running: Mapping[str, str] = field(default_factory=dict)
    device: Path = Path("state")
    access: Access = field(default_factory=lambda: Access(plain_http=True))

    # Where everything is

    @property
    def folder(self) -> Path:
        """Where operators and the device keep their files."""
        return self.site.folder

    @property
    def state(self) -> Reference:
        """The tag, at the real registry."""
        return parse_reference(self.site.state)

    @property
    def source(self) -> Reference:
        """The tag, as the device knows it."""
        return replace(self.state, host=self.front.host)

    @property
    def head(self) -> Reference:
        """Where the head lies."""
        return self.state.at("latest-head")

    @property
    def root(self) -> Root:
        """The root that the device was given."""
        return Root.from_bytes((self.folder / "1.root.json").read_bytes())

    @property
    def repository(self) -> Path:
        """The repository's folder in the real registry."""
        return self.site.registry.storage / "docker/registry/v2/repositories" / self.state.repository

    def key(self, name: str) -> FileKey:
        """Somebody's private key."""
        file = self.folder / f"{name}.key"
        if not file.exists():
            self.site.keygen(name)
        return FileKey.from_pem(file.read_bytes(), None, name=name)

    # What the device does

    def configure(
        self, trust: str = "{mode: head+release, root: 1.root.json}", registry: str = "", **more: str
    ) -> None:
        """Write the device's configuration."""
        front, real = (f'"{host}": {{plainHttp: true' for host in (self.front.host, self.site.registry.host))
        more = {"source": str(self.source), "trust": trust, "stateDir": str(self.device), **more}
        more.setdefault("registries", f"{{{front}{registry}}}, {real}}}}}")
        self.site.configure(**more)

    def once(self, *, expect: int = 0) -> Any:
        """Do one pass."""
        return self.site.agent("once", expect=expect)

    def untouched(self) -> None:
        """What runs is what ran before, and still serves its page."""
        assert self.site.containers() == self.running
        assert page(self.port) == "hello"

    def refused(self, reason: str, *words: str) -> Any:
        """A pass is refused for this reason, in these words; what runs goes on."""
        report = self.once(expect=4)
        assert (report["outcome"], report["reason"]) == ("refused", reason), report
        for word in words:
            assert word in report["message"], report["message"]
        self.untouched()
        return report

    def unreachable(self, *words: str) -> Any:
        """A pass gets nowhere; what runs goes on."""
        report = self.once(expect=3)
        for word in words:
            assert word in report["message"], report["message"]
        self.untouched()
        return report

    def unmoved(self) -> Any:
        """A pass finds nothing that would be new; what runs goes on."""
        report = self.once()
        assert (report["outcome"], report["counter"]) == ("unchanged", 2), report
        self.untouched()
        return report

    def recovers(self) -> None:
        """The attack is over: the device takes the operator's next head, and leaves the workload as it is.

        If it accepted a release meanwhile that could not be fetched or read, the head names the next one.
        """
        self.front.behaves()
        counter = self.record["accepted"][SCOPE]["counter"]
        if counter == 2:
            self.put_head(self.released("second", 2), bundles=self.signed("second"), version=10)
        else:
            self.put_head(self.release(counter := 9), version=10)
        report = self.once()
        assert (report["counter"], report["head"]["version"]) == (counter, 10), report
        assert [one["action"] for one in report["deployments"]] == ["keep"], report
        self.untouched()

    @property
    def record(self) -> dict[str, Any]:
        """What the device remembers."""
        raw: dict[str, Any] = json.loads((self.folder / self.device / "record.json").read_bytes())
        return raw

    def waits_for_head(self, version: int) -> None:
        """Wait until a device that looks on its own has accepted a head."""
        deadline_s = time.monotonic() + WAIT_S
        while self.record["accepted"][SCOPE]["head"]["version"] != version:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)

    def a_day_later(self) -> None:
        """Newer roots are looked for again."""
        record = self.record
        record["root"]["looked"] = ""
        (self.folder / self.device / "record.json").write_text(json.dumps(record))

    # Where an attack begins and ends

    def keep(self) -> None:
        """Remember all this."""
        self.running = self.site.containers()
        shutil.copytree(self.folder / "state", self.folder / "state.kept")
        shutil.copytree(self.repository, self.folder / "repository.kept")

    def begin_anew(self) -> None:
        """Go back there."""
        self.front.behaves()
        for kept, place in (("state", self.folder / "state"), ("repository", self.repository)):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(self.folder / f"{kept}.kept", place)
        for number in (2, 3):
            (self.folder / f"{number}.root.json").unlink(missing_ok=True)
        self.device = Path("state")
        self.configure()

    # What is put into the registry, by whoever may write there

    @property
    def uploader(self) -> Uploader:
        """Writes to the real registry."""
        return Uploader(self.state.host, self.access)

    def ask(self, question: Callable[[Registry], Coroutine[Any, Any, T]]) -> T:
        """Read from the real registry."""

        async def asked() -> T:
            async with Registry(lambda _: self.access) as registry:
                return await question(registry)

        return asyncio.run(asked())

    def layers(self) -> Sequence[Descriptor]:
        """The layers of the release that runs."""
        return Manifest.from_bytes(self.manifest_at("second"), what="second").layers

    def manifest_at(self, tag: str) -> bytes:
        """What a tag, or a digest, leads to."""
        received = self.ask(lambda registry: registry.manifest(self.state.at(tag)))
        assert received
        return received.data

    def released(self, tag: str, counter: int) -> DesiredState:
        """A release that the operator made."""
        data = self.manifest_at(tag)
        return DesiredState(manifest=Manifest.from_bytes(data, what=tag), counter=counter, scope=SCOPE)

    def signed(self, tag: str) -> Sequence[bytes]:
        """What the operator signed it with: it lies beside its head."""
        carrier = Manifest.from_bytes(self.manifest_at(f"{tag}-head"), what=tag)
        return [layer.data or b"" for layer in carrier.layers if layer.media_type == BUNDLE_TYPE]

    def put(self, *blobs: bytes, tag: str, manifest: bytes) -> None:
        """Put blobs, and a manifest over them."""
        self.uploader.blob(self.state, EMPTY_CONFIG, EMPTY_JSON)
        for blob in blobs:
            self.uploader.blob(self.state, Descriptor.of(blob, "application/octet-stream"), blob)
        self.uploader.manifest(self.state.at(tag), manifest)

    def release(self, counter: int, *layers: Layer, empty: bool = False, scope: str = SCOPE) -> DesiredState:
        """Put a release with the layers that run, or these, or none: a device that took that would stop everything."""
        described = [] if empty else [layer.descriptor for layer in layers] or self.layers()
        state = build_state(described, counter=counter, scope=scope)
        self.put(*(layer.data for layer in layers), tag=state.manifest.digest, manifest=state.manifest.data)
        return state

    def bundle(self, state: DesiredState, by: str = "fleet") -> bytes:
        """A release signature."""
        return sign(state.manifest.digest, self.key(by), name=self.state.name)

    def tag(self, state: DesiredState, *bundles: bytes) -> None:
        """Move the tag to a release, and attach signatures to it."""
        self.uploader.manifest(self.state, state.manifest.data)
        for bundle in bundles:
            carrier = signature_manifest(bundle, state.manifest.descriptor, created="2026-11-21T00:00:00Z")

            async def carry(registry: Registry, carrier: Manifest = carrier, bundle: bytes = bundle) -> None:
                await Attacher(registry, self.uploader, utc).carry(self.state, carrier, bundle)

            self.ask(carry)

    def head_for(self, state: DesiredState, **changes: Any) -> Head:
        """A head for a release, issued now for a day."""
        manifest, now = state.manifest, utc()
        head = Head(
            scope=state.scope, version=3, issued=now, expires=now + DAY, digest=manifest.digest,
            length=len(manifest.data), counter=state.counter,
        )  # fmt: skip
        return replace(head, **changes)

    def put_head(
        self,
        state: DesiredState,
        *,
        by: str = "head",
        bundles: Sequence[bytes] | None = None,
        root: Root | None = None,
        **changes: Any,
    ) -> None:
        """Put a head by the holder of a head key; beside it the release signature, or others."""
        document = sign_head(self.head_for(state, **changes), root or self.root, [self.key(by)])
        self.put_carrier(document, [self.bundle(state)] if bundles is None else bundles)

    def put_carrier(self, document: bytes, bundles: Sequence[bytes] = ()) -> None:
        """Put any document in the head's place."""
        self.put(document, *bundles, tag=self.head.tag, manifest=build_carrier(document, bundles).data)

    def put_roots(self, *roots: bytes) -> None:
        """Put any documents in the place of the chain of roots."""
        listed = {version: Descriptor.of(data, TUF_TYPE) for version, data in enumerate(roots, start=1)}
        self.put(*roots, tag="trust", manifest=build_chain(listed).data)

    # Roots

    def role(self, *names: str, threshold: int = 1) -> Change:
        """Keys that join a role."""
        return Change(add=[self.key(name).public for name in names], threshold=threshold)

    def made_root(self, *, by: Sequence[str] = HOLDERS[:2], expires: timedelta = 365 * DAY, **roles: Change) -> bytes:
        """A first root; without `roles` the one the device has."""
        changes: dict[RoleName, Change] = {
            "root": self.role(*HOLDERS, threshold=2), "head": self.role("head"), "release": self.role("fleet"),
            **roles,  # type: ignore[dict-item]  # by their names
        }  # fmt: skip
        data = begin(changes, expires=utc() + expires)
        for name in by:
            data = add_signature(data, self.key(name))
        return data

    def next_root(self, *by: str, old: bytes | None = None, **changes: Change) -> bytes:
        """The root after, signed by these holders."""
        before = Root.from_bytes(old) if old else self.root
        data = rotate(before.data, changes, expires=utc() + 365 * DAY)  # type: ignore[arg-type]
        for name in by:
            data = add_signature(data, self.key(name), previous=before)
        return data

    def rotate(self, old: int, *changes: str, by: Sequence[str] = HOLDERS[:2]) -> str:
        """Make, sign and publish the root after `old`, with the commands that people type."""
        before, after = f"{old}.root.json", f"{old + 1}.root.json"
        self.site.oci("root", "rotate", before, "-o", after, *changes)
        for name in by:
            self.site.oci("root", "sign", after, "--key", f"{name}.key", "--previous", before)
        self.site.oci("root", "publish", after, f"{self.state.name}:trust", "--plain-http")
        return after

    def issue(self, verb: str, *more: str, root: str = "1.root.json", key: str = "head.key") -> Any:
        """Issue or renew the head, with the commands that people type."""
        done = self.site.oci("head", verb, str(self.state), "--root", root, "--key", key, "--plain-http", *more)
        return done.out
