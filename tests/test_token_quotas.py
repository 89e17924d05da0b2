"""Quotas of credentials: equal ones share them, and each of several tokens has its own."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import httpx
import pytest
from httpx import Response

from asyncstreams import (
    ApiKeyAuthenticator,
    AuthError,
    BasicHttpAuthenticator,
    HttpStream,
    MultipleTokenAuthenticator,
    Oauth2Authenticator,
    PageNumber,
    RateLimit,
    RateLimitWaitTooLong,
    Secret,
    Source,
    TokenAuthenticator,
)
from asyncstreams.auth.identity import credential_key

URL = "https://api.example.com/v1/users"


class Users(HttpStream):
    url_base = "https://api.example.com/v1/"

    def path(self, context):
        return "users"


class PagedUsers(Users):
    paginator = PageNumber()
    parallel_pages = False


class TokenApi:
    """An API of 12 pages that counts the requests of each token; `left` has their quotas for the hour."""

    def __init__(self, router, clock, left, refused=(), **headers) -> None:
        self.clock, self.left, self.refused, self.headers = clock, left, refused, headers
        self.tokens: list[str] = []
        router.get(URL).mock(side_effect=self.answer)

    async def answer(self, request: httpx.Request) -> Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.tokens.append(token)
        await asyncio.sleep(0.05)
        if token in self.refused:
            return Response(401, json={"message": "Bad credentials"})
        if self.left is None:
            return self.page(request)
        reset = {"X-RateLimit-Limit": "5000", "X-RateLimit-Reset": str(int(self.clock.wall()) + 3000)}
        if self.left[token] <= 0:
            return Response(
                403, headers=reset | {"X-RateLimit-Remaining": "0"}, json={"message": "rate limit exceeded"}
            )
        self.left[token] -= 1
        return self.page(request, reset | {"X-RateLimit-Remaining": str(self.left[token])})

    def page(self, request: httpx.Request, headers=None) -> Response:
        page = int(request.url.params.get("page", "1"))
        return Response(200, json=[{"id": page}] if page <= 12 else [], headers=headers)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: TokenAuthenticator("t0k"), id="token"),
        pytest.param(lambda: TokenAuthenticator(Secret("t0k"), "Token"), id="secret"),
        pytest.param(lambda: MultipleTokenAuthenticator(["a", "b"]), id="multiple"),
        pytest.param(lambda: BasicHttpAuthenticator("ann", "pass"), id="basic"),
        pytest.param(lambda: ApiKeyAuthenticator("Token abc", "Authorization"), id="api-key"),
        pytest.param(lambda: httpx.BasicAuth("ann", "pass"), id="httpx-basic"),
    ],
)
def test_credentials_of_equal_arguments_are_equal(make):
    first, second = make(), make()

    assert credential_key(first) == credential_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TokenAuthenticator("a"), TokenAuthenticator("b")),
        (TokenAuthenticator("a"), TokenAuthenticator("a", "Token")),
        (TokenAuthenticator("a"), TokenAuthenticator("a", auth_header="X-Token")),
        (TokenAuthenticator("a"), MultipleTokenAuthenticator(["a"])),
        (BasicHttpAuthenticator("ann", "a"), BasicHttpAuthenticator("ann", "b")),
        (ApiKeyAuthenticator("a"), ApiKeyAuthenticator("a", into="query")),
        (httpx.DigestAuth("ann", "a"), httpx.DigestAuth("ann", "a")),
    ],
)
def test_other_arguments_or_classes_are_other_credentials(first, second):
    assert credential_key(first) != credential_key(second)


def test_own_subclass_is_equal_to_itself_only():
    class Signed(TokenAuthenticator):
        pass

    first, second = Signed("a"), Signed("a")

    assert credential_key(first) == credential_key(first)
    assert credential_key(first) != credential_key(second)


@pytest.mark.parametrize(
    ("tokens", "most"), [(("t0k", "t0k", "t0k"), 10), (("a", "b", "c"), 30)], ids=["equal", "different"]
)
async def test_streams_with_equal_tokens_share_declared_limit(respx_mock, virtual_clock, tokens, most):
    times = []

    async def answer(request: httpx.Request) -> Response:
        times.append(virtual_clock.monotonic())
        await asyncio.sleep(0.02)
        page = int(request.url.params["page"])
        return Response(200, json=[{"id": page}] if page <= 12 else [])

    respx_mock.get(url__startswith="https://api.example.com/v1/").mock(side_effect=answer)
    kinds = [type(f"Kind{number}", (PagedUsers,), {"rate_limit": RateLimit(10, per=1)}) for number in range(3)]
    streams = [kind(authenticator=TokenAuthenticator(token)) for kind, token in zip(kinds, tokens, strict=True)]

    await Source(streams, clock=virtual_clock).read()

    in_one_second = max(sum(1 for time in times if begun <= time < begun + 1) for begun in times)
    assert most - 8 <= in_one_second <= most


async def test_equal_tokens_share_pause_after_429(respx_mock, virtual_clock):
    paused_at, times = [], []

    async def answer(request: httpx.Request) -> Response:
        await asyncio.sleep(0.01)
        if not paused_at:
            paused_at.append(virtual_clock.monotonic())
            return Response(429, headers={"Retry-After": "5"})
        times.append(virtual_clock.monotonic())
        return Response(200, json=[])

    respx_mock.get(URL).mock(side_effect=answer)
    kinds = [type(f"Kind{number}", (Users,), {}) for number in range(3)]
    source = Source([kind(authenticator=TokenAuthenticator("t0k")) for kind in kinds], clock=virtual_clock)

    await source.read()

    assert [time for time in times if paused_at[0] + 0.02 < time < paused_at[0] + 5] == []


async def test_token_with_most_requests_left_is_used(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, {"a": 2, "b": 5000, "c": 1000})

    records = await PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b", "c"]), clock=virtual_clock).read()

    assert len(records) == 12
    assert api.tokens == ["a", "b", "c", *["b"] * 10]


async def test_tokens_without_reported_quota_take_turns(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, None)

    await PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b", "c"]), clock=virtual_clock).read()

    assert api.tokens == [*"abcabcabcabca"]


async def test_exhausted_tokens_are_paused_while_others_go_on(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, {"a": 0, "b": 0, "c": 0, "d": 50})
    stream = PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b", "c", "d"]), clock=virtual_clock)
    stream.max_server_wait = 60

    records = await stream.read()

    assert (len(records), Counter(api.tokens)) == (12, Counter(a=1, b=1, c=1, d=13))
    assert virtual_clock.monotonic() < 10


async def test_read_ends_when_all_tokens_are_exhausted(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, {"a": 3, "b": 4})
    stream = PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b"]), clock=virtual_clock)

    with pytest.raises(RateLimitWaitTooLong):
        await stream.read()

    assert Counter(api.tokens) == Counter(a=3, b=4)


async def test_429_pauses_its_token_only(respx_mock, virtual_clock):
    sent = []

    async def answer(request: httpx.Request) -> Response:
        sent.append((request.headers["Authorization"][-1], virtual_clock.monotonic() < 30))
        page = int(request.url.params["page"])
        if len(sent) == 2:
            return Response(429, headers={"Retry-After": "30"})
        await asyncio.sleep(1)
        return Response(200, json=[{"id": page}] if page <= 5 else [])

    respx_mock.get(URL).mock(side_effect=answer)

    await PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b"]), clock=virtual_clock).read()

    assert sent == [(token, True) for token in "abaaaaa"]


async def test_token_refused_with_401_is_dropped(respx_mock, virtual_clock, caplog):
    api = TokenApi(respx_mock, virtual_clock, None, refused=("wr0ng-t0ken",))
    tokens = MultipleTokenAuthenticator(["a", "wr0ng-t0ken", "c"])

    with caplog.at_level(logging.WARNING, "asyncstreams"):
        records = await PagedUsers(authenticator=tokens, clock=virtual_clock).read()

    assert (len(records), Counter(api.tokens)) == (12, {"a": 7, "wr0ng-t0ken": 1, "c": 6})
    assert [record.getMessage() for record in caplog.records if "401" in record.getMessage()] == [
        "MultipleTokenAuthenticator: token 2 of 3 was refused with 401 and is not used any more: check that it is valid"
    ]
    assert "wr0ng" not in caplog.text


async def test_auth_error_when_every_token_is_refused(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, None, refused=("a", "b", "c"))

    with pytest.raises(AuthError, match="Bad credentials"):
        await PagedUsers(authenticator=MultipleTokenAuthenticator(["a", "b", "c"]), clock=virtual_clock).read()

    assert api.tokens == ["a", "b", "c"]


async def test_declared_limit_counts_each_token(respx_mock, virtual_clock):
    api = TokenApi(respx_mock, virtual_clock, None)

    class Limited(PagedUsers):
        rate_limit = RateLimit(1, per=60)

    await Limited(authenticator=MultipleTokenAuthenticator(["a", "b"]), clock=virtual_clock).read()

    assert len(api.tokens) == 13
    assert 360 <= virtual_clock.monotonic() < 420


async def test_own_choice_of_a_subclass_is_kept(respx_mock, virtual_clock):
    class Last(MultipleTokenAuthenticator):
        @property
        def token(self):
            return self.authenticators[-1].token

    api = TokenApi(respx_mock, virtual_clock, None)

    await Users(authenticator=Last(["a", "b"]), clock=virtual_clock).read()

    assert api.tokens == ["b"]


def test_equal_token_is_used_once():
    tokens = MultipleTokenAuthenticator(["a", "a", "b"])

    assert repr(tokens) == "MultipleTokenAuthenticator(2 tokens, 'Bearer', 'Authorization')"


def make_client(**options) -> Oauth2Authenticator:
    arguments = {"client_id": "app", "client_secret": "s3cret", "refresh_token": "r0"} | options
    return Oauth2Authenticator("https://auth.example.com/token", **arguments)


class SingleUseEndpoint:
    """A token endpoint that accepts each refresh token once, and an API that accepts the last access token."""

    def __init__(self, router) -> None:
        self.valid, self.reused, self.requests = "r0", 0, 0
        router.post("https://auth.example.com/token").mock(side_effect=self.renew)
        router.get(url__startswith="https://api.example.com/").mock(side_effect=self.answer)

    async def renew(self, request: httpx.Request) -> Response:
        self.requests += 1
        sent = httpx.QueryParams(request.content.decode())["refresh_token"]
        await asyncio.sleep(0.1)
        if sent != self.valid:
            self.reused += 1
            return Response(400, json={"error": "invalid_grant"})
        self.valid = f"r{self.requests}"
        fields = {"access_token": f"t{self.requests}", "refresh_token": self.valid, "expires_in": 3600}
        return Response(200, json=fields)

    def answer(self, request: httpx.Request) -> Response:
        is_valid = request.headers["Authorization"] == f"Bearer t{self.requests}"
        return Response(200, json=[{"id": 1}]) if is_valid else Response(401)


@pytest.mark.parametrize("in_source", [True, False], ids=["source", "streams"])
async def test_equal_oauth_clients_share_one_rotation(respx_mock, virtual_clock, in_source):
    endpoint, stored = SingleUseEndpoint(respx_mock), []
    kinds = [type(f"Kind{number}", (Users,), {}) for number in range(4)]

    def client() -> Oauth2Authenticator:
        return make_client(clock=virtual_clock, on_refresh=stored.append)

    streams = [kind(authenticator=client(), clock=virtual_clock) for kind in kinds]

    for _ in range(2):
        if in_source:
            await Source(streams).read()
        else:
            await asyncio.gather(*(stream.read() for stream in streams))
        virtual_clock.advance(3590)

    assert (endpoint.requests, endpoint.reused) == (2, 0)
    assert [tokens.refresh_token for tokens in stored] == [Secret("r1"), Secret("r2")]


async def test_each_callback_of_equal_clients_gets_the_tokens(respx_mock, virtual_clock):
    SingleUseEndpoint(respx_mock)
    first, second = [], []
    one = Users(authenticator=make_client(clock=virtual_clock, on_refresh=first.append), clock=virtual_clock)
    other = Users(authenticator=make_client(clock=virtual_clock, on_refresh=second.append), clock=virtual_clock)

    await asyncio.gather(one.read(), other.read())

    assert len(first) == len(second) == 1


async def test_shared_rotation_stays_shared_later(respx_mock, virtual_clock):
    endpoint = SingleUseEndpoint(respx_mock)
    one, other = (Users(authenticator=make_client(clock=virtual_clock), clock=virtual_clock) for _ in range(2))

    await asyncio.gather(one.read(), other.read())
    virtual_clock.advance(3590)
    await other.read()
    virtual_clock.advance(3590)
    await one.read()

    assert (endpoint.requests, endpoint.reused) == (3, 0)


@pytest.mark.parametrize("other", [{"client_id": "another"}, {"refresh_token": "r9"}, {"scopes": ["all"]}])
def test_other_oauth_arguments_share_nothing(other):
    first, second = make_client(), make_client(**other)

    keys = first.join(), second.join()
    first.leave()
    second.leave()

    assert keys[0] != keys[1]
