"""Streams through squid and tinyproxy to nginx: passwords, tunnels, proxies reached by TLS, and interception."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from environment import clear_network_variables
from located_items import LocatedItems, Upload
from nginx_server import HOST, Nginx, run_nginx
from proxy_servers import Proxies, run_squid, run_tinyproxy

from asyncstreams import AsyncStreamsError, ConfigError, HttpStatusError, RequestContext
from asyncstreams.errors import HostUnavailable

pytestmark = pytest.mark.server("nginx")
ONE = [{"id": 1}]
SQUID = pytest.param("squid", marks=pytest.mark.server("squid"))
TINYPROXY = pytest.param("tinyproxy", marks=pytest.mark.server("tinyproxy"))
WRONG_PASSWORD = "hunter22"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    clear_network_variables(monkeypatch)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with run_nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="module")
def trusted(nginx: Nginx) -> str:
    """The path of the certificate of nginx's authority."""
    return nginx.authority.file


@pytest.fixture(scope="module")
def squid(nginx: Nginx) -> Iterator[Proxies]:
    """A squid that lets through requests to two ports of nginx."""
    with run_squid([nginx.ports["http"], nginx.ports["tls"]], nginx.authority.file, HOST) as proxies:
        yield proxies


@pytest.fixture(scope="module")
def tinyproxy(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """A tinyproxy that opens tunnels to one port of nginx."""
    with run_tinyproxy(tmp_path_factory.mktemp("tinyproxy"), nginx.ports["tls"]) as proxies:
        yield proxies


@pytest.fixture(params=[SQUID, TINYPROXY])
def proxies(request: pytest.FixtureRequest) -> Proxies:
    """Either of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def both_trusted(nginx: Nginx, squid: Proxies, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a file with the authorities of nginx and of squid."""
    path = tmp_path_factory.mktemp("authorities") / "both.pem"
    path.write_bytes(Path(nginx.authority.file).read_bytes() + Path(squid.authority.file).read_bytes())
    return str(path)


class Connections(LocatedItems):
    """The number of nginx's connection."""

    records_path = "data"

    def request_params(self, context: RequestContext) -> dict[str, int]:
        return {"page": 1}


def assert_names_proxy(error: AsyncStreamsError, proxy: str) -> None:
    """The error names the proxy without its password, and was raised after the first try."""
    assert proxy.rpartition("@")[2] in str(error)
    assert WRONG_PASSWORD not in str(error)
    assert error.tries == 1


@pytest.mark.parametrize("port", ["open", "protected"])
def test_http_is_read_through_a_proxy(run, nginx, proxies, port):
    proxy = proxies.url(port, proxies.password if port == "protected" else "")

    assert run(LocatedItems(nginx.url, "one", proxy=proxy).read()) == ONE


@pytest.mark.parametrize("port", ["open", "protected"])
def test_https_is_read_through_a_tunnel(run, nginx, proxies, trusted, port):
    proxy = proxies.url(port, proxies.password if port == "protected" else "")

    (record,) = run(LocatedItems(nginx.tls_url(), proxy=proxy, verify=trusted).read())

    assert record["server"] == "localhost"
    assert record["proxy_authorization"] == ""


def test_tunnel_serves_several_requests(run, nginx, proxies, trusted):
    async def read_twice() -> list[dict[str, int]]:
        stream = Connections(nginx.tls_url(), "connections", proxy=proxies.url(), verify=trusted)
        async with stream.records() as records:  # keeps the connections open until its end
            return [record async for record in records] + await stream.read()

    first, second = run(read_twice())

    assert first["connection"] == second["connection"]


@pytest.mark.parametrize("path", ["compressed", "rewritten", "unframed"])
def test_large_body_is_complete_through_a_proxy(run, nginx, proxies, path):
    direct = run(LocatedItems(nginx.url, path).read())

    assert run(LocatedItems(nginx.url, path, proxy=proxies.url()).read()) == direct


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_early_answer_to_an_upload_passes_a_proxy(run, nginx, proxies, trusted, scheme):
    url = nginx.url if scheme == "http" else nginx.tls_url()

    with pytest.raises(HttpStatusError, match="413"):
        run(Upload(url, "uploads", proxy=proxies.url(), verify=trusted).read())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_demands_a_password_is_a_config_error(run, nginx, proxies, trusted, scheme):
    url, proxy = nginx.url if scheme == "http" else nginx.tls_url(), proxies.url("protected")

    with pytest.raises(ConfigError, match="demands a user name and a password") as caught:
        run(LocatedItems(url, proxy=proxy, verify=trusted).read())

    assert_names_proxy(caught.value, proxy)


@pytest.mark.server("squid")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wrong_password_of_a_proxy_is_a_config_error(run, nginx, squid, trusted, scheme):
    url, proxy = nginx.url if scheme == "http" else nginx.tls_url(), squid.url("protected", WRONG_PASSWORD)

    with pytest.raises(ConfigError, match="rejects the user name or password") as caught:
        run(LocatedItems(url, proxy=proxy, verify=trusted).read())

    assert_names_proxy(caught.value, proxy)


@pytest.mark.server("squid")
def test_wrong_password_of_a_proxy_is_sent_once(run, nginx, squid):
    refused_before = squid.count("TCP_DENIED/407")

    with pytest.raises(ConfigError):
        run(LocatedItems(nginx.url, proxy=squid.url("protected", WRONG_PASSWORD)).read())
    run(LocatedItems(nginx.url, "last", proxy=squid.url()).read())

    squid.wait_for_log("/last")
    assert squid.count("TCP_DENIED/407") - refused_before == 1


@pytest.mark.server("tinyproxy")
def test_401_to_a_tunnel_is_a_wrong_password_of_the_proxy(run, nginx, tinyproxy, trusted):
    proxy = tinyproxy.url("protected", WRONG_PASSWORD)

    with pytest.raises(ConfigError, match="rejects the user name or password"):
        run(LocatedItems(nginx.tls_url(), proxy=proxy, verify=trusted).read())


def test_refused_tunnel_names_the_proxy_and_is_not_retried(run, nginx, proxies, trusted):
    with pytest.raises(HostUnavailable, match="403 to CONNECT") as caught:
        run(LocatedItems(nginx.tls_url("tls12"), proxy=proxies.url(), verify=trusted).read())

    assert_names_proxy(caught.value, proxies.url())


def test_tunnel_that_fails_for_now_is_retried(run, nginx, proxies, trusted):
    nowhere = f"https://nowhere.invalid:{nginx.ports['tls']}/"

    with pytest.raises(AsyncStreamsError, match=r"cannot connect to nowhere\.invalid") as caught:
        run(LocatedItems(nowhere, proxy=proxies.url(), verify=trusted).read())

    assert caught.value.tries == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_running_is_named(run, scheme):
    with pytest.raises(HostUnavailable, match=r"the proxy http://127\.0\.0\.1:1: Connection refused") as caught:
        run(LocatedItems(f"{scheme}://{HOST}/", proxy=f"http://user:{WRONG_PASSWORD}@127.0.0.1:1").read())

    assert "check that the proxy is running" in str(caught.value)
    assert WRONG_PASSWORD not in str(caught.value)


@pytest.mark.server("squid")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_of_the_environment_is_used(run, nginx, squid, trusted, scheme, monkeypatch):
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", squid.url("protected", squid.password))

    assert run(LocatedItems(named_url(nginx, scheme), "one", verify=trusted).read())


@pytest.mark.server("squid")
def test_host_of_no_proxy_is_reached_directly(run, nginx, squid, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", squid.url())
    monkeypatch.setenv("NO_PROXY", HOST)

    with pytest.raises(AsyncStreamsError, match="cannot be found"):  # only squid resolves the name
        run(LocatedItems(named_url(nginx, "http")).read())


@pytest.mark.server("squid")
def test_without_trust_env_no_proxy_is_used(run, nginx, squid, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", squid.url())

    class Isolated(LocatedItems):
        trust_env = False

    with pytest.raises(AsyncStreamsError, match="cannot be found"):
        run(Isolated(named_url(nginx, "http")).read())


@pytest.mark.server("squid")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_reached_by_tls_is_used(run, nginx, squid, both_trusted, scheme):
    url = nginx.url if scheme == "http" else nginx.tls_url()

    assert run(LocatedItems(url, "one", proxy=squid.url("tls"), verify=both_trusted).read())


@pytest.mark.server("squid")
def test_early_answer_passes_tls_within_tls(run, nginx, squid, both_trusted):
    with pytest.raises(HttpStatusError, match="413"):
        run(Upload(nginx.tls_url(), "uploads", proxy=squid.url("tls"), verify=both_trusted).read())


@pytest.mark.server("squid")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_rejected_certificate_of_a_proxy_is_a_config_error(run, nginx, squid, trusted, scheme):
    url, proxy = nginx.url if scheme == "http" else nginx.tls_url(), squid.url("tls")

    with pytest.raises(ConfigError, match="certificate") as caught:
        run(LocatedItems(url, proxy=proxy, verify=trusted).read())

    assert_names_proxy(caught.value, proxy)


@pytest.mark.server("squid")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_intercepting_proxy_is_trusted_by_the_environment(run, nginx, squid, monkeypatch, variable):
    folder = variable == "SSL_CERT_DIR"
    monkeypatch.setenv(variable, squid.authority.hashed_folder() if folder else squid.authority.file)
    monkeypatch.setenv("HTTPS_PROXY", squid.url("intercepting"))

    (record,) = run(LocatedItems(named_url(nginx, "https")).read())

    assert record["server"] == HOST


@pytest.mark.server("squid")
def test_intercepting_proxy_without_trust_is_a_config_error(run, nginx, squid, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", squid.url("intercepting"))

    with pytest.raises(ConfigError, match="certificate was not accepted") as caught:
        run(LocatedItems(named_url(nginx, "https")).read())

    assert caught.value.tries == 1


def named_url(nginx: Nginx, scheme: str) -> str:
    """A URL of nginx with a name that only squid resolves."""
    return nginx.tls_url(host=HOST) if scheme == "https" else nginx.url.replace("127.0.0.1", HOST)
