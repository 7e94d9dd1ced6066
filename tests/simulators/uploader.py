"""The way of pushing that needs no wire: an `Uploader` that puts things into the simulated registry."""

from typing import BinaryIO

from margo_oci.content import Descriptor
from margo_oci.errors import RegistryError
from margo_oci.manifest import IMAGE_MANIFEST
from margo_oci.reference import Reference
from margo_oci.upload import Uploader
from tests.simulators.registry import SimulatedRegistry


class SimulatedUploader(Uploader):
    """Pushes into a simulator."""

    def __init__(self, sim: SimulatedRegistry) -> None:
        self.sim = sim

    def blob(self, reference: Reference, descriptor: Descriptor, data: bytes) -> bool:
        """Put a blob unless it is there; tell whether it was put."""
        place = self.sim.repositories.get(reference.repository)
        if place and descriptor.digest in place.blobs:
            return False
        self.sim.put_blob(reference.repository, data)
        return True

    def send(self, reference: Reference, descriptor: Descriptor, data: bytes) -> bool:
        """Do the same: how it is asked for is a matter of the wire."""
        return self.blob(reference, descriptor, data)

    def has(self, reference: Reference, descriptor: Descriptor) -> bool:
        """Tell whether a blob is there."""
        place = self.sim.repositories.get(reference.repository)
        return bool(place and descriptor.digest in place.blobs)

    def file(self, reference: Reference, descriptor: Descriptor, file: BinaryIO) -> None:
        """Put a blob out of a file."""
        self.sim.put_blob(reference.repository, file.read())

    def manifest(self, reference: Reference, data: bytes, media_type: str = IMAGE_MANIFEST) -> bool:
        """Put a manifest; tell whether it was listed as a referrer."""
        return self.sim.put_manifest(reference.repository, reference.target, data)

    def delete(self, reference: Reference) -> None:
        """Delete a manifest, if the simulated registry allows it."""
        if not self.sim.deletes:
            raise RegistryError(f"delete {reference}: the registry answered 405: UNSUPPORTED")
        if self.sim.repositories[reference.repository].manifests.pop(reference.digest, None) is None:
            raise RegistryError(f"delete {reference}: the registry answered 404: MANIFEST_UNKNOWN")
