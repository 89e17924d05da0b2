"""OAuth2 tokens kept between runs and over processes, in a file or in the configuration."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import pytest
from httpx import Response

from asyncstreams import (
    AuthError,
    ConfigError,
    FileTokenStore,
    HttpStream,
    Oauth2Authenticator,
    Oauth2Tokens,
    OutputLocked,
    Secret,
    SingleUseRefreshTokenOauth2Authenticator,
    Source,
    StateCorrupt,
)
from asyncstreams.auth.identity import credential_id
from asyncstreams.storage.file_lock import OutputLock

TOKEN_URL = "https://auth.example.com/token"
URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


class RotatingServer:
    """A token endpoint that accepts each refresh token once, and an API that accepts its last access token."""

    def __init__(self, router, log=None) -> None:
        self.valid, self.count, self.reused = "r0", 0, 0
        self.log: list[object] = [] if log is None else log
        router.post(TOKEN_URL).mock(side_effect=self.renew)
        router.get(url__startswith="https://api.example.com/").mock(side_effect=self.answer)

    def renew(self, request: httpx.Request) -> Response:
        sent = httpx.QueryParams(request.content.decode())["refresh_token"]
        self.log.append(sent)
        if sent != self.valid:
            self.reused += 1
            return Response(400, json={"error": "invalid_grant", "error_description": "the token was used before"})
        self.count += 1
        self.valid = f"r{self.count}"
        fields = {"access_token": f"t{self.count}", "refresh_token": self.valid, "expires_in": 3600}
        return Response(200, json=fields)

    def answer(self, request: httpx.Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.log.append(token)
        return Response(200, json=[{"id": 1}]) if token == f"t{self.count}" else Response(401)


class MemoryStore:
    """A TokenStore in memory; `before_exclusive` runs before its lock is given, with the key."""

    def __init__(self, log=None) -> None:
        self.tokens: dict[str, Oauth2Tokens] = {}
        self.log: list[object] = [] if log is None else log
        self.before_exclusive = lambda key: None
        self.lock = asyncio.Lock()

    @asynccontextmanager
    async def exclusive(self, key: str, /):
        self.before_exclusive(key)
        async with self.lock:
            yield self.tokens.get(key)

    async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
        self.log.append(f"save {tokens.refresh_token.reveal()}")
        self.tokens[key] = tokens


def make_auth(clock, store, **options) -> Oauth2Authenticator:
    arguments = {"client_id": "app", "client_secret": "s3cret", "refresh_token": "r0"} | options
    return Oauth2Authenticator(TOKEN_URL, clock=clock, token_store=store, **arguments)


async def read(clock, authenticator) -> None:
    assert await Users(authenticator=authenticator, clock=clock).read() == [{"id": 1}]


async def test_next_run_uses_stored_tokens(respx_mock, virtual_clock, tmp_path):
    server = RotatingServer(respx_mock)
    path = tmp_path / "new" / "tokens.json"

    await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))
    await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))
    virtual_clock.advance(3590)
    await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))

    assert server.log == ["r0", "t1", "t1", "r1", "t2"]


async def test_tokens_are_stored_before_use(respx_mock, virtual_clock):
    log: list[object] = []
    RotatingServer(respx_mock, log)
    authenticator = make_auth(virtual_clock, MemoryStore(log), on_refresh=lambda tokens: log.append("on_refresh"))

    await read(virtual_clock, authenticator)

    assert log == ["r0", "save r1", "on_refresh", "t1"]


async def test_store_receives_valid_refresh_token_without_rotation(respx_mock, virtual_clock):
    respx_mock.post(TOKEN_URL).respond(json={"access_token": "t1"})
    respx_mock.get(URL).respond(json=[{"id": 1}])
    store = MemoryStore()

    await read(virtual_clock, make_auth(virtual_clock, store))

    assert [tokens.refresh_token for tokens in store.tokens.values()] == [Secret("r0")]


async def test_token_renewed_elsewhere_is_used_after_401(respx_mock, virtual_clock):
    server, store = RotatingServer(respx_mock), MemoryStore()
    one, other = make_auth(virtual_clock, store), make_auth(virtual_clock, store)

    await read(virtual_clock, one)
    await read(virtual_clock, other)
    virtual_clock.advance(3590)
    await read(virtual_clock, other)
    await read(virtual_clock, one)

    assert server.log == ["r0", "t1", "t1", "r1", "t2", "t2"]


async def test_store_is_read_again_on_invalid_grant(respx_mock, virtual_clock):
    server, store = RotatingServer(respx_mock), MemoryStore()
    authenticator = make_auth(virtual_clock, store)
    reads = []

    def renew_elsewhere(key: str) -> None:
        reads.append(server.valid)
        if len(reads) == 1:
            server.valid = "r7"
        else:
            store.tokens[key] = Oauth2Tokens(Secret("old"), Secret("r7"), 3600.0)

    store.before_exclusive = renew_elsewhere

    await read(virtual_clock, authenticator)

    assert server.log == ["r0", "r7", "t1"]


async def test_invalid_grant_with_unchanged_store_raises_auth_error(respx_mock, virtual_clock):
    server, store = RotatingServer(respx_mock), MemoryStore()
    server.valid = "another"

    with pytest.raises(AuthError, match="invalid_grant: the token was used before"):
        await read(virtual_clock, make_auth(virtual_clock, store))

    assert server.log == ["r0"]


async def test_failed_save_does_not_bring_back_old_token(respx_mock, virtual_clock):
    server = RotatingServer(respx_mock)
    failures = [OSError("disk full")]

    class Failing(MemoryStore):
        async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
            if failures and server.count == 2:
                raise failures.pop()
            await super().save(key, tokens)

    authenticator = make_auth(virtual_clock, Failing())
    await read(virtual_clock, authenticator)
    virtual_clock.advance(3590)

    with pytest.raises(OSError, match="disk full"):
        await read(virtual_clock, authenticator)
    await read(virtual_clock, authenticator)

    assert server.log == ["r0", "t1", "r1", "r2", "t3"]


async def test_clients_and_accounts_have_their_own_tokens(respx_mock, virtual_clock, tmp_path):
    keys = []

    class Keys(MemoryStore):
        async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
            keys.append(key)

    respx_mock.post(TOKEN_URL).respond(json={"access_token": "t1"})
    respx_mock.get(URL).respond(json=[{"id": 1}])
    others = [{}, {"client_id": "other"}, {"refresh_token": "secret-account"}, {"scopes": ["all"]}]

    for other in [*others, {}]:
        await read(virtual_clock, make_auth(virtual_clock, Keys(), **other))

    assert len(set(keys)) == 4
    assert keys[0] == keys[-1]
    assert not any("s3cret" in key or "secret-account" in key for key in keys)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
async def test_token_file_is_readable_by_its_owner_only(respx_mock, virtual_clock, tmp_path):
    RotatingServer(respx_mock)
    path = tmp_path / "tokens.json"
    before = os.umask(0)
    try:
        await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "s3cret" not in path.read_text()


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
@pytest.mark.respx(assert_all_called=False)
async def test_token_file_readable_by_others_is_refused(respx_mock, virtual_clock, tmp_path):
    RotatingServer(respx_mock)
    path = tmp_path / "tokens.json"
    path.write_text('{"format": 1, "tokens": {}}')
    path.chmod(0o644)

    with pytest.raises(ConfigError, match="other users can read") as caught:
        await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))

    assert "chmod 600" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 9}', b'{"format": 1, "tokens": {"KEY": {}}}'])
@pytest.mark.respx(assert_all_called=False)
async def test_damaged_token_file_is_not_taken_for_an_empty_one(respx_mock, virtual_clock, tmp_path, content):
    server = RotatingServer(respx_mock)
    path = tmp_path / "tokens.json"
    await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))
    [key] = json.loads(path.read_bytes())["tokens"]
    path.write_bytes(content.replace(b"KEY", key.encode()))
    server.log.clear()

    with pytest.raises(StateCorrupt, match="FileTokenStore"):
        await read(virtual_clock, make_auth(virtual_clock, FileTokenStore(path)))

    assert server.log == []


async def test_lock_that_is_not_released_is_named(virtual_clock, tmp_path):
    path = tmp_path / "tokens.json"
    lock = OutputLock(tmp_path / "tokens.json.lock", 0.0)
    store = FileTokenStore(path, lock_timeout=5, clock=virtual_clock)

    with pytest.raises(OutputLocked, match=r"tokens\.json .* process \d+ .* not released for 5 s"):
        async with store.exclusive("key"):
            pass
    lock.release()

    async with store.exclusive("key") as tokens:
        assert tokens is None


class RenewalServer(ThreadingHTTPServer):
    """A server of another thread that accepts each refresh token once, and takes a while to renew."""

    renewals: list[str]


class RenewalHandler(BaseHTTPRequestHandler):
    server: RenewalServer

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.renewals.append(form["refresh_token"][0])
        time.sleep(0.2)
        number = len(self.server.renewals)
        fields = {"access_token": f"t{number}", "refresh_token": f"r{number}", "expires_in": 3600}
        self.respond(200 if form["refresh_token"][0] == f"r{number - 1}" else 400, fields)

    def do_GET(self) -> None:
        is_valid = self.headers["Authorization"] == f"Bearer t{len(self.server.renewals)}"
        self.respond(200 if is_valid else 401, [])

    def respond(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def renewal_server():
    server = RenewalServer(("127.0.0.1", 0), RenewalHandler)
    server.renewals = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


PROCESS = """
import asyncio, sys
import httpx
from asyncstreams import FileTokenStore, Oauth2Authenticator

async def main(url, path):
    auth = Oauth2Authenticator(url + "token", "app", "s3cret", "r0", token_store=FileTokenStore(path))
    async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
        responses = [await client.get(url + "items") for _ in range(3)]
    assert [response.status_code for response in responses] == [200] * 3, responses

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_renew_one_after_the_other(tmp_path, renewal_server):
    url = f"http://127.0.0.1:{renewal_server.server_port}/"
    arguments = [sys.executable, "-c", PROCESS, url, str(tmp_path / "tokens.json")]

    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]

    assert [process.returncode for process in processes] == [0] * 2, errors
    assert renewal_server.renewals == ["r0"]


def config(**credentials) -> dict[str, dict[str, str]]:
    fields = {"client_id": "app", "client_secret": "s3cret", "refresh_token": "r0", "access_token": ""}
    return {"credentials": fields | credentials}


def single_use(clock, given, **options) -> SingleUseRefreshTokenOauth2Authenticator:
    return SingleUseRefreshTokenOauth2Authenticator(given, TOKEN_URL, clock=clock, **options)


async def test_single_use_tokens_are_written_back_before_use(respx_mock, virtual_clock):
    given, log = config(), []
    server = RotatingServer(respx_mock, log)

    def persist(tokens: Oauth2Tokens) -> None:
        log.append(json.loads(json.dumps(given["credentials"])))

    await read(virtual_clock, single_use(virtual_clock, given, on_refresh=persist))

    written = {"access_token": "t1", "refresh_token": "r1", "client_id": "app", "client_secret": "s3cret"}
    assert server.log[0] == "r0"
    assert {**server.log[1], "token_expiry_date": ""} == written | {"token_expiry_date": ""}
    assert server.log[1]["token_expiry_date"].endswith("Z")
    assert server.log[2] == "t1"


async def test_single_use_continues_with_stored_configuration(respx_mock, virtual_clock):
    given = config()
    server = RotatingServer(respx_mock)

    await read(virtual_clock, single_use(virtual_clock, given))
    await read(virtual_clock, single_use(virtual_clock, json.loads(json.dumps(given))))
    virtual_clock.advance(3590)
    await read(virtual_clock, single_use(virtual_clock, json.loads(json.dumps(given))))

    assert server.log == ["r0", "t1", "t1", "r1", "t2"]


@pytest.mark.parametrize("shared", [True, False], ids=["one-mapping", "copies"])
async def test_single_use_streams_of_a_source_renew_once(respx_mock, virtual_clock, shared):
    server = RotatingServer(respx_mock)
    one = config()
    configs = [one if shared else config() for _ in range(3)]
    kinds = [type(f"Kind{number}", (Users,), {}) for number in range(3)]

    class Shop(Source):
        def streams(self, given):
            return [
                kind(authenticator=single_use(virtual_clock, each)) for kind, each in zip(kinds, configs, strict=True)
            ]

    source = Shop(one, clock=virtual_clock)
    for _ in range(2):
        await source.read()
        virtual_clock.advance(3590)

    assert (server.count, server.reused) == (2, 0)
    assert {each["credentials"]["refresh_token"] for each in configs} == {"r2"}


async def test_single_use_reads_tokens_at_own_paths(respx_mock, virtual_clock):
    server = RotatingServer(respx_mock)
    given = {"oauth": {"refresh": Secret("r0")}}
    authenticator = single_use(
        virtual_clock,
        given,
        client_id="app",
        client_secret="s3cret",
        access_token_config_path=("oauth", "new", "access"),
        refresh_token_config_path=["oauth", "refresh"],
        token_expiry_date_config_path=("expires",),
    )

    await read(virtual_clock, authenticator)

    assert server.log == ["r0", "t1"]
    assert given["oauth"]["refresh"] == Secret("r1")
    assert given["oauth"]["new"]["access"] == "t1"
    assert "expires" in given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "credentials.client_id"),
        ({"credentials": {"client_id": "app"}}, "credentials.refresh_token"),
        ({"credentials": "r0"}, "cannot be changed at 'credentials.access_token'"),
        (config(refresh_token=""), "credentials.refresh_token"),
    ],
)
def test_configuration_without_credentials_is_refused(virtual_clock, given, message):
    with pytest.raises(ConfigError, match=message):
        single_use(virtual_clock, given)


def test_single_use_credential_is_the_same_in_the_next_run(virtual_clock):
    first = Users(authenticator=single_use(virtual_clock, config()))
    second = Users(authenticator=single_use(virtual_clock, config(refresh_token="r9", access_token="t9")))

    assert credential_id(first, b"salt") == credential_id(second, b"salt")


def test_path_of_store_is_shown_and_tokens_are_not(tmp_path):
    tokens = Oauth2Tokens(Secret("t1"), Secret("r1"), 60.0, 1_900_000_000.0)

    assert repr(FileTokenStore(Path("tokens.json"))) == "FileTokenStore('tokens.json')"
    assert "t1" not in repr(tokens)
    assert "r1" not in repr(tokens)
