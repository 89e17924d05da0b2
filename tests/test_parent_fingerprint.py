"""Fingerprints of streams: equal only for streams that send the same requests."""

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


def users(**attributes: Any) -> HttpStream:
    """Users of the same class name, with other attributes or hooks."""
    return type("Users", (Users,), attributes)()


def with_token(token: str) -> HttpStream:
    return Users(authenticator=TokenAuthenticator(token))


def params_hook(value: Any) -> Callable[..., dict[str, Any]]:
    def request_params(self: Any, context: Any) -> dict[str, Any]:
        return {"kind": value}

    return request_params


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lambda: users(region="eu"), lambda: users(region="us"), id="attribute"),
        pytest.param(lambda: users(url_base="https://a.test/"), lambda: users(url_base="https://b.test/"), id="url"),
        pytest.param(lambda: users(name="a"), lambda: users(name="b"), id="name"),
        pytest.param(lambda: users(paginator=PageNumber()), lambda: users(paginator=Offset()), id="paginator"),
        pytest.param(
            lambda: users(paginator=PageNumber(size=10)), lambda: users(paginator=PageNumber(size=20)), id="page-size"
        ),
        pytest.param(
            lambda: users(path=lambda self, context: "users"),
            lambda: users(path=lambda self, context: "admins"),
            id="hook",
        ),
        pytest.param(
            lambda: users(request_params=params_hook("a")), lambda: users(request_params=params_hook("b")), id="closure"
        ),
        pytest.param(
            lambda: users(path=lambda self, context, at=1: "u"),
            lambda: users(path=lambda self, context, at=2: "u"),
            id="default",
        ),
        pytest.param(lambda: with_token("a"), lambda: with_token("b"), id="token"),
        pytest.param(lambda: with_token("a"), Users, id="no-token"),
        pytest.param(
            lambda: Users(authenticator=BasicHttpAuthenticator("a", "1")),
            lambda: Users(authenticator=BasicHttpAuthenticator("a", "2")),
            id="password",
        ),
        pytest.param(lambda: users(validation="fail"), lambda: users(validation="report"), id="validation"),
        pytest.param(
            lambda: users(transformer=None),
            lambda: users(transformer=TypeTransformer(TransformConfig.DefaultSchemaNormalization)),
            id="transformer",
        ),
        pytest.param(lambda: users(setting={1, 2}), lambda: users(setting={1, 3}), id="set"),
        pytest.param(lambda: users(setting={"a": [1]}), lambda: users(setting={"a": [2]}), id="nested"),
        pytest.param(lambda: users(setting=1), lambda: users(setting="1"), id="type"),
    ],
)
def test_stream_with_other_requests_has_other_fingerprint(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    assert fingerprint(first()) == fingerprint(first())
    assert fingerprint(first()) != fingerprint(second())


@pytest.mark.parametrize(
    "options",
    [{"rate_limit": RateLimit(5)}, {"max_concurrency": 3}, {"adaptive": False}, {"seed": 1}, {"cache_dir": "/x"}],
)
def test_read_options_do_not_change_the_fingerprint(options: dict[str, Any]) -> None:
    assert fingerprint(Users(**options)) == fingerprint(Users())


def test_instance_attribute_changes_the_fingerprint() -> None:
    stream = Users()
    stream.region = "us"

    assert fingerprint(stream) != fingerprint(Users())


async def test_token_renewal_does_not_change_the_fingerprint(respx_mock: MockRouter) -> None:
    respx_mock.post("https://api.test/token").respond(
        json={"access_token": "a", "refresh_token": "rotated", "expires_in": 3600}
    )
    respx_mock.get("https://api.test/users").respond(json=[])
    stream = Users(authenticator=Oauth2Authenticator("https://api.test/token", "id", "secret", "initial"))
    before = fingerprint(stream)

    await stream.read()

    assert respx_mock.calls.call_count == 2
    assert fingerprint(stream) == before


@pytest.mark.parametrize("value", [threading.Lock(), object()], ids=["lock", "object"])
def test_attribute_without_stable_encoding_is_refused(value: Any) -> None:
    with pytest.raises(NotFingerprintable, match=r"^setting: "):
        fingerprint(users(setting=value))


def test_salt_changes_the_fingerprint() -> None:
    assert len({fingerprint(Users(), salt) for salt in (b"", b"a", b"b")}) == 3


def test_fingerprint_is_the_same_in_another_process() -> None:
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
    fingerprints = {
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

    assert len(fingerprints) == 1
