"""Fingerprints of streams: equal only for streams that send the same requests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
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
from asyncstreams.parents.fingerprint import fingerprint, process_fingerprint


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


PROGRAM = """
import sys
from asyncstreams import HttpStream, TokenAuthenticator, PageNumber
from asyncstreams.parents.fingerprint import fingerprint
class Users(HttpStream):
    url_base, kinds, paginator = 'https://api.test/', {'a', 'b', 'c'}, PageNumber()
    def path(self, context):
        return 'x' if context.next_page_token in {'p', 'q', 'r'} else 'y'
print(fingerprint(Users(authenticator=TokenAuthenticator('t'))))
"""


def test_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    fingerprints = {
        subprocess.run(
            [sys.executable, str(program)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(fingerprints) == 1


CONNECTOR = """
import dataclasses, enum, functools, logging, math, re
from typing import NamedTuple
from asyncstreams import HttpStream, Secret
import {helpers} as helpers
from {helpers} import prefix

logger = logging.getLogger(__name__)
VERSION = 1
UNUSED = 1
ID = re.compile("a+")

def traced(tag):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            return function(*arguments)  # traced
        return wrapper
    return decorate

def first(text):
    return second(text) if text else ""

def second(text):
    return first(text[1:]) + "x"

def unused():
    return 1

@functools.lru_cache
def remembered():
    return "remembered"

class Region(enum.Enum):
    EU = "eu-1"

class Point(NamedTuple):
    x: int = 1

@dataclasses.dataclass
class Options:
    size: int = 10
    tags: list = dataclasses.field(default_factory=list)

    def label(self):
        return f"size {{self.size}}"

class Pager:
    def first(self, context):
        return 1
    def next(self, response, records, token):
        return token + 1 if records else None
    def apply(self, parts, token):
        parts.params["page"] = token

class Mixin:
    def kind(self):
        return "kind"

class Base(Mixin, HttpStream):
    url_base = "https://api.test/"
    def request_params(self, context):
        return {{"region": "eu"}}

class Users(Base):
    paginator = Pager()
    region, options, point = Region.EU, Options(), Point()
    clean = functools.partial(first, "a")
    pick, drop = (lambda text: text + "a"), (lambda text: text + "b")
    max_tries = 3

    class Meta:
        label = "meta"

    @property
    def query(self):
        return "active"

    @staticmethod
    def fixed():
        return "fixed"

    @functools.cached_property
    def cached(self):
        return "cached"

    def path(self, context):
        logger.info("at %s", math.pi)
        return first(f"users{{VERSION}}") + prefix("p") + helpers.suffix("s")

    @traced("tag")
    def request_headers(self, context, size=10):
        return {{"x": str(ID.match(remembered())), "all": [value for value in helpers.VALUES]}}

    def request_params(self, context):
        return super().request_params(context) | {{"query": self.query}}
"""
HELPERS = """
VALUES = ["a"]

def prefix(text):
    return text + "-"

def suffix(text):
    return "-" + text
"""


def fingerprint_of(folder: Path, connector: str = CONNECTOR, helpers: str = HELPERS) -> str:
    """The fingerprint of `Users` in these modules, as a new process would find it."""
    folder.mkdir(exist_ok=True)
    modules = {"helpers_under_test": helpers, "connector_under_test": connector.format(helpers="helpers_under_test")}
    try:
        for name, text in modules.items():
            file = folder / f"{name}.py"
            file.write_text(text)
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return fingerprint(sys.modules["connector_under_test"].Users())
    finally:
        for name in modules:
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("users{{VERSION}}", "admins{{VERSION}}", id="line-of-hook"),
        pytest.param('"region": "eu"', '"region": "us"', id="hook-of-base-behind-super"),
        pytest.param('return "kind"', 'return "type"', id="mixin"),
        pytest.param("VERSION = 1", "VERSION = 2", id="constant"),
        pytest.param('"a+"', '"b+"', id="pattern"),
        pytest.param('+ "x"', '+ "y"', id="helper-of-helper"),
        pytest.param('return "remembered"', 'return "forgotten"', id="cached-helper"),
        pytest.param("# traced", "# and more", id="code-of-decorator"),
        pytest.param('@traced("tag")', '@traced("other")', id="argument-of-decorator"),
        pytest.param("size=10", "size=20", id="default"),
        pytest.param('partial(first, "a")', 'partial(first, "b")', id="partial"),
        pytest.param('text + "a"', 'text + "c"', id="first-lambda-of-line"),
        pytest.param('text + "b"', 'text + "c"', id="second-lambda-of-line"),
        pytest.param("token + 1", "token + 2", id="code-of-paginator"),
        pytest.param('"eu-1"', '"eu-2"', id="value-of-enum"),
        pytest.param("x: int = 1", "x: int = 2", id="named-tuple"),
        pytest.param("size: int = 10", "size: int = 20", id="dataclass-default"),
        pytest.param("default_factory=list", "default_factory=set", id="dataclass-factory"),
        pytest.param('f"size ', 'f"length ', id="dataclass-method"),
        pytest.param('label = "meta"', 'label = "other"', id="nested-class"),
        pytest.param('return "active"', 'return "all"', id="property"),
        pytest.param('return "fixed"', 'return "free"', id="static-method"),
        pytest.param('return "cached"', 'return "fresh"', id="cached-property"),
        pytest.param("class Users(Base):", "class Users(Base):\n    cache_version = 2", id="cache-version"),
    ],
)
def test_change_of_the_authors_code_changes_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in CONNECTOR

    before = fingerprint_of(tmp_path / "before")

    assert before == fingerprint_of(tmp_path / "same")
    assert before != fingerprint_of(tmp_path / "after", CONNECTOR.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('text + "-"', 'text + "_"', id="imported-function"),
        pytest.param('"-" + text', '"_" + text', id="function-of-imported-module"),
        pytest.param('VALUES = ["a"]', 'VALUES = ["b"]', id="constant-of-imported-module"),
    ],
)
def test_change_of_an_imported_helper_changes_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert fingerprint_of(tmp_path / "1") != fingerprint_of(tmp_path / "2", helpers=HELPERS.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("UNUSED = 1", "UNUSED = 2", id="unused-constant"),
        pytest.param("def unused():\n    return 1", "# removed", id="unused-function"),
        pytest.param("max_tries = 3", "max_tries = 5", id="read-option"),
        pytest.param("def traced", "\n\n\ndef traced", id="moved-lines"),
    ],
)
def test_change_elsewhere_keeps_the_fingerprint(tmp_path: Path, old: str, new: str) -> None:
    assert old in CONNECTOR

    assert fingerprint_of(tmp_path / "before") == fingerprint_of(tmp_path / "after", CONNECTOR.replace(old, new))


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        pytest.param("import os\n        return os.environ['PATH']", "imports os itself", id="import-of-os"),
        pytest.param("return str(environ)", "environ: the environment", id="environment"),
        pytest.param("return str(getenv('A'))", "getenv: the environment", id="getenv"),
        pytest.param("import helpers_under_test\n        return ''", "imports helpers", id="import"),
        pytest.param("return str(vars(helpers))", "helpers_under_test is used as a value", id="module"),
        pytest.param("return str(lock)", "lock", id="lock"),
        pytest.param("return generated()", "source of generated cannot be found", id="exec"),
    ],
)
def test_hook_with_unknown_parts_is_refused(tmp_path: Path, hook: str, message: str) -> None:
    text = CONNECTOR.replace("logger = ", "from os import environ, getenv\nimport threading\nlogger = ")
    text = text.replace("UNUSED = 1", "lock = threading.Lock()\nexec('def generated(): return 1')")
    text = text.replace("    max_tries = 3", f"    def backoff_time(self, response):\n        {hook}")

    with pytest.raises(NotFingerprintable, match=message):
        fingerprint_of(tmp_path, text)


def test_file_that_changed_after_its_import_is_refused(tmp_path: Path) -> None:
    text = f"{CONNECTOR}\nfrom pathlib import Path\nfile = Path(__file__)\n"
    text += "file.write_text(file.read_text().replace('eu', 'us'))"

    with pytest.raises(NotFingerprintable, match="its file may have changed"):
        fingerprint_of(tmp_path, text)


def test_stream_of_exec_is_equal_to_its_like_within_the_process() -> None:
    namespace: dict[str, Any] = {"HttpStream": HttpStream, "__name__": "shell"}
    exec("class Users(HttpStream):\n url_base = 'https://a.test/'\n def path(self, context): return 'u'", namespace)
    users = namespace["Users"]

    assert process_fingerprint(users()) == process_fingerprint(users())
    assert process_fingerprint(users()) != process_fingerprint(users(authenticator=TokenAuthenticator("t")))
    with pytest.raises(NotFingerprintable, match=r"^path: the source of Users\.path cannot be found"):
        fingerprint(users())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param([[1], 2], [[1, 2]], id="nesting"),
        pytest.param(httpx.QueryParams("a=1&a=2"), httpx.QueryParams("a=1&a=3"), id="query"),
        pytest.param(["a"].count, ["b"].count, id="builtin-method"),
    ],
)
def test_values_that_differ_in_detail_have_other_fingerprints(first: Any, second: Any) -> None:
    assert fingerprint(users(setting=first)) == fingerprint(users(setting=first))
    assert fingerprint(users(setting=first)) != fingerprint(users(setting=second))
