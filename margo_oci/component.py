"""Where a component is, and its checked archive: for operators who lock it and devices that run it."""

from margo_oci.deployment import Component
from margo_oci.manifest import Manifest
from margo_oci.package import COMPOSE, Archive, Form, archive_layer, open_archive
from margo_oci.reference import Reference, parse_reference
from margo_oci.registry import Received, Registry
from margo_oci.store import Store
from margo_oci.transfer import pull_blob


def component_reference(component: Component) -> Reference:
    """Return where a component is, by tag."""
    return parse_reference(f"{component.repository}:{component.revision}")


async def fetch_archive(
    registry: Registry,
    reference: Reference,
    store: Store,
    *,
    form: Form = COMPOSE,
    received: Received | None = None,
) -> Archive:
    """Return the checked archive of a component at a pinned `reference` (with digest), whose manifest may be here.

    Raises FormatError if it breaks a rule, TrustError `digest-mismatch`, RegistryError.
    """
    received = received or await registry.manifest(reference)
    assert received is not None  # noqa: S101  (nothing was known before)
    what = f"component {reference.name}"
    layer = archive_layer(Manifest.from_bytes(received.data, what=what), what=what, form=form)
    data = store.read(layer)
    if data is None:
        await pull_blob(registry, reference, layer, store)
        data = store.read(layer) or b""
    return open_archive(data, what=what, form=form)
