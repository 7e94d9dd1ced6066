"""A plant whose operator issues heads, and whose device asks for them."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

from margo_oci.carrier import TUF_TYPE, build_carrier, build_chain
from margo_oci.ceremony import Change, publish_root
from margo_oci.content import Descriptor
from margo_oci.desired_state import DesiredState
from margo_oci.issue import Issuer
from margo_oci.root import Root
from tests.simulators.plant import SOURCE, Plant
from tests.simulators.uploader import SimulatedUploader
from tests.unit.scenes import key
from tests.unit.trusted import DAY, NOW, YEAR, bundle_of, root, rotated

HEAD_TAG = f"{SOURCE.tag}-head"
TRUST = SOURCE.at("trust")


class HeadedPlant(Plant):
    """All keys are in one hand here: `fleet` signs releases, `head` heads, `a` and `b` the root."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.key = key("fleet")
        self.root = root()
        self.device.root, self.device.now = self.root.data, NOW
        self.publish_root()

    @property
    def now(self) -> datetime:
        """What time it is, for everybody."""
        return self.device.now

    def wait(self, time: timedelta) -> None:
        """Let time go by."""
        self.device.now += time
        self.device.uptime_s += time.total_seconds()

    def issue(self, *, signer: str = "head", version: int | None = None, at: datetime | None = None) -> None:
        """Issue a head for what the tag has."""
        registry, uploader = self.device.registry(), SimulatedUploader(self.sim)
        issuer = Issuer(registry, uploader, self.root, [key(signer)], lambda: at or self.now, 7 * DAY)
        asyncio.run(issuer.issue(SOURCE, version=version))

    def put_head(self, document: bytes, state: DesiredState) -> None:
        """Put any document in the head's place, with the release's signature beside it."""
        carrier = build_carrier(document, bundle_of(state))
        self.sim.put_manifest(SOURCE.repository, HEAD_TAG, carrier.data)

    def put_roots(self, *roots: bytes) -> None:
        """Put any documents in the place of the chain of roots."""
        listed = {version: Descriptor.of(data, TUF_TYPE) for version, data in enumerate(roots, start=1)}
        for data in roots:
            self.sim.put_blob(SOURCE.repository, data)
        self.sim.put_manifest(SOURCE.repository, TRUST.tag, build_chain(listed).data)

    def release(self, recipe: str, counter: int) -> None:
        """Publish a state, and the head that names it."""
        self.publish(self.workload("pump", recipe), counter=counter)
        self.issue()

    def rotate(self, **changes: Change) -> None:
        """Hand over to the next root, and publish it."""
        self.root = Root.from_bytes(rotated(self.root, "a", "b", expires=NOW + YEAR, **changes))
        self.publish_root()

    def publish_root(self) -> None:
        """Put the newest root under its tag."""
        asyncio.run(publish_root(self.device.registry(), SimulatedUploader(self.sim), TRUST, self.root.data))

    def tag(self, tag: str) -> str:
        """Where a tag leads."""
        return self.sim.repositories[SOURCE.repository].tags[tag]

    def put_back(self, tag: str, digest: str) -> None:
        """Let a tag lead elsewhere, as whoever can write to the registry can."""
        self.sim.repositories[SOURCE.repository].tags[tag] = digest


def headed_plant(folder: Path) -> HeadedPlant:
    """Return one whose device runs `pump` by recipe a, accepted with counter 1 by a head."""
    plant = HeadedPlant(folder)
    plant.release("a", 1)
    report = plant.device.once()
    assert report.outcome == "applied", report
    plant.sim.forget()
    return plant
