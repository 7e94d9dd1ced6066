"""The scene of most tests: a publisher with a key, a registry in between, and one device that follows a tag.

plant.publish(plant.workload("pump", "a"), counter=1)
assert plant.device.once().outcome == "applied"
assert plant.device.engine.running == {"pump": "a"}
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from margo_agent.applying import Applier
from margo_agent.cleaning import Cleaner
from margo_agent.clock import Clock
from margo_agent.confidential import Secrets, agent_folder
from margo_agent.config import AgentConfig
from margo_agent.correcting import Corrector
from margo_agent.crew import Crew
from margo_agent.finding import ByHead, ByTag, Finder
from margo_agent.gate import Gate
from margo_agent.gather import Gatherer
from margo_agent.generation import Generations
from margo_agent.given import GivenNames
from margo_agent.images import Images
from margo_agent.interrupted import Stopped
from margo_agent.lookout import Lookout
from margo_agent.noticed import NoticedFile
from margo_agent.notnow import NotNow
from margo_agent.preview import Preview
from margo_agent.reconcile import Reconciler
from margo_agent.record import Record, RecordFile
from margo_agent.report import Report
from margo_agent.room import Room
from margo_agent.runtime import Runtime
from margo_agent.settings import ApplySettings
from margo_agent.stepping import Stepper
from margo_agent.survey import Survey
from margo_agent.trusted import Trusted, terms_of
from margo_oci.archive import Entry
from margo_oci.auth import Credentials
from margo_oci.composefile import COMPOSE_FILE
from margo_oci.content import EMPTY_JSON, Descriptor, canonical_json, digest_of
from margo_oci.cosign import PAYLOAD_TYPE, bundle, pae, sign, signature_manifest
from margo_oci.deployment import DEPENDS_ON, Deployment, parse_deployment
from margo_oci.desired_state import DesiredState, Layer, Lock, build_file_layer, build_layer, build_state
from margo_oci.errors import FormatError
from margo_oci.files import ExtraFile
from margo_oci.freshness import Freshness
from margo_oci.identity import Identity
from margo_oci.keys import FileKey, PublicKey, generate
from margo_oci.manifest import IMAGE_MANIFEST, Manifest, build_index
from margo_oci.package import build_component
from margo_oci.reference import Reference
from margo_oci.registry import Access, Registry
from margo_oci.root import Root
from margo_oci.signing import Attacher
from margo_oci.store import Store
from margo_oci.transfer import Judge, Voucher
from margo_oci.trust import Policy
from margo_oci.trustconfig import ComponentRule, Sources, TrustConfig
from tests.simulators.engine import SERVICE, SimulatedCompose, SimulatedEngine, runtime
from tests.simulators.registry import SimulatedRegistry
from tests.simulators.uploader import SimulatedUploader

HOST = "registry.example"
SOURCE = Reference(HOST, "fleet/edge-17", "latest")
SCOPE = "edge-17"
COMPONENT = "components/cell"
IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar"
IMAGE = f"{HOST}/images/cell:1"
IMAGE_REPOSITORY = "images/cell"
IMAGE_BYTES = b"the image" * 1000
NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
T = TypeVar("T")

_DOCUMENT = """\
apiVersion: application.margo.org/v1alpha1
kind: ApplicationDeployment
metadata:
  annotations: {{id: {id}, applicationId: com-example-cell{needs}}}
  name: {name}
  namespace: plant
spec:
  deploymentProfile:
    type: compose
    components:
      - name: {called}
        properties: {{repository: oci://{host}/{component}, revision: 1.0.0}}
  parameters:
    recipe:
      value: "{recipe}"
      targets: [{{pointer: RECIPE, components: [{called}]}}]
"""
_COMPOSE = {"services": {SERVICE: {"image": IMAGE, "environment": {"RECIPE": "${RECIPE}"}}}}


@dataclass(frozen=True)
class Workload:
    """A deployment, and what it leads to."""

    deployment: Deployment
    lock: Lock | None
    files: Sequence[ExtraFile] = ()

    @property
    def layer(self) -> Layer:
        """The layer it is published as."""
        return build_layer(self.deployment, self.lock)

    @property
    def layers(self) -> Sequence[Layer]:
        """The same, and those of its files."""
        return [self.layer, *(build_file_layer(self.deployment.id, one) for one in self.files)]


class Plant:
    """Publishes to a simulated registry; `key` is the one its device trusts, `stranger` is not."""

    def __init__(self, folder: Path, sim: SimulatedRegistry | None = None, compose: object = None) -> None:
        self.compose = compose or _COMPOSE
        self.sim = sim or SimulatedRegistry(host=HOST)
        self.key = new_key("fleet.pub")
        self.stranger = new_key("stranger.pub")
        self.component = self._publish_component()
        self.image_digest = self.publish_image(IMAGE_BYTES)
        self.device = Device(folder, self.sim, self.key.public)

    def workload(
        self,
        name: str,
        recipe: str,
        *,
        locked: bool = True,
        component: str = "",
        needs: str = "",
        files: Sequence[ExtraFile] = (),
    ) -> Workload:
        """Return a workload whose one container gets a recipe; another recipe is another revision of it.

        Its one component is called `component`, or as the workload; it comes up after those it `needs`.
        """
        lock = Lock({f"oci://{HOST}/{COMPONENT}:1.0.0": self.component}, {IMAGE: self.image_digest})
        text = _DOCUMENT.format(
            id=id_of(name), name=name, called=component or name, recipe=recipe, host=HOST, component=COMPONENT,
            needs=f', {DEPENDS_ON}: "{needs}"' if needs else "",
        )  # fmt: skip
        return Workload(parse_deployment(text.encode(), what=f"{name}.yaml"), lock if locked else None, files)

    def publish(
        self, *workloads: Workload | Layer, counter: int, scope: str = SCOPE, key: FileKey | None = None
    ) -> DesiredState:
        """Publish and sign a state, as `margo-oci push` does; a layer may be anything."""
        state = self.publish_unsigned(*workloads, counter=counter, scope=scope)
        self.sign(state.manifest, key or self.key)
        return state

    def publish_unsigned(self, *workloads: Workload | Layer, counter: int, scope: str = SCOPE) -> DesiredState:
        """Publish a state that nobody signed."""
        layers = [layer for one in workloads for layer in ([one] if isinstance(one, Layer) else one.layers)]
        for layer in layers:
            self.sim.put_blob(SOURCE.repository, layer.data)
        state = build_state([layer.descriptor for layer in layers], counter=counter, scope=scope)
        self.put_bytes(state.manifest.data)
        return state

    def put_bytes(self, data: bytes) -> None:
        """Put whatever it is under the device's tag."""
        self.sim.put_manifest(SOURCE.repository, SOURCE.tag, data)

    def sign(self, manifest: Manifest, key: FileKey) -> Manifest:
        """Sign a manifest; return what carries the signature."""
        return self.attach(sign(manifest.digest, key, name=SOURCE.name), manifest.descriptor)

    def sign_component(self, key: FileKey) -> None:
        """Sign the component, as its vendor does with `margo-oci sign`."""
        at = Reference(HOST, COMPONENT, digest=self.component)

        async def sign_it(registry: Registry) -> None:
            received = await registry.manifest(at)
            assert received
            subject = Descriptor.of(received.data, received.media_type)
            await Attacher(registry, SimulatedUploader(self.sim), lambda: NOON).sign(at, subject, key)

        ask(self.sim, sign_it)

    def attach(self, bundle: bytes, subject: Descriptor) -> Manifest:
        """Attach a bundle to a subject, whatever is in it."""
        carrier = signature_manifest(bundle, subject, created="2026-08-01T12:00:00Z")
        self.sim.put_blob(SOURCE.repository, EMPTY_JSON)
        self.sim.put_blob(SOURCE.repository, bundle)
        if not self.sim.put_manifest(SOURCE.repository, carrier.digest, carrier.data):
            self.list_referrers(subject.digest, [carrier])
        return carrier

    def attest(self, manifest: Manifest, said: Any) -> Manifest:
        """Sign any statement with the key that the device trusts, and attach it."""
        payload = canonical_json(said)
        signature = self.key.sign(pae(PAYLOAD_TYPE, payload))
        return self.attach(bundle(payload, signature, hint=self.key.public.hint), manifest.descriptor)

    def list_referrers(self, subject: str, carriers: Sequence[Manifest]) -> None:
        """Say under the fallback tag what refers to a subject."""
        listed = [
            Descriptor(
                media_type=one.descriptor.media_type,
                digest=one.digest,
                size=len(one.data),
                artifact_type=one.artifact_type,
            )
            for one in carriers
        ]
        self.sim.put_manifest(SOURCE.repository, subject.replace(":", "-"), build_index(listed))

    @property
    def published(self) -> str:
        """Where the device's tag leads."""
        return self.sim.repositories[SOURCE.repository].tags[SOURCE.tag]

    def move_tag(self, digest: str) -> None:
        """Let the device's tag lead elsewhere."""
        self.sim.repositories[SOURCE.repository].tags[SOURCE.tag] = digest

    def publish_image(self, *layers: bytes, architecture: str = "amd64") -> str:
        """Publish an image; return its digest."""
        config, manifest = image_of(*layers, architecture=architecture)
        for blob in (config, *layers):
            self.sim.put_blob(IMAGE_REPOSITORY, blob)
        self.sim.put_manifest(IMAGE_REPOSITORY, "1", manifest)
        return digest_of(manifest)

    def _publish_component(self) -> str:
        files = {COMPOSE_FILE: Entry(COMPOSE_FILE, canonical_json(self.compose))}
        built = build_component(files, name="cell", version="1.0.0")
        self.sim.put_blob(COMPONENT, built.layer)
        self.sim.put_manifest(COMPONENT, "1.0.0", built.manifest.data)
        return built.manifest.digest


def image_of(*layers: bytes, architecture: str = "amd64") -> tuple[bytes, bytes]:
    """Return config and manifest of an image."""
    config = canonical_json(
        {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": [digest_of(one) for one in layers]}}
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": Descriptor.of(config, "application/vnd.oci.image.config.v1+json").to_dict(),
        "layers": [Descriptor.of(one, IMAGE_LAYER).to_dict() for one in layers],
    }
    return config, canonical_json(manifest)


IMAGE_DIGEST = digest_of(image_of(IMAGE_BYTES)[1])
LOCAL_IMAGE = f"{HOST}/{IMAGE_REPOSITORY}:{IMAGE_DIGEST.replace(':', '-')}"


class Device:
    """An agent: real but for its registry and its engine."""

    def __init__(self, folder: Path, sim: SimulatedRegistry, key: PublicKey) -> None:
        self.folder = folder
        self.sim = sim
        self.key = key
        self.engine = SimulatedEngine()
        self.record_file = RecordFile(folder / "record.json")
        self.credentials: Credentials | None = None
        self.lock_resolve = False
        self.vendor: PublicKey | None = None
        self.rule = False  # whether the configuration says so, or the files behind it alone
        self.component_judge: Callable[[str], Judge | None] | None = None
        self.root = b""  # with one, heads are asked for
        self.freshness: Freshness = "enforce"
        self.now, self.uptime_s, self.boot = NOON, 0.0, "first boot"
        self.identities: Sequence[Identity] = []
        self.vouch: Voucher | None = None
        self.scopes: Sequence[str] = [SCOPE]
        self.stopping = False
        self.apply = ApplySettings(settle_s=2)
        self.hold = ""  # why a person holds applying back
        self.at_once = 1
        self.watches_for_newer = False
        self.pauses: list[float] = []
        self.room = Room(state_dir=folder, disk_of=lambda _: None)
        self.identity: Sequence[EllipticCurvePrivateKey] = []  # what opens its secrets
        self.memory_is = "tmpfs"

    @property
    def secrets(self) -> Secrets:
        """Its memory, which is on the disk here."""
        return Secrets(self.folder.with_name("memory"), self._keys, lambda _: self.memory_is, agent_folder(self.folder))

    def _keys(self) -> Sequence[EllipticCurvePrivateKey]:
        if not self.identity:
            raise FormatError("this device has no identity: margo-agent identity init")
        return self.identity

    @property
    def record(self) -> Record:
        """What it remembers."""
        return self.record_file.load()

    @property
    def counter(self) -> int:
        """The highest counter it accepted."""
        return max((one.counter for one in self.record.accepted.values()), default=0)

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """What it keeps, by what it takes it for."""
        return {f"sha256:{file.name}": file.read_bytes() for file in self.folder.glob("blobs/sha256/*")}

    @property
    def parts(self) -> Sequence[bytes]:
        """What it began to fetch and may go on with."""
        return [data for file in self.folder.glob("ingest/*") if (data := file.read_bytes())]

    def once(self, *, offered: bytes = b"") -> Report:
        """Do one pass."""
        return self._reconciler().once(self._report(), offered=offered)

    def plan(self) -> Report:
        """Say what a pass would do."""
        return self._reconciler().plan(self._report())

    def restore(self) -> Report:
        """Bring up what is installed."""
        return self._reconciler().restore(self._report())

    def correct(self, *, stopped: Set[str] = frozenset(), leave: str = "", held: bool = False) -> Report:
        """Look for drift, and put it right unless there is a reason to `leave` it."""
        compose = SimulatedCompose((), {}, self.engine)
        generations = Generations(self.folder, compose, "edge-17", self.secrets)
        report = self._report()
        Corrector(
            device="edge-17",
            generations=generations,
            runtime=self._placing(
                runtime(self.engine, compose, self._images(lambda: None), self._stop_if_asked, 0.0), generations
            ),
            noticed_file=NoticedFile(self.folder / "drift.json"),
            given=self.given,
            leave=leave,
            held=held,
        ).correct(self.record, report, stopped=stopped)
        return report

    def cleaner(self, *, after_s: float = 3600.0, free_bytes: int = 10**9, keep_free_bytes: int = 0) -> Cleaner:
        """What cleans it, at the device's time, on a disk with so much room."""
        return Cleaner(
            state_dir=self.folder,
            engine=lambda: self.engine,
            now_s=self.now.timestamp,
            after_s=after_s,
            keep_free_bytes=keep_free_bytes,
            secrets=self.secrets,
            free_bytes=lambda _: free_bytes,
        )

    @property
    def given(self) -> GivenNames:
        """Which images it named."""
        return GivenNames(self.folder / "images.json")

    def registry(self) -> Registry:
        """Reach the simulated registry, also where it is called by another name."""
        return Registry(self._access, transport_for=lambda _: self.sim.transport)

    async def _sleep(self, pause_s: float) -> None:
        """Note a pause instead of waiting."""
        self.pauses.append(pause_s)

    def _access(self, host: str) -> Access:
        return Access(credentials=self.credentials if host == HOST else None)

    def _report(self) -> Report:
        return Report(str(SOURCE), "edge-17", monotonic_s=lambda: 0.0)

    def _reconciler(self) -> Reconciler:
        compose = SimulatedCompose((), {}, self.engine)
        generations = Generations(self.folder, compose, "edge-17", self.secrets)
        store = Store(self.folder)
        interruptions: list[Callable[[], None]] = [self._stop_if_asked]

        def go_on() -> None:
            for interruption in interruptions:
                interruption()

        images = self._images(go_on)
        running = self._placing(runtime(self.engine, compose, images, go_on, self.apply.settle_s), generations)
        gatherer = Gatherer(
            config=self._config(),
            trusted=self._trusted(),
            registry=self.registry,
            store=store,
            record_file=self.record_file,
            generations=lambda: generations,
            survey=Survey(store=store, generations=lambda: generations, images=lambda: images),
            sleep=self._sleep,
        )
        lookout = Lookout(gatherer.newest, every_s=0, monotonic_s=lambda: 0.0) if self.watches_for_newer else None
        interruptions += [lookout.check] if lookout else []
        return Reconciler(
            gatherer=gatherer,
            record_file=self.record_file,
            applier=lambda: self._applier(generations, running, lookout),
            preview=lambda: Preview(generations=generations, runtime=running, atomic=self.apply.atomic),
        )

    def _placing(self, running: Runtime, generations: Generations) -> Runtime:
        return replace(running, place=generations.place)

    def _images(self, go_on: Callable[[], None]) -> Images:
        return Images(
            engine=self.engine,
            registry=self.registry,
            store=Store(self.folder),
            room=self.room,
            given=self.given,
            go_on=go_on,
            sleep=self._sleep,
            look_every_s=0.001,
        )

    def _stop_if_asked(self) -> None:
        if self.stopping:
            raise Stopped("stopped on request: the next pass goes on from here")

    def _applier(self, generations: Generations, running: Runtime, lookout: Lookout | None) -> Applier:
        return Applier(
            record_file=self.record_file,
            generations=generations,
            crew=Crew(
                stepper=Stepper(generations=generations, runtime=running, now=lambda: NOON), at_once=self.at_once
            ),
            gate=Gate(lambda: [NotNow("hold", self.hold, "")] if self.hold else []),
            lookout=lookout,
            atomic=self.apply.atomic,
        )

    @property
    def clock(self) -> Clock:
        """Its clocks."""
        return Clock(rtc=lambda: self.now, boot=lambda: self.boot, uptime_s=lambda: self.uptime_s)

    def _trusted(self) -> Trusted:
        finder: Finder
        if self.root:
            given = Root.from_bytes(self.root)
            finder = ByHead(
                source=SOURCE,
                scopes=self.scopes,
                given=given,
                chain=SOURCE.at("trust"),
                freshness=self.freshness,
                clock=self.clock,
                terms=terms_of(given.content, self._config()),
            )
        else:
            policy = Policy([] if self.identities else [self.key], self.scopes, identities=self.identities)
            judge = Judge(policy, lambda: NOON, self.vouch)
            finder = ByTag(SOURCE, judge, terms_of(policy.digest, self._config()))
        components = Judge(Policy([self.vendor]), lambda: NOON) if self.vendor else None
        return Trusted(
            finder=finder,
            component_judge=self.component_judge or (lambda _: components),
        )

    def _config(self) -> AgentConfig:
        return AgentConfig(
            file=self.folder / "config.yaml",
            device="edge-17",
            source=SOURCE,
            scopes=self.scopes,
            trust=TrustConfig(
                mode="head+release" if self.root else "release",
                freshness=self.freshness,
                components=[ComponentRule(["*"], Sources())] if self.rule else [],
            ),
            registries={HOST: self._access(HOST)},
            interval_s=30.0,
            state_dir=self.folder,
            engine="",
            lock="resolve" if self.lock_resolve else "enforce",
            apply=self.apply,
        )


def id_of(name: str) -> str:
    """Return the id of a workload called `name`."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def new_key(name: str) -> FileKey:
    """Make a key pair."""
    return FileKey.from_pem(generate(None)[0], None, name=name)


def running_plant(folder: Path, sim: SimulatedRegistry | None = None) -> Plant:
    """Return a plant whose device runs `pump` by recipe a, accepted with counter 1."""
    plant = Plant(folder, sim)
    plant.publish(plant.workload("pump", "a"), counter=1)
    assert plant.device.once().outcome == "applied"
    plant.device.engine.log.clear()
    plant.sim.forget()
    return plant


def registry_with_tags(*tags: str) -> SimulatedRegistry:
    """Return a registry whose one repository has these tags."""
    sim = SimulatedRegistry(host=HOST)
    for tag in tags:
        sim.put_manifest(SOURCE.repository, tag, EMPTY_JSON)
    return sim


def ask(
    sim: SimulatedRegistry, question: Callable[[Registry], Awaitable[T]], *, credentials: Credentials | None = None
) -> T:
    """Ask something of a registry, with no device in between."""

    async def asked() -> T:
        access = Access(credentials=credentials)
        async with Registry(lambda _: access, transport_for=lambda _: sim.transport) as registry:
            return await question(registry)

    return asyncio.run(asked())
