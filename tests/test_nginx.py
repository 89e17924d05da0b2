"""Streams against nginx, a server of the field."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from located_items import LocatedItems, Upload
from nginx_server import FILE_ROWS, HOST, LARGE_ROWS, PAGE_SIZE, PAGES, REQUESTS_PER_CONNECTION, Nginx, run_nginx

from asyncstreams import ConfigError, HttpStatusError, HttpStream, PageNumber, RequestContext, Response, csv_rows
from asyncstreams.errors import MalformedResponse

pytestmark = pytest.mark.server("nginx")


class Items(HttpStream):
    records_path = "data"
    paginator = PageNumber(total_pages="pages")

    def __init__(self, url_base: str) -> None:
        self.url_base = url_base
        super().__init__()

    def path(self, context: Any) -> str:
        return "items"


class Limited(Items):
    def path(self, context: Any) -> str:
        return "limited"


class Connections(Items):
    """The number of the connection of each page, one page after the other."""

    max_concurrency = 1

    def path(self, context: Any) -> str:
        return "connections"


class Framing(LocatedItems):
    """The headers that frame the response, and the number of its records."""

    async def parse_response(self, response: Response, context: RequestContext) -> list[dict[str, Any]]:
        names = ("transfer-encoding", "content-encoding", "content-length", "connection")
        headers = {name: response.headers[name] for name in names if name in response.headers}
        return [{**headers, "rows": len(response.json())}]


class Table(LocatedItems):
    """The rows of a CSV, in the charset that is given or declared."""

    encoding: str | None = None

    async def parse_response(self, response: Response, context: RequestContext) -> AsyncIterator[dict[str, Any]]:
        async for row in csv_rows(response, delimiter=";", encoding=self.encoding):
            yield row


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with run_nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="module")
def trusted(nginx: Nginx) -> str:
    """The path of the certificate of nginx's authority."""
    return nginx.authority.file


async def test_compressed_pages_are_read_over_closing_connections(nginx):
    records = await Items(nginx.url).read()

    assert [record["id"] for record in records] == list(range(PAGES * PAGE_SIZE))


async def test_pages_beyond_an_undeclared_limit_are_read_after_429(nginx):
    records = await Limited(nginx.url).read()

    assert [record["id"] for record in records] == list(range(PAGES * PAGE_SIZE))


def test_connection_is_used_as_often_as_the_server_allows(run, nginx):
    records = run(Connections(nginx.url).read())

    uses = Counter(record["connection"] for record in records)
    full, rest = divmod(PAGES, REQUESTS_PER_CONNECTION)
    assert list(uses.values()) == [REQUESTS_PER_CONNECTION] * full + [rest]


@pytest.mark.parametrize(
    ("path", "pause"), [("brief", 0.95), ("silent", 1.1)], ids=["shortly before its announced end", "after its end"]
)
def test_idle_connection_is_not_used_again(run, nginx, path, pause):
    stream = LocatedItems(nginx.url, path)

    async def read_with_pause() -> list[dict[str, Any]]:
        async with stream.records() as records:  # keeps the connections open until its end
            first = [record async for record in records]
            await asyncio.sleep(pause)
            return first + await stream.read()

    first, second = run(read_with_pause())

    assert first["connection"] != second["connection"]


@pytest.mark.parametrize(
    ("path", "framing"),
    [
        ("compressed", {"transfer-encoding": "chunked", "content-encoding": "gzip", "connection": "keep-alive"}),
        ("rewritten", {"transfer-encoding": "chunked", "connection": "keep-alive"}),
        ("unframed", {"content-encoding": "gzip", "connection": "close"}),
    ],
    ids=["chunked and gzip", "chunked", "ends with the connection"],
)
def test_body_is_complete_however_it_is_framed(run, nginx, path, framing):
    records = run(Framing(nginx.url, path).read())

    assert records == [{**framing, "rows": LARGE_ROWS}]


def test_body_that_ends_with_the_connection_over_tls(run, nginx, trusted):
    (record,) = run(Framing(nginx.tls_url(), "unframed", verify=trusted).read())

    assert record == {"content-encoding": "gzip", "connection": "close", "rows": LARGE_ROWS}


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_file_is_read_in_its_declared_charset(run, nginx, name):
    assert run(Table(nginx.url, f"files/{name}").read()) == FILE_ROWS


@pytest.mark.parametrize("name", ["rows.csv.bz2", "rows.csv.zip"])
def test_file_of_unknown_type_is_read_in_the_given_charset(run, nginx, name):
    stream = Table(nginx.url, f"files/{name}")
    stream.encoding = "iso-8859-1"

    assert run(stream.read()) == FILE_ROWS


@pytest.mark.parametrize("path", ["recoded/rows.csv", "static/rows.csv"], ids=["recoded", "gzip_static"])
def test_file_that_the_server_converts_is_read(run, nginx, path):
    assert run(Table(nginx.url, path).read()) == FILE_ROWS


def test_head_of_40_kib_is_accepted(run, nginx):
    assert run(LocatedItems(nginx.url, "headers/40").read()) == [{"id": 1}]


def test_head_of_300_kib_is_an_error_that_names_the_limit(run, nginx):
    with pytest.raises(MalformedResponse, match="the head is larger than 256 KiB"):
        run(LocatedItems(nginx.url, "headers/300").read())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_early_answer_to_a_large_upload_is_received(run, nginx, trusted, scheme):
    url = nginx.url if scheme == "http" else nginx.tls_url()

    with pytest.raises(HttpStatusError, match="413") as caught:
        run(Upload(url, "uploads", verify=trusted).read())

    assert caught.value.tries == 1


@pytest.mark.parametrize(("port", "version"), [("tls12", "TLSv1.2"), ("tls13", "TLSv1.3")])
def test_server_with_one_version_of_tls_is_read(run, nginx, trusted, port, version):
    (record,) = run(LocatedItems(nginx.tls_url(port), verify=trusted).read())

    assert record["protocol"] == version


@pytest.mark.parametrize("name", ["one.test", HOST])
def test_sni_selects_and_verifies_the_certificate(run, nginx, trusted, name):
    url = nginx.tls_url(host="127.0.0.1")

    (record,) = run(LocatedItems(url, verify=trusted, extensions={"sni_hostname": name}).read())

    assert record["server"] == name


def test_authorities_of_a_hashed_folder_are_trusted(run, nginx):
    (record,) = run(LocatedItems(nginx.tls_url(), verify=nginx.authority.hashed_folder()).read())

    assert record["server"] == "localhost"


@pytest.mark.parametrize(
    ("name", "knows_authority", "reason"),
    [("localhost", False, "local issuer certificate"), ("other.test", True, "not valid for 'other.test'")],
    ids=["unknown authority", "wrong name"],
)
def test_rejected_certificate_is_a_config_error_at_once(run, nginx, trusted, name, knows_authority, reason):
    extensions = {"sni_hostname": name}
    connections_before = nginx.connections()

    with pytest.raises(ConfigError, match=reason):
        run(LocatedItems(nginx.tls_url(), verify=trusted if knows_authority else True, extensions=extensions).read())

    assert nginx.connections() - connections_before == 1


@pytest.mark.parametrize("form", ["one file", "pair", "pair with password", "beside a context", "within a context"])
def test_client_certificate_is_shown_in_each_form(run, nginx, trusted, form):
    client, context = nginx.client, ssl.create_default_context(cafile=trusted)
    if form == "within a context":
        context.load_cert_chain(*client.pair)
    kwargs: dict[str, Any] = {
        "one file": {"verify": trusted, "cert": str(client.joined())},
        "pair": {"verify": trusted, "cert": client.pair},
        "pair with password": {"verify": trusted, "cert": (*client.encrypted("s3cret").pair, "s3cret")},
        "beside a context": {"verify": context, "cert": client.pair},
        "within a context": {"verify": context},
    }[form]

    (record,) = run(LocatedItems(nginx.tls_url("client_certificate"), **kwargs).read())

    assert record["client"] == "CN=client"


@pytest.mark.parametrize("form", ["none", "of another authority"])
def test_missing_client_certificate_is_not_retried(run, nginx, trusted, tmp_path, form):
    cert = None if form == "none" else Authority(tmp_path, "Other Authority").issue("client").pair

    with pytest.raises(HttpStatusError, match="400") as caught:
        run(LocatedItems(nginx.tls_url("client_certificate"), verify=trusted, cert=cert).read())

    assert caught.value.tries == 1


def test_encrypted_key_without_password_is_a_config_error(run, nginx, trusted):
    connections_before = nginx.connections()
    cert = nginx.client.encrypted("s3cret").pair

    with pytest.raises(ConfigError, match="encrypted") as caught:
        run(LocatedItems(nginx.tls_url("client_certificate"), verify=trusted, cert=cert).read())

    assert "(certificate, key, password)" in str(caught.value)
    assert nginx.connections() == connections_before


def test_wrong_password_of_a_key_is_a_config_error(run, nginx, trusted):
    cert = (*nginx.client.encrypted("s3cret").pair, "hunter22")

    with pytest.raises(ConfigError, match="cert") as caught:
        run(LocatedItems(nginx.tls_url("client_certificate"), verify=trusted, cert=cert).read())

    assert "hunter22" not in str(caught.value)


def test_second_client_certificate_in_a_context_is_refused(run, nginx, trusted):
    url, context = nginx.tls_url("client_certificate"), ssl.create_default_context(cafile=trusted)
    first, second = nginx.client.pair, nginx.authority.issue("second").pair
    run(LocatedItems(url, verify=context, cert=first).read())

    with pytest.raises(ConfigError, match="two different cert for one SSLContext"):
        run(LocatedItems(url, verify=context, cert=second).read())

    assert run(LocatedItems(url, verify=context, cert=first).read())[0]["client"] == "CN=client"


def test_verify_none_verifies_the_certificate(run, nginx):
    with pytest.raises(ConfigError):
        run(LocatedItems(nginx.tls_url(), verify=None).read())


def test_verify_may_be_a_path_object(run, nginx, trusted):
    assert run(LocatedItems(nginx.tls_url(), verify=Path(trusted)).read())


def test_context_that_offers_http2_is_a_config_error(run, nginx, trusted):
    context = ssl.create_default_context(cafile=trusted)
    context.set_alpn_protocols(["h2", "http/1.1"])

    with pytest.raises(ConfigError, match="h2"):
        run(LocatedItems(nginx.tls_url("http2"), verify=context).read())


def test_rejected_certificate_over_http2_is_a_config_error(run, nginx):
    with pytest.raises(ConfigError, match="certificate was not accepted"):
        run(LocatedItems(nginx.tls_url("http2"), http2=True).read())
