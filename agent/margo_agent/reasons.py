"""What each refusal means: the rule of docs/format.md that it comes from, and what to do next. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """Of a refusal. `rule` is a number in docs/format.md."""

    rule: str
    todo: str


_HELD_BACK = "find out who changed it on the way; if nobody did, publish the state again"

REASONS: Mapping[str, Reason] = {
    "malformed": Reason("6.1", "publish the state again with margo-oci push, which checks it"),
    "too-large": Reason("7.2", "split the state, or the component"),
    "digest-mismatch": Reason("6.2", "look at the registry, its mirrors and proxies: something changes content"),
    "unsigned": Reason("6.3", "publish with --key, or sign what is there with margo-oci sign"),
    "malformed-signature": Reason("6.3", "sign it again with margo-oci sign"),
    "wrong-key": Reason("6.4", "sign with a key that trust.keys (or the root) names, or name the signer's key there"),
    "below-threshold": Reason("6.12", "have more of those who are trusted sign it with margo-oci sign"),
    "bad-certificate": Reason("9.14", "compare the signer's certificate with the trust store and trustpolicy.json"),
    "expired-signature": Reason("9.15", "have it signed again with a certificate that is in date"),
    "revocation-unknown": Reason("9.16", "allow for revocation in trustpolicy.json: no authority is asked here"),
    "bad-identity": Reason("6.4", "compare subject and issuer of the signature with trust.identities"),
    "not-a-release": Reason("6.5", "sign it as a release with margo-oci push or margo-oci sign"),
    "moved-signature": Reason("6.6", _HELD_BACK),
    "wrong-scope": Reason("6.7", "publish with --scope as in scopes of this device, or correct source or scopes"),
    "rollback": Reason(
        "6.8", "publish again with a higher counter; margo-oci rollback does it with an earlier release"
    ),
    "counter-reused": Reason("6.9", "publish again with the next counter; find out who published the other state"),
    "head-unsigned": Reason("10.9", "issue the head again with margo-oci head issue"),
    "version-reused": Reason("10.10", "issue a newer head with margo-oci head issue; find out who issued the other"),
    "fast-forward": Reason("10.10", "issue a head whose version is near the last one's, or raise the root's floor"),
    "freeze": Reason("10.11", "renew the head with margo-oci head renew; if it was, somebody holds it back"),
    "from-the-future": Reason("10.12", "set the clock of this device right; if it is, the issuer's is ahead"),
    "mix-and-match": Reason("10.13", "issue the head again for the release that is meant"),
    "root-unsigned": Reason("10.5", "have enough holders sign the root with margo-oci root sign"),
    "wrong-root": Reason("10.5", "publish the whole chain of roots, or give the device the newest root by hand"),
    "root-expired": Reason("10.7", "make and publish a newer root with margo-oci root rotate"),
    "policy-unusable": Reason("6.13", "mend what trust.components names, then margo-agent reload"),
    "tag-moved": Reason("6.14", "find out who moved the tag; publish what is meant under a version of its own"),
    "unlocked": Reason("4.3", "publish with margo-oci push, which locks every component to its digest"),
}
