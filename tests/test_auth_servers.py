"""Authentication against real components: AWS signatures checked by moto, and rotated tokens by Authlib."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from server_process import free_ports, running

from asyncstreams import (
    AuthError,
    FileTokenStore,
    HttpStream,
    Oauth2Authenticator,
    SingleUseRefreshTokenOauth2Authenticator,
    Source,
    StreamUnavailable,
)

SUPPORT = Path(__file__).parent / "support"
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
needs_moto = pytest.mark.skipif(find_spec("moto") is None, reason="moto is not installed: pip install 'moto[server]'")
needs_authlib = pytest.mark.skipif(find_spec("authlib") is None, reason="pip install authlib flask")


def documented_signature() -> Any:
    """The class AwsSignature of docs/authentication.md."""
    text = (Path(__file__).parent.parent / "docs" / "authentication.md").read_text("utf-8")
    names: dict[str, Any] = {}
    exec(text[text.index("import asyncio\nimport hashlib") : text.index("class Objects(HttpStream)")], names)
    return names["AwsSignature"]


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """A moto server that checks signatures, with a bucket and a table of 25 items, and a key that it knows."""
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}/", tmp_path_factory.mktemp("moto") / "log"
    signature = documented_signature()

    def call(service: str, method: str, path: str, key=("any", "key"), **request: Any) -> httpx.Response:
        with httpx.Client(trust_env=False, auth=signature(*key, "us-east-1", service)) as client:
            return client.request(method, url + path, **request).raise_for_status()

    def dynamodb(operation: str, **body: Any) -> None:
        headers = {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Content-Type": "application/x-amz-json-1.0"}
        call("dynamodb", "POST", "", headers=headers, content=json.dumps(body))

    def iam(**form: str) -> str:
        return call("iam", "POST", "", data={"Version": "2010-05-08", "UserName": "ann", **form}).text

    with running([sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)], port, log):
        call("s3", "PUT", "my-bucket")
        for number in range(7):
            call("s3", "PUT", f"my-bucket/a b+{number}.json", content=json.dumps([{"id": number}]))
        key = {"AttributeName": "id"}
        dynamodb(
            "CreateTable",
            TableName="items",
            KeySchema=[key | {"KeyType": "HASH"}],
            AttributeDefinitions=[key | {"AttributeType": "N"}],
            BillingMode="PAY_PER_REQUEST",
        )
        for number in range(25):
            dynamodb("PutItem", TableName="items", Item={"id": {"N": str(number)}})
        iam(Action="CreateUser")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam(Action="PutUserPolicy", PolicyName="all", PolicyDocument=json.dumps(policy))
        created = iam(Action="CreateAccessKey")
        known = [created.split(f"<{name}>")[1].split("<")[0] for name in ("AccessKeyId", "SecretAccessKey")]
        httpx.post(f"{url}moto-api/reset-auth", content="0", trust_env=False).raise_for_status()
        yield url, known


class Listing(HttpStream):
    """The objects of a bucket, two at a time."""

    def path(self, context):
        return "my-bucket"

    def request_params(self, context):
        return {"list-type": "2", "max-keys": "2", "prefix": "a b+", **(context.next_page_token or {})}

    def next_page_token(self, response, context):
        token = ElementTree.fromstring(response.content).findtext(f"{NAMESPACE}NextContinuationToken")
        return token and {"continuation-token": token}

    def parse_response(self, response, context):
        contents = ElementTree.fromstring(response.content).iterfind(f"{NAMESPACE}Contents")
        return [{"key": content.findtext(f"{NAMESPACE}Key")} for content in contents]


class Scan(HttpStream):
    """The items of a table, in five segments."""

    http_method = "POST"
    records_path = "Items"

    def path(self, context):
        return ""

    def stream_slices(self, state):
        return [{"segment": segment} for segment in range(5)]

    def request_headers(self, context):
        return {"X-Amz-Target": "DynamoDB_20120810.Scan", "Content-Type": "application/x-amz-json-1.0"}

    def request_json(self, context):
        body = {"TableName": "items", "Limit": 2, "Segment": context.stream_slice["segment"], "TotalSegments": 5}
        return body | ({"ExclusiveStartKey": context.next_page_token} if context.next_page_token else {})

    def next_page_token(self, response, context):
        return response.json().get("LastEvaluatedKey")


class Objects(HttpStream):
    """The content of objects whose names need encoding."""

    def path(self, context):
        return ("my-bucket", context.stream_slice["key"])

    def stream_slices(self, state):
        return [{"key": f"a b+{number}.json"} for number in range(7)]


async def read_signed(kind: type[HttpStream], url: str, service: str, key: tuple[str, str]) -> list[Any]:
    signed = type(kind.__name__, (kind,), {"url_base": url})
    return await signed(authenticator=documented_signature()(*key, "us-east-1", service)).read()


@needs_moto
async def test_signed_requests_list_and_read_s3(aws):
    url, key = aws

    keys = await read_signed(Listing, url, "s3", key)
    records = await read_signed(Objects, url, "s3", key)

    assert [record["key"] for record in keys] == [f"a b+{number}.json" for number in range(7)]
    assert sorted(record["id"] for record in records) == [*range(7)]


@needs_moto
async def test_signed_bodies_scan_dynamodb(aws):
    url, key = aws

    records = await read_signed(Scan, url, "dynamodb", key)

    assert {int(record["id"]["N"]) for record in records} == {*range(25)}


@needs_moto
async def test_wrong_secret_key_is_refused_by_aws(aws):
    url, (key_id, _) = aws

    with pytest.raises(StreamUnavailable, match=r"[Ss]ignature"):
        await read_signed(Listing, url, "s3", (key_id, "wrong"))


@pytest.fixture
def oauth_server(tmp_path):
    """The URL of the Authlib server, and a function that counts the results of its token requests."""
    (port,) = free_ports(1)
    log = tmp_path / "log"
    command = [sys.executable, "-W", "ignore", str(SUPPORT / "authlib_server.py"), str(port), str(log)]
    with running(command, port, log):
        yield f"http://127.0.0.1:{port}/", lambda: Counter(log.read_text().split()) if log.exists() else Counter()


CLIENT = ("my client", "s3cret +/= with spaces")


def parts_of(url: str, name: str) -> type[HttpStream]:
    class Parts(HttpStream):
        url_base = url

        def path(self, context):
            return ("items", context.stream_slice["part"])

        def stream_slices(self, state):
            return [{"part": part} for part in range(10)]

    return type(name, (Parts,), {})


@needs_authlib
@pytest.mark.parametrize("client_auth", ["body", "basic"])
async def test_rotated_tokens_are_never_reused(oauth_server, client_auth):
    url, results = oauth_server
    encoding = "raw" if client_auth == "basic" else "form"

    def login() -> Oauth2Authenticator:
        options = {"client_auth": client_auth, "basic_encoding": encoding}
        return Oauth2Authenticator(f"{url}token", *CLIENT, "first-refresh-token", **options)

    streams = [parts_of(url, f"Kind{number}")(authenticator=login()) for number in range(4)]

    counts = [len(records) for records in await asyncio.gather(*(stream.read() for stream in streams))]

    assert counts == [10] * 4
    assert results() == {"renewed": 1}


@needs_authlib
async def test_runs_with_a_token_store_continue_the_rotation(oauth_server, tmp_path):
    url, results = oauth_server

    for _ in range(3):
        store = FileTokenStore(tmp_path / "tokens.json")
        login = Oauth2Authenticator(f"{url}token", *CLIENT, "first-refresh-token", token_store=store)
        await parts_of(url, "Kind")(authenticator=login).read()
        [key] = json.loads((tmp_path / "tokens.json").read_text())["tokens"]
        async with store.exclusive(key) as tokens:
            await store.save(key, type(tokens)(tokens.access_token, tokens.refresh_token, 60.0, 0.0))

    assert results() == {"renewed": 3}


@needs_authlib
async def test_source_keeps_tokens_in_its_configuration(oauth_server):
    url, results = oauth_server
    config = {"credentials": dict(zip(("client_id", "client_secret"), CLIENT, strict=True))}
    config["credentials"]["refresh_token"] = "first-refresh-token"

    class Shop(Source):
        def streams(self, given):
            login = SingleUseRefreshTokenOauth2Authenticator(given, f"{url}token")
            return [parts_of(url, f"Kind{number}")(authenticator=login) for number in range(3)]

    for _ in range(2):
        await Shop(config).read()
        config["credentials"]["token_expiry_date"] = "2020-01-01T00:00:00Z"

    assert results() == {"renewed": 2}


@needs_authlib
async def test_reused_refresh_token_is_explained(oauth_server):
    url, results = oauth_server

    def stream() -> HttpStream:
        return parts_of(url, "Kind")(authenticator=Oauth2Authenticator(f"{url}token", *CLIENT, "first-refresh-token"))

    await stream().read()
    with pytest.raises(AuthError, match="invalid_grant") as caught:
        await stream().read()

    assert "already used" in caught.value.hint
    assert results() == {"renewed": 1, "reused": 1}
