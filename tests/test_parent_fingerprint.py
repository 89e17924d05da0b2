"""Is a log another stream's only where that asks the very same?"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from respx import MockRouter

from asyncstreams import (
    BasicHttpAuthenticator,
    HttpStream,
    Oauth2Authenticator,
    Offset,
    PageNumber,
    RateLimit,
    TokenAuthenticator,
    TransformConfig,
    TypeTransformer,
)
from asyncstreams.auth.identity import NotFingerprintable
from asyncstreams.parents.fingerprint import fingerprint


class Users(HttpStream):
    url_base = "https://api.test/"
    paginator: Any = PageNumber(size=10)
    region = "eu"

    def path(self, context: Any) -> str:
        return "users"

    def request_params(self, context: Any) -> dict[str, Any]:
        return {"region": self.region, "active": True}


def made(**attributes: Any) -> HttpStream:
    """Users of the same class name, with other attributes or hooks."""
    return type("Users", (Users,), attributes)()


def with_token(token: str) -> HttpStream:
    return Users(authenticator=TokenAuthenticator(token))


def asks(value: Any) -> Callable[..., dict[str, Any]]:
    def request_params(self: Any, context: Any) -> dict[str, Any]:
        return {"kind": value}

    return request_params


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda: made(region="eu"), lambda: made(region="us"), id="attribute"),
        pytest.param(lambda: made(url_base="https://a.test/"), lambda: made(url_base="https://b.test/"), id="url"),
        pytest.param(lambda: made(name="a"), lambda: made(name="b"), id="name"),
        pytest.param(lambda: made(paginator=PageNumber()), lambda: made(paginator=Offset()), id="paginator"),
        pytest.param(
            lambda: made(paginator=PageNumber(size=10)), lambda: made(paginator=PageNumber(size=20)), id="page-size"
        ),
        pytest.param(
            lambda: made(path=lambda self, context: "users"),
            lambda: made(path=lambda self, context: "admins"),
            id="hook",
        ),
        pytest.param(
            lambda: made(request_params=asks("a")), lambda: made(request_params=asks("b")), id="value-of-a-closure"
        ),
        pytest.param(
            lambda: made(path=lambda self, context, at=1: "u"),
            lambda: made(path=lambda self, context, at=2: "u"),
            id="default",
        ),
        pytest.param(lambda: with_token("a"), lambda: with_token("b"), id="token"),
        pytest.param(lambda: with_token("a"), Users, id="no-token"),
        pytest.param(
            lambda: Users(authenticator=BasicHttpAuthenticator("a", "1")),
            lambda: Users(authenticator=BasicHttpAuthenticator("a", "2")),
            id="password",
        ),
        pytest.param(lambda: made(validation="fail"), lambda: made(validation="report"), id="validation"),
        pytest.param(
            lambda: made(transformer=None),
            lambda: made(transformer=TypeTransformer(TransformConfig.DefaultSchemaNormalization)),
            id="transformer",
        ),
        pytest.param(lambda: made(mine={1, 2}), lambda: made(mine={1, 3}), id="set"),
        pytest.param(lambda: made(mine={"a": [1]}), lambda: made(mine={"a": [2]}), id="nested"),
        pytest.param(lambda: made(mine=1), lambda: made(mine="1"), id="type"),
    ],
)
def test_what_asks_something_else_has_another_key(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    assert fingerprint(one()) == fingerprint(one())
    assert fingerprint(one()) != fingerprint(other())


@pytest.mark.parametrize(
    "options",
    [{"rate_limit": RateLimit(5)}, {"max_concurrency": 3}, {"adaptive": False}, {"seed": 1}, {"cache_dir": "/x"}],
)
def test_how_it_is_read_is_no_part_of_the_key(options: dict[str, Any]) -> None:
    assert fingerprint(Users(**options)) == fingerprint(Users())


def test_an_attribute_of_the_instance_counts() -> None:
    stream = Users()
    stream.region = "us"

    assert fingerprint(stream) != fingerprint(Users())


async def test_what_an_authenticator_learns_does_not_change_the_key(respx_mock: MockRouter) -> None:
    respx_mock.post("https://api.test/token").respond(
        json={"access_token": "a", "refresh_token": "rotated", "expires_in": 3600}
    )
    respx_mock.get("https://api.test/users").respond(json=[])
    stream = Users(authenticator=Oauth2Authenticator("https://api.test/token", "id", "secret", "given"))
    before = fingerprint(stream)

    await stream.read()

    assert respx_mock.calls.call_count == 2
    assert fingerprint(stream) == before


@pytest.mark.parametrize("thing", [threading.Lock(), object()], ids=["lock", "object"])
def test_what_cannot_be_told_is_told_to_be_so(thing: Any) -> None:
    with pytest.raises(NotFingerprintable, match=r"^mine: "):
        fingerprint(made(mine=thing))


def test_salts_make_keys_of_their_own() -> None:
    assert len({fingerprint(Users(), salt) for salt in (b"", b"a", b"b")}) == 3


def test_the_key_is_the_same_in_another_process() -> None:
    program = (
        "import sys\n"
        "from asyncstreams import HttpStream, TokenAuthenticator, PageNumber\n"
        "from asyncstreams.parents.fingerprint import fingerprint\n"
        "class Users(HttpStream):\n"
        "    url_base, kinds, paginator = 'https://api.test/', {'a', 'b', 'c'}, PageNumber()\n"
        "    def path(self, context):\n"
        "        return 'x' if context.next_page_token in {'p', 'q', 'r'} else 'y'\n"
        "print(fingerprint(Users(authenticator=TokenAuthenticator('t'))))\n"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(keys) == 1
