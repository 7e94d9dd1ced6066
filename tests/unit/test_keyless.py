"""Keyless signatures: Sigstore's own library decides, in a process of its own, by a trusted root of our own."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from margo_oci import cosign, keyless
from margo_oci.content import Descriptor, canonical_json
from margo_oci.errors import FormatError, TrustError
from margo_oci.identity import Identity
from margo_oci.signatures import Attached, Found, SignedBy
from margo_oci.transfer import Judge, Voucher
from margo_oci.trust import Policy, signers_of
from tests.simulators.plant import NOON, SOURCE, Plant
from tests.simulators.sigstore import SimulatedSigstore
from tests.unit.scenes import DIGEST, OTHER_DIGEST

CI = Identity("ci@example.org", "https://issuer.example")
WORKFLOW = Identity("https://git.example/fleet/.workflows/release@main", "https://git.example")
OTHERS = Identity("somebody@example.org", "https://issuer.example")
ELSEWHERE = Identity("ci@example.org", "https://elsewhere.example")
SUBJECT = Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=DIGEST, size=584)
SIGSTORE = SimulatedSigstore(datetime(2026, 8, 1, 12, tzinfo=UTC))
STATEMENT = cosign.statement(DIGEST, name="registry.example/fleet/edge-17")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The trusted root of the private instance, as a file."""
    return written(tmp_path / "trusted_root.json", SIGSTORE.trusted_root)


def written(file: Path, value: Any) -> Path:
    file.write_text(json.dumps(value))
    return file


def vouched(root: Path, bundle: bytes, *identities: Identity) -> tuple[str, bytes]:
    return asked(keyless.voucher(root), bundle, *identities or (CI,))


def asked(vouch: Voucher, bundle: bytes, *identities: Identity) -> tuple[str, bytes]:
    async def ask() -> tuple[str, bytes]:
        return await vouch(DIGEST, bundle, identities)

    return asyncio.run(ask())


def judged(root: Path, *bundles: bytes, identities: Sequence[Identity] = (CI,), threshold: int = 1) -> list[SignedBy]:
    """Who signed DIGEST, by a policy of identities; the way of every command and of every device."""
    judge = Judge(Policy(identities=identities, threshold=threshold), lambda: NOON, keyless.voucher(root))
    found = asyncio.run(judge.vouched(DIGEST, Found([Attached("bundle", one) for one in bundles])))
    return list(signers_of(SUBJECT, found, judge.policy, now=NOON))


def refusal(ask: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(TrustError) as refused:
        ask()
    assert str(refused.value).startswith(DIGEST)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    return refused.value.reason, str(refused.value)


def test_a_signature_by_a_trusted_identity_counts(root: Path) -> None:
    assert judged(root, SIGSTORE.bundle(STATEMENT, CI)) == [SignedBy(str(CI), str(CI), "keyless")]


def test_a_workflow_signs_as_a_person_does(root: Path) -> None:
    name, statement = vouched(root, SIGSTORE.bundle(STATEMENT, WORKFLOW), CI, WORKFLOW)
    assert (name, statement) == (str(WORKFLOW), STATEMENT)


def test_a_client_trust_config_holds_a_trusted_root_too(tmp_path: Path) -> None:
    file = written(tmp_path / "client.json", SIGSTORE.client_config("https://sigstore.example"))
    assert vouched(file, SIGSTORE.bundle(STATEMENT, CI))[0] == str(CI)


@pytest.mark.parametrize("signer", [OTHERS, ELSEWHERE], ids=["another identity", "another issuer"])
def test_another_identity_or_issuer_is_refused_and_named(root: Path, signer: Identity) -> None:
    reason, words = refusal(lambda: judged(root, SIGSTORE.bundle(STATEMENT, signer)))
    assert reason == "bad-identity"
    assert f"signed keyless by {signer.subject}" in words
    assert f"trusted is {CI}" in words


def test_a_certificate_of_another_instance_is_refused(root: Path) -> None:
    stranger = SimulatedSigstore(SIGSTORE.now)
    assert refusal(lambda: judged(root, stranger.bundle(STATEMENT, CI)))[0] == "bad-identity"


@pytest.mark.parametrize("log", ["tlogs", "ctlogs"])
def test_what_no_trusted_log_has_is_refused(tmp_path: Path, log: str) -> None:
    mixed = {**SIGSTORE.trusted_root, log: SimulatedSigstore(SIGSTORE.now).trusted_root[log]}
    file = written(tmp_path / "mixed.json", mixed)
    assert refusal(lambda: judged(file, SIGSTORE.bundle(STATEMENT, CI)))[0] == "bad-identity"


def test_a_signature_over_another_digest_is_refused_as_moved(root: Path) -> None:
    moved = cosign.statement(OTHER_DIGEST, name="registry.example/fleet/edge-17")
    assert refusal(lambda: judged(root, SIGSTORE.bundle(moved, CI)))[0] == "moved-signature"


def test_an_attestation_is_no_release(root: Path) -> None:
    said = json.loads(STATEMENT) | {"predicateType": "https://spdx.dev/Document"}
    reason, words = refusal(lambda: judged(root, SIGSTORE.bundle(canonical_json(said), CI)))
    assert (reason, "which is no release" in words) == ("not-a-release", True)


def test_a_payload_of_another_type_is_refused(root: Path) -> None:
    bundle = SIGSTORE.bundle(STATEMENT, CI, payload_type="application/json")
    assert refusal(lambda: vouched(root, bundle)) == (
        "malformed-signature",
        f"{DIGEST}: payloadType 'application/json': application/vnd.in-toto+json is expected",
    )


def changed(bundle: bytes, change: Callable[[Any], object]) -> bytes:
    raw = json.loads(bundle)
    change(raw)
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda raw: raw.pop("dsseEnvelope"), "malformed-signature", id="no envelope"),
        pytest.param(
            lambda raw: raw["verificationMaterial"].update(tlogEntries=[]), "malformed-signature", id="no log entry"
        ),
        pytest.param(
            lambda raw: raw["verificationMaterial"]["certificate"].update(rawBytes="AAAA"), "malformed-signature",
            id="no certificate",
        ),
        pytest.param(
            lambda raw: raw["dsseEnvelope"].update(payload="e30="), "bad-identity", id="another payload"
        ),
        pytest.param(
            lambda raw: raw["verificationMaterial"]["tlogEntries"][0].update(integratedTime="1"), "bad-identity",
            id="another time",
        ),
        pytest.param(
            lambda raw: raw["verificationMaterial"]["tlogEntries"][0].pop("inclusionPromise"), "malformed-signature",
            id="no time",
        ),
        pytest.param(
            lambda raw: raw["verificationMaterial"]["tlogEntries"][0]["inclusionProof"].update(hashes=[]),
            "bad-identity", id="no proof",
        ),
    ],
)  # fmt: skip
def test_a_changed_bundle_is_refused(root: Path, change: Callable[[Any], object], reason: str) -> None:
    assert refusal(lambda: vouched(root, changed(SIGSTORE.bundle(STATEMENT, CI), change)))[0] == reason


def test_a_truncated_bundle_is_malformed_for_the_process_and_for_us(root: Path) -> None:
    cut = SIGSTORE.bundle(STATEMENT, CI)[:-200]
    assert refusal(lambda: vouched(root, cut))[0] == "malformed-signature"
    assert refusal(lambda: judged(root, cut))[0] == "malformed-signature"


def test_a_certificate_that_had_expired_when_it_signed_is_refused(root: Path) -> None:
    late = copy(SIGSTORE)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = late.certificate(key.public_key(), CI)
    late.now += timedelta(hours=1)
    reason, _ = refusal(lambda: vouched(root, late.bundle(STATEMENT, CI, with_key=(key, certificate))))
    assert reason == "bad-identity"


def test_identities_count_for_the_threshold_each_once(root: Path) -> None:
    both = [SIGSTORE.bundle(STATEMENT, CI), SIGSTORE.bundle(STATEMENT, WORKFLOW)]
    assert [one.name for one in judged(root, *both, identities=[CI, WORKFLOW], threshold=2)] == [str(CI), str(WORKFLOW)]
    twice = [SIGSTORE.bundle(STATEMENT, CI), SIGSTORE.bundle(STATEMENT, CI)]
    with pytest.raises(TrustError) as refused:
        judged(root, *twice, identities=[CI, WORKFLOW], threshold=2)
    assert refused.value.reason == "below-threshold"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mediaType": "x"}', "not json"])
def test_a_file_that_is_no_trusted_root_is_a_fault_of_the_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "root.json").write_text(text)
    with pytest.raises(FormatError, match=r"root\.json: no trusted root of Sigstore: "):
        judged(tmp_path / "root.json", SIGSTORE.bundle(STATEMENT, CI))
    with pytest.raises(FormatError, match=r"gone\.json: No such file"):
        judged(tmp_path / "gone.json", SIGSTORE.bundle(STATEMENT, CI))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(3)", "ended without an answer"),
        ("print('{}')", "ended without an answer"),
        ("print('x' * 10_000_000)", "said too much"),
        ("import time; time.sleep(60)", "did not end in 0.5 s"),
    ],
)
def test_a_process_that_does_not_answer_vouches_for_nothing(root: Path, code: str, words: str) -> None:
    vouch = keyless.voucher(root, program=[sys.executable, "-c", code], limit_s=0.5 if "sleep" in code else 20)
    reason, message = refusal(lambda: asked(vouch, b"{}", CI))
    assert (reason, words in message) == ("bad-identity", True)


def test_without_sigstore_it_is_said_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyless, "find_spec", lambda _: None)
    with pytest.raises(FormatError, match=r"pip install 'margo-oci\[keyless\]'"):
        keyless.voucher(root)


def test_a_device_asks_the_process_once_for_a_new_state_and_never_when_idle(tmp_path: Path, root: Path) -> None:
    plant = Plant(tmp_path / "device")
    seen: list[str] = []
    vouch = keyless.voucher(root)

    async def counting(digest: str, bundle: bytes, identities: Sequence[Identity]) -> tuple[str, bytes]:
        seen.append(digest)
        return await vouch(digest, bundle, identities)

    plant.device.identities, plant.device.vouch = [CI], counting
    state = plant.publish_unsigned(plant.workload("pump", "a"), counter=1)
    signed = SIGSTORE.bundle(cosign.statement(state.manifest.digest, name=SOURCE.name), CI)
    plant.attach(signed, state.manifest.descriptor)
    assert [plant.device.once().outcome for _ in range(3)] == ["applied", "unchanged", "unchanged"]
    assert seen == [state.manifest.digest]


def test_a_device_refuses_a_state_that_another_identity_signed(tmp_path: Path, root: Path) -> None:
    plant = Plant(tmp_path / "device")
    plant.device.identities, plant.device.vouch = [CI], keyless.voucher(root)
    state = plant.publish_unsigned(plant.workload("pump", "a"), counter=1)
    signed = SIGSTORE.bundle(cosign.statement(state.manifest.digest, name=SOURCE.name), OTHERS)
    plant.attach(signed, state.manifest.descriptor)
    report = plant.device.once()
    assert (report.outcome, report.reason) == ("refused", "bad-identity")
    assert plant.device.engine.running == {}


def test_whoever_asks_holds_no_sigstore_in_memory(root: Path) -> None:
    bundle = SIGSTORE.bundle(STATEMENT, CI)
    code = (
        "import asyncio, sys; from pathlib import Path; import margo_agent.main; from margo_oci import keyless;"
        "from margo_oci.identity import Identity; vouch = keyless.voucher(Path(sys.argv[1]));"
        f"name, _ = asyncio.run(vouch({DIGEST!r}, sys.stdin.buffer.read(), [Identity(*sys.argv[2:])]));"
        "print(name, sorted(one for one in sys.modules if one.startswith(('sigstore', 'pydantic', 'tuf'))))"
    )
    command = [sys.executable, "-c", code, str(root), CI.subject, CI.issuer]
    done = subprocess.run(command, input=bundle, capture_output=True, check=True)
    assert done.stdout.decode().strip() == f"{CI} []"
