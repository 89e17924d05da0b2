"""Proxies that intercept TLS, as in many companies, and proxies that are reached by TLS."""

from __future__ import annotations

import shutil
import ssl

import pytest
from certificates import Authority, Certificate
from environment import clear_network_variables
from intercepting_proxy import intercepting
from located_items import LocatedItems

from asyncstreams import ConfigError

HOST = "shop.test"
ONE = [{"id": 1}]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    clear_network_variables(monkeypatch)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def inner(authority: Authority) -> ssl.SSLContext:
    return server_context(authority.issue(HOST))


@pytest.fixture(scope="module")
def outer(authority: Authority) -> ssl.SSLContext:
    return server_context(authority.issue("proxy", "IP:127.0.0.1"))


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
def test_authority_of_the_environment_is_trusted(run, monkeypatch, authority, inner, variable):
    path = authority.hashed_folder() if variable == "SSL_CERT_DIR" else authority.file
    monkeypatch.setenv(variable, path)

    async def read() -> list[str]:
        async with intercepting(inner) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            assert await LocatedItems(f"https://{HOST}/").read() == ONE
        return proxy.targets

    assert run(read()) == [f"{HOST}:443"]


def test_verify_wins_over_the_authority_of_the_environment(run, monkeypatch, authority, inner, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", Authority(tmp_path, "Other Authority").file)

    async def read() -> None:
        async with intercepting(inner) as proxy:
            stream = LocatedItems(f"https://{HOST}/", proxy=proxy.url, verify=authority.file)
            assert await stream.read() == ONE

    run(read())


@pytest.mark.parametrize("is_isolated", [False, True], ids=["no authority", "trust_env is False"])
def test_untrusted_interception_is_a_config_error_at_once(run, monkeypatch, authority, inner, is_isolated):
    class Isolated(LocatedItems):
        trust_env = not is_isolated

    if is_isolated:
        monkeypatch.setenv("SSL_CERT_FILE", authority.file)

    async def read() -> list[str]:
        async with intercepting(inner) as proxy:
            with pytest.raises(ConfigError, match="certificate was not accepted"):
                await Isolated(f"https://{HOST}/", proxy=proxy.url).read()
        return proxy.targets

    assert len(run(read())) == 1


def test_variable_without_a_file_is_a_config_error(run, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/such.pem")

    with pytest.raises(ConfigError, match=r"REQUESTS_CA_BUNDLE is '/no/such\.pem'"):
        run(LocatedItems(f"https://{HOST}/").read())


def test_tunnel_within_tls_is_read(run, authority, inner, outer):
    body = b'[{"text":"%s"}]' % (b"x" * 1_000_000)

    async def read() -> list[dict[str, str]]:
        async with intercepting(inner, outer, body) as proxy:
            return await LocatedItems(f"https://{HOST}/", proxy=proxy.url, verify=authority.file).read()

    assert run(read()) == [{"text": "x" * 1_000_000}]


def test_untrusted_proxy_is_a_config_error_that_names_it(run, inner, outer):
    async def read() -> None:
        async with intercepting(inner, outer) as proxy:
            with pytest.raises(ConfigError, match="certificate") as caught:
                await LocatedItems(f"https://{HOST}/", proxy=proxy.url).read()
        assert proxy.url in str(caught.value)

    run(read())


def server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate.pair)
    return context
