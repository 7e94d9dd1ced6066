"""Desired state for edge devices through plain OCI registries: formats, trust, registry, store.

policy = Policy([PublicKey.from_pem(pem, name="fleet.pub")], scopes=["edge-17"])
judge = Judge(policy, now=lambda: datetime.now(UTC))
async with Registry(lambda host: Access()) as registry:
    verified = await open_state(registry, parse_reference("registry.example/fleet/edge-17:latest"), judge)
    await fetch(verified, registry, reference, Store(Path("/var/lib/example")))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from margo_oci.access import Access
    from margo_oci.application import Description, parse_description
    from margo_oci.content import Descriptor
    from margo_oci.deployment import Deployment, parse_deployment
    from margo_oci.desired_state import DesiredState, Lock, build_layer, build_state, read_layers
    from margo_oci.errors import (
        ApplyError,
        ConflictError,
        FormatError,
        MargoError,
        NotFound,
        RegistryError,
        TrustError,
    )
    from margo_oci.head import Head, verify_head, verify_release
    from margo_oci.heads import newer_roots, read_head
    from margo_oci.keys import FileKey, PublicKey, Signer
    from margo_oci.manifest import Manifest
    from margo_oci.reference import Reference, parse_reference
    from margo_oci.registry import Registry
    from margo_oci.root import Root
    from margo_oci.store import Store
    from margo_oci.transfer import Judge, fetch, open_state
    from margo_oci.trust import Policy, TrustAnything, Verified, verify

__all__ = [
    "Access",
    "ApplyError",
    "ConflictError",
    "Deployment",
    "Description",
    "Descriptor",
    "DesiredState",
    "FileKey",
    "FormatError",
    "Head",
    "Judge",
    "Lock",
    "Manifest",
    "MargoError",
    "NotFound",
    "Policy",
    "PublicKey",
    "Reference",
    "Registry",
    "RegistryError",
    "Root",
    "Signer",
    "Store",
    "TrustAnything",
    "TrustError",
    "Verified",
    "build_layer",
    "build_state",
    "fetch",
    "newer_roots",
    "open_state",
    "parse_deployment",
    "parse_description",
    "parse_reference",
    "read_head",
    "read_layers",
    "verify",
    "verify_head",
    "verify_release",
]

# Loaded when asked for: an idle device needs no cryptography, and so does not hold it in memory.
_ROOMS = {
    "access": ("Access",),
    "application": ("Description", "parse_description"),
    "content": ("Descriptor",),
    "deployment": ("Deployment", "parse_deployment"),
    "desired_state": ("DesiredState", "Lock", "build_layer", "build_state", "read_layers"),
    "errors": (
        "ApplyError",
        "ConflictError",
        "FormatError",
        "MargoError",
        "NotFound",
        "RegistryError",
        "TrustError",
    ),
    "head": ("Head", "verify_head", "verify_release"),
    "heads": ("newer_roots", "read_head"),
    "keys": ("FileKey", "PublicKey", "Signer"),
    "manifest": ("Manifest",),
    "reference": ("Reference", "parse_reference"),
    "registry": ("Registry",),
    "root": ("Root",),
    "store": ("Store",),
    "transfer": ("Judge", "fetch", "open_state"),
    "trust": ("Policy", "TrustAnything", "Verified", "verify"),
}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"margo_oci.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
