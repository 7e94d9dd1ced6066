"""The options that say whom to trust, and those that say as whom to sign."""

import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from margo_cli.session import load_signer, read_file
from margo_oci.errors import FormatError
from margo_oci.identity import Identity
from margo_oci.judging import load_judge, read_root
from margo_oci.keys import PublicKey, Signer, Use
from margo_oci.reference import Reference
from margo_oci.signing import Forms
from margo_oci.transfer import Judge
from margo_oci.trust import Policy
from margo_oci.trustconfig import Sources, TrustConfig, load_trust_config

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Trusting:
    """Whom a call trusts."""

    sources: Sources
    config: TrustConfig | None = None

    @property
    def given(self) -> bool:
        """Whether anybody was named."""
        return bool(self.config or self.sources.keys or self.sources.notary or self.sources.identities)

    def judge(self, reference: Reference, *, scopes: Sequence[str] = ()) -> Judge:
        """Return what judges states in the repository of `reference`. Raises FormatError, TrustError for a root."""
        if self.config is None:
            return load_judge(self.sources, reference.name, _now, scopes=scopes)
        scopes = scopes or self.config.scopes
        if self.config.root:
            root = read_root(self.config.root)
            return Judge(Policy(root.release_keys, scopes, root.releases.threshold), _now)
        return load_judge(self.config.sources, reference.name, _now, scopes=scopes)

    def component_judge(self, reference: Reference) -> Judge:
        """Return what judges anything else there: with a policy file, those whom it names for components.

        Raises FormatError.
        """
        sources = self.config.component_sources(reference.name) if self.config else self.sources
        if sources is None:
            raise FormatError(f"{reference.name}: no entry of trust.components fits this repository")
        return load_judge(sources, reference.name, _now)


def _now() -> datetime:
    return datetime.now(UTC)


def trust_options(command: F) -> F:
    """Add the options that say whom to trust, and hand them over as `trusting`."""

    @click.option("--key", "key_files", type=click.Path(path_type=Path), multiple=True,
                  help="Public key that is trusted; may be given several times.")  # fmt: skip
    @click.option("--threshold", type=click.IntRange(1, 64), default=1, show_default=True,
                  help="So many of those who are trusted must have signed.")  # fmt: skip
    @click.option("--notary", type=_FILE, metavar="DIR",
                  help="Notary's trust policy and trust store, in a folder as notation keeps it.")  # fmt: skip
    @click.option("--certificate-identity", metavar="SUBJECT", help="Keyless: who must have signed.")
    @click.option("--certificate-oidc-issuer", metavar="URL", help="Keyless: who must have issued the login.")
    @click.option("--trust-config", "trusted_root", type=_FILE, metavar="FILE",
                  help="Keyless: trusted root, or trust config, of a private Sigstore. [the public one]")  # fmt: skip
    @click.option("--policy", "policy_file", type=_FILE, metavar="FILE",
                  help="A file with a part `trust`, such as an agent's configuration.")  # fmt: skip
    @functools.wraps(command)
    def called(
        *args: Any,
        key_files: Sequence[Path],
        threshold: int,
        notary: Path | None,
        certificate_identity: str | None,
        certificate_oidc_issuer: str | None,
        trusted_root: Path | None,
        policy_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        if bool(certificate_identity) != bool(certificate_oidc_issuer):
            raise click.UsageError("--certificate-identity and --certificate-oidc-issuer go together.")
        identities = (
            [Identity(certificate_identity, certificate_oidc_issuer)]
            if certificate_identity and certificate_oidc_issuer
            else []
        )
        sources = Sources(
            keys=key_files, threshold=threshold, notary=notary, identities=identities, trusted_root=trusted_root
        )
        trusting = Trusting(sources, load_trust_config(policy_file) if policy_file else None)
        if policy_file and replace(trusting, config=None).given:
            raise click.UsageError("--policy names everybody who is trusted: no other option does beside it.")
        return command(*args, trusting=trusting, **kwargs)

    return called  # type: ignore[return-value]


def need_trust(trusting: Trusting) -> None:
    """Raise a usage error if nobody is trusted."""
    if not trusting.given:
        raise click.UsageError("Missing option '--key' (or --notary, --certificate-identity, --policy).")


@dataclass(frozen=True)
class Signing:
    """As whom a call signs, and in which formats; `given` says whether a key or a command is named."""

    load: Callable[[], Signer | None]
    forms: Forms
    given: bool = False

    def required(self) -> Signer:
        """Return the signer. Raises a usage error if none is named."""
        signer = self.load()
        if signer is None:
            raise click.UsageError(
                "Missing option '--key' (or --signer-command): devices refuse what is not signed (margo-oci keygen "
                "makes a key)."
            )
        return signer


def signing_options(command: F) -> F:
    """Add the options that say as whom to sign, and hand them over as `signing`. Keys are read when they are needed."""

    @click.option("--key", "key_file", type=click.Path(path_type=Path),
                  help="Private key: PKCS#8 PEM, or cosign's file.")  # fmt: skip
    @click.option("--signer-command", metavar="COMMAND",
                  help="Sign with a KMS or smart card: gets data on stdin, prints a signature.")  # fmt: skip
    @click.option("--signer-key", type=_FILE, metavar="PUB", help="The public key of --signer-command.")
    @click.option("--signer-input", type=click.Choice(["data", "digest"]), default="data", show_default=True,
                  help="What --signer-command gets: the data, or their SHA-256 digest.")  # fmt: skip
    @click.option("--cert-chain", type=_FILE, metavar="FILE",
                  help="Sign for Notary as well: PEM, the key's certificate first, the root last.")  # fmt: skip
    @click.option("--no-sig-tag", is_flag=True, help="Leave out the tag that cosign v2, podman and others read.")
    @functools.wraps(command)
    def called(
        *args: Any,
        key_file: Path | None,
        signer_command: str | None,
        signer_key: Path | None,
        signer_input: str,
        cert_chain: Path | None,
        no_sig_tag: bool,
        **kwargs: Any,
    ) -> Any:
        if key_file and signer_command:
            raise click.UsageError("--key and --signer-command are two ways to sign: one is enough.")
        if bool(signer_command) != bool(signer_key):
            raise click.UsageError("--signer-command and --signer-key go together.")
        use: Use = "notary" if cert_chain else "cosign"

        def load() -> Signer | None:
            if signer_command and signer_key:
                return _command_signer(signer_command, signer_key, signer_input, use)
            return load_signer(key_file, use=use) if key_file else None

        forms = Forms(not no_sig_tag, _chain(cert_chain))
        return command(*args, signing=Signing(load, forms, bool(key_file or signer_command)), **kwargs)

    return called  # type: ignore[return-value]


def _command_signer(command: str, key_file: Path, signer_input: str, use: Use) -> Signer:
    from margo_oci.signers import CommandSigner

    public = PublicKey.from_pem(read_file(key_file), name=key_file.name, use=use)
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--signer-command: {error}: look at its quotes.") from None
    return CommandSigner(public, words, "digest" if signer_input == "digest" else "data")


def _chain(file: Path | None) -> Sequence[bytes]:
    if file is None:
        return ()
    from margo_oci.certificates import read_certificates

    return read_certificates(file.read_bytes(), name=str(file))
