"""Whatever a registry answers to a push: credentials stay, answers are bounded, messages are fit to be read."""

import pytest
import requests

from margo_oci.access import Access
from margo_oci.auth import Credentials
from margo_oci.content import Descriptor
from margo_oci.errors import RegistryError
from margo_oci.reference import Reference
from margo_oci.upload import Uploader
from tests.simulators.pushing import Answer, Answers, Endless, Sent, SimulatedWire

PLACE = Reference("registry.example", "fleet/edge-17", "latest")
BLOB = b"recipe"
LAYER = Descriptor.of(BLOB, "application/octet-stream")
OPERATOR = Credentials("operator", "very-secret")
UPLOAD = "/v2/fleet/edge-17/blobs/uploads/"


def honest(sent: Sent) -> Answer:
    """Answer as a registry does that has nothing yet and lets only the operator in."""
    if "registry.example" in sent.url.lower() and sent.headers.get("Authorization") != OPERATOR.basic:
        return Answer(401, {"WWW-Authenticate": 'Basic realm="margo"'})
    if sent.method == "HEAD":
        return Answer(404)
    return Answer(202, {"Location": f"{UPLOAD}1?_state=token-secret"}) if sent.method == "POST" else Answer(201)


def instead(method: str, answer: Answer | Exception) -> Answers:
    """Answer honestly, but for one method."""

    def answers(sent: Sent) -> Answer | Exception:
        known = honest(sent)
        return answer if sent.method == method and known.status != 401 else known

    return answers


def uploading(answers: Answers, access: Access | None = None) -> tuple[Uploader, SimulatedWire]:
    """Return an uploader on a simulated wire."""
    wire = SimulatedWire(answers)
    access = access or Access(credentials=OPERATOR)
    return Uploader(PLACE.host, access, adapter_for=wire.adapter_for), wire


def push(uploader: Uploader) -> None:
    """Push a blob, and a manifest."""
    uploader.blob(PLACE, LAYER, BLOB)
    uploader.manifest(PLACE, b"{}")


def refused(answers: Answers) -> str:
    """Push a blob and a manifest; return why it failed, without any secret."""
    with pytest.raises(RegistryError) as error:
        push(uploading(answers)[0])
    words = str(error.value)
    assert "secret" not in words
    assert OPERATOR.basic not in words
    assert words.isprintable()
    assert len(words) < 700
    return words


def test_a_blob_is_pushed_with_one_login() -> None:
    uploader, wire = uploading(honest)
    assert uploader.blob(PLACE, LAYER, BLOB)
    assert [one.method for one in wire.sent] == ["HEAD", "HEAD", "POST", "PUT"]
    assert wire.sent[-1].body == BLOB


@pytest.mark.parametrize("status", [200, 302, 307])
def test_a_blob_that_is_there_or_in_the_storage_beside_is_not_sent(status: int) -> None:
    uploader, wire = uploading(instead("HEAD", Answer(status, {"Location": "https://storage.example/x"})))
    assert not uploader.blob(PLACE, LAYER, BLOB)
    assert {one.method for one in wire.sent} == {"HEAD"}


def test_7_8_an_upload_that_goes_on_elsewhere_takes_no_login_along() -> None:
    elsewhere = Answer(202, {"Location": "https://storage.example/upload?sig=1"})
    uploader, wire = uploading(instead("POST", elsewhere), Access(credentials=OPERATOR, plain_http=False))
    assert uploader.blob(PLACE, LAYER, BLOB)
    put = wire.sent[-1]
    assert put.url.startswith("https://storage.example/upload?sig=1&digest=")
    assert "Authorization" not in put.headers
    assert put.access == Access()  # no client certificate of ours, no CA of the registry's


def test_what_is_most_likely_new_is_asked_for_with_the_upload() -> None:
    uploader, wire = uploading(honest)
    assert uploader.send(PLACE, LAYER, BLOB)
    assert [one.method for one in wire.sent] == ["POST", "POST", "PUT"]
    asked = f"?mount={LAYER.digest.replace(':', '%3A')}&from=fleet%2Fedge-17"
    assert wire.sent[1].url.endswith(UPLOAD + asked)
    assert wire.sent[-1].body == BLOB


@pytest.mark.parametrize("location", ["", "http://elsewhere.example/x"])
def test_a_blob_that_was_mounted_goes_on_nowhere(location: str) -> None:
    uploader, wire = uploading(instead("POST", Answer(201, {"Location": location})))
    assert not uploader.send(PLACE, LAYER, BLOB)
    assert {one.method for one in wire.sent} == {"POST"}


def test_7_8_an_upload_of_what_is_new_that_leaves_tls_is_not_followed() -> None:
    uploader, _ = uploading(instead("POST", Answer(202, {"Location": "http://registry.example/upload"})))
    with pytest.raises(RegistryError, match="the upload is to go on at"):
        uploader.send(PLACE, LAYER, BLOB)


@pytest.mark.parametrize("location", ["https://registry.example:443/up", "https://Registry.Example/up"])
def test_an_upload_that_goes_on_at_the_registry_written_another_way_takes_the_login_along(location: str) -> None:
    uploader, wire = uploading(instead("POST", Answer(202, {"Location": location})))
    assert uploader.blob(PLACE, LAYER, BLOB)
    assert wire.sent[-1].headers["Authorization"] == OPERATOR.basic
    assert len(wire.sent) == 4


def test_7_8_a_401_from_elsewhere_is_not_answered() -> None:
    def answers(sent: Sent) -> Answer:
        if sent.method == "POST" and honest(sent).status != 401:
            return Answer(202, {"Location": "https://storage.example/upload"})
        return Answer(401, {"WWW-Authenticate": "Basic"}) if "storage" in sent.url else honest(sent)

    assert "401: not allowed to push" in refused(answers)


@pytest.mark.parametrize(
    "location",
    ["http://registry.example/upload", "http://storage.example/upload", "https://me:secret@registry.example/upload",
     "ftp://storage.example/", "", "upload", "https://[x"],
)  # fmt: skip
def test_7_8_an_upload_that_leaves_tls_is_not_followed(location: str) -> None:
    assert "the upload is to go on at" in refused(instead("POST", Answer(202, {"Location": location})))


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
def test_7_10_an_endless_answer_is_given_up(method: str) -> None:
    assert "the answer is longer than 65536 bytes" in refused(instead(method, Answer(500, body=Endless())))


def test_7_10_an_endless_token_is_given_up() -> None:
    def answers(sent: Sent) -> Answer:
        bearer = {"WWW-Authenticate": 'Bearer realm="https://auth.example/token?x=secret",service="s"'}
        return Answer(200, body=Endless()) if "auth.example" in sent.url else Answer(401, bearer)

    assert "GET https://auth.example/token: the answer is longer than 65536 bytes" in refused(answers)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(500, body=b"\x1b[31m<html>"), "the registry answered 500"),
        (Answer(400, body=b'{"errors":[{"code":"\\u001b[31mX","message":"\\r\\nmore","detail":"?t=secret"}]}'),
         "the registry answered 400: [31mX more"),
        (Answer(400, body=b'{"errors":[{"code":"' + b"A" * 9999 + b'"}]}'), "AAAA…"),
        (Answer(400, body=b'{"errors":[7]}'), "the registry answered 400"),
        (Answer(400, body=b"[" * 60_000), "the registry answered 400"),
        (Answer(429), "the registry answered 429"),
        (Answer(307, {"Location": "https://storage.example/"}), "the registry answered 307"),
        (requests.ConnectionError("https://me:secret@registry.example/x?sig=secret"), "https://registry.example/x"),
        (requests.Timeout("too late"), "too late"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_7_9_what_a_registry_says_to_a_push_is_fit_to_be_read(
    answer: Answer | Exception, message: str, method: str
) -> None:
    assert message in refused(instead(method, answer))


def test_a_digest_that_is_none_is_told_in_one_line() -> None:
    uploader, _ = uploading(instead("PUT", Answer(201, {"Docker-Content-Digest": "sha256:\x0b\x1b[31m"})))
    with pytest.raises(RegistryError, match=r"the registry keeps it as sha256: \[31m, sent was sha256:"):
        uploader.manifest(PLACE, b"{}")


def test_a_push_that_is_refused_says_how_long_to_wait() -> None:
    uploader, _ = uploading(instead("PUT", Answer(503, {"Retry-After": "7"})))
    with pytest.raises(RegistryError) as error:
        uploader.manifest(PLACE, b"{}")
    assert error.value.retry_after_s == 7.0


def test_a_login_for_a_part_of_a_registry_is_used_there_only() -> None:
    asked: list[str] = []

    def login(repository: str) -> Credentials:
        asked.append(repository)
        return OPERATOR

    uploader, _ = uploading(honest, Access(login=login))
    uploader.manifest(PLACE, b"{}")
    uploader.manifest(Reference(PLACE.host, "components/cell", "1.0.0"), b"{}")
    assert asked == ["fleet/edge-17", "components/cell"]
