"""TLS contexts: shared in a process, loaded again when their files change, and clear errors."""

from __future__ import annotations

import shutil
import ssl

import pytest
from certificates import Authority

from asyncstreams import ConfigError
from asyncstreams.wire.tls import DEFAULT_TLS, TlsOptions, tls_context, with_environment


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


def test_equal_options_share_one_context(authority):
    options = TlsOptions(authority.file, authority.issue("client").pair)

    assert tls_context(options) is tls_context(options)
    assert tls_context(options) is not tls_context(options, http2=True)
    assert tls_context(DEFAULT_TLS) is not tls_context(options)


def test_changed_authorities_are_loaded_again(authority, tmp_path):
    path = tmp_path / "ca.pem"
    shutil.copy(authority.file, path)
    before = tls_context(TlsOptions(str(path)))
    path.unlink()
    (tmp_path / "other").mkdir()
    shutil.copy(Authority(tmp_path / "other", "Other Authority").file, path)

    after = tls_context(TlsOptions(str(path)))

    assert after is not before
    assert "Other Authority" in str(after.get_ca_certs())


@pytest.mark.parametrize(
    ("environ", "verify"),
    [
        ({}, True),
        ({"SSL_CERT_FILE": ""}, True),
        ({"REQUESTS_CA_BUNDLE": "/bin", "SSL_CERT_DIR": "/etc"}, "/etc"),
        ({"REQUESTS_CA_BUNDLE": "/bin", "SSL_CERT_DIR": "/etc", "SSL_CERT_FILE": "/tmp"}, "/tmp"),
    ],
)
def test_first_variable_of_the_environment_counts(environ, verify):
    assert with_environment(DEFAULT_TLS, environ).verify == verify


@pytest.mark.parametrize("verify", [False, "/other", ssl.create_default_context()], ids=["False", "path", "context"])
def test_verify_wins_over_the_environment(verify):
    options = TlsOptions(verify)

    assert with_environment(options, {"SSL_CERT_FILE": "/etc"}) is options


@pytest.mark.parametrize("text", ["", "not a certificate"])
def test_file_without_authorities_is_named(tmp_path, text):
    path = tmp_path / "ca.pem"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"verify = .*ca\.pem': contains no certificate in PEM format"):
        tls_context(TlsOptions(str(path)))


def test_missing_files_are_named(authority):
    with pytest.raises(ConfigError, match=r"verify = '/no/ca\.pem': No such file"):
        tls_context(TlsOptions("/no/ca.pem"))
    with pytest.raises(ConfigError, match=r"cert = /no/client\.pem: No such file"):
        tls_context(TlsOptions(authority.file, "/no/client.pem"))


def test_problems_of_a_client_certificate_are_explained(authority):
    client, other = authority.issue("client"), authority.issue("other")
    encrypted = client.encrypted("s3cret").pair
    mixed = (client.pair[0], other.pair[1])

    with pytest.raises(ConfigError, match="the key does not belong to the certificate"):
        tls_context(TlsOptions(True, mixed))
    with pytest.raises(ConfigError, match="the key of cert is encrypted"):
        tls_context(TlsOptions(True, encrypted))
    with pytest.raises(ConfigError, match="the password of the key is wrong") as caught:
        tls_context(TlsOptions(True, (*encrypted, "hunter22")))

    assert "hunter22" not in str(caught.value)


def test_context_holds_one_client_certificate(authority):
    context = ssl.create_default_context()
    first, second = TlsOptions(context, authority.issue("a").pair), TlsOptions(context, authority.issue("b").pair)
    tls_context(first)

    with pytest.raises(ConfigError, match="two different cert for one SSLContext"):
        tls_context(second)

    assert tls_context(first) is context
