"""Through which proxy a host is reached."""

import pytest

from margo_oci.errors import FormatError
from margo_oci.proxy import Proxies, check_proxy, proxy_host

PLANT = Proxies("http://secure.plant:3128", "http://plain.plant:3128")


def test_hosts_with_and_without_tls_have_proxies_of_their_own() -> None:
    assert PLANT.for_host("registry.example", plain_http=False) == "http://secure.plant:3128"
    assert PLANT.for_host("registry.example:5000", plain_http=True) == "http://plain.plant:3128"


@pytest.mark.parametrize(
    ("environment", "https", "http"),
    [
        ({}, "", ""),
        ({"https": "https://p:1"}, "https://p:1", ""),
        ({"all": "p:1"}, "http://p:1", "http://p:1"),
        ({"all": "http://p:1", "http": "http://q:2"}, "http://p:1", "http://q:2"),
    ],
)
def test_the_environment_names_them(environment: dict[str, str], https: str, http: str) -> None:
    found = Proxies.of(environment)
    assert (found.https, found.http) == (https, http)


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("*", "registry.example", True),
        ("registry.example", "registry.example:5000", True),
        ("registry.example", "eu.registry.example", True),
        ("registry.example", "myregistry.example", False),
        (".example", "registry.example", True),
        (".registry.example", "registry.example", False),
        ("*.example", "registry.example", True),
        ("Registry.Example", "registry.example", True),
        ("registry.example:5000", "registry.example:5000", True),
        ("registry.example:5000", "registry.example:5001", False),
        ("registry.example:5000", "registry.example", False),
        ("127.0.0.1", "127.0.0.1:5000", True),
        ("10.1.0.0/16", "10.1.2.3:5000", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("10.1.0.0/16", "registry.example", False),
        ("nonsense/99", "10.1.2.3", False),
        ("::1", "[::1]:5000", True),
        ("fd00::/8", "[fd12::1]:5000", True),
    ],
)
def test_no_proxy_says_what_is_reached_directly(entry: str, host: str, direct: bool) -> None:
    proxies = Proxies.of({"https": "http://proxy.plant:3128", "no": f" other.example, {entry} ,"})
    assert (proxies.for_host(host, plain_http=False) == "") is direct


@pytest.mark.parametrize(
    "url", ["socks5://me:secret@proxy.plant:1080", "http://", "http://[", "http://p:x", "http://p:99999", "http://p:0"]
)
def test_what_is_no_proxy_is_told_without_its_login(url: str) -> None:
    with pytest.raises(FormatError, match=r"HTTPS_PROXY: .*http://host:port or https://host:port is expected") as error:
        check_proxy(url, what="HTTPS_PROXY")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://me:x@proxy.plant:3128", "proxy.plant:3128"), ("https://proxy.plant/", "proxy.plant:443"),
     ("http://[::1]", "[::1]:80")],
)  # fmt: skip
def test_a_proxy_is_a_host_as_well(url: str, host: str) -> None:
    assert proxy_host(url) == host


def test_the_login_of_a_proxy_is_not_shown() -> None:
    assert "secret" not in repr(Proxies("http://me:secret@proxy.plant:3128"))
