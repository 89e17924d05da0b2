"""Options of single requests: what `request_kwargs` returns, checked so that each option is used or refused."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, cast

import httpx

from ..declaration.stream import Stream
from ..errors import ConfigError
from ..models import Timeouts
from ..protocols import MockRouter
from ..redaction import replace_secrets

_ALIASES = {"allow_redirects": "follow_redirects", "proxies": "proxy"}
_PER_REQUEST = ("timeout", "follow_redirects", "extensions")
_PER_CLIENT = ("verify", "cert", "proxy", "http2")
_PROXY_SCHEMES = ("http://", "https://", "socks5://", "socks5h://")
_HTTPX_EXTENSIONS = ("trace", "target")  # of httpcore, below httpx's transports
_OWN_EXTENSIONS = ("timeout", "connected")


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Options of a connection; requests with equal options share connections."""

    verify: bool | str | ssl.SSLContext = True
    cert: str | tuple[str, ...] | None = field(default=None, repr=False)
    proxy: str | None = field(default=None, repr=False)
    http2: bool = False
    reuse: bool = True
    trust_env: bool = True


@dataclass(frozen=True, slots=True)
class SendOptions:
    """How one request is sent, according to its stream and `request_kwargs`."""

    timeouts: Timeouts
    follow_redirects: bool = False
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    client: ClientOptions = ClientOptions()


def parse_request_kwargs(stream: Stream, kwargs: Mapping[str, Any], default: SendOptions, url: str) -> SendOptions:
    """The options of one request to `url`. Raises ConfigError for an option that is unknown or could not be used."""
    hook = f"{type(stream).__name__}.request_kwargs"
    known = _canonical_names(hook, kwargs)
    _check_stream(hook, known.pop("stream", None), streams_body=stream.streams_body)
    for name in known:
        if name not in _PER_REQUEST + _PER_CLIENT:
            raise ConfigError(
                f"{hook}: unknown key {name!r}",
                hint=f"known keys are {', '.join(_PER_REQUEST + _PER_CLIENT)}, and the aliases "
                "allow_redirects, proxies and stream",
            )
    _check_transport(hook, known, stream.resolved.transport)
    client = {name: known[name] for name in _PER_CLIENT if name in known}
    client = replace_secrets(client, lambda secret: secret.reveal())
    if "verify" in client:
        client["verify"] = _parse_verify(hook, client["verify"])
    if client.get("cert") is not None:
        client["cert"] = _parse_cert(hook, client["cert"])
    if "proxy" in client:
        client["proxy"] = _parse_proxy(hook, client["proxy"], url)
    if "http2" in client:
        client["http2"] = _parse_flag(hook, "http2", client["http2"])
    options = replace(
        default,
        timeouts=_parse_timeouts(hook, known["timeout"], default.timeouts) if "timeout" in known else default.timeouts,
        follow_redirects=_parse_flag(hook, "follow_redirects", known.get("follow_redirects", default.follow_redirects)),
        client=replace(default.client, **client) if client else default.client,
    )
    if not known.get("extensions"):
        return options
    return replace(options, extensions=_parse_extensions(hook, known["extensions"], stream, options.client))


def check_transport_options(class_name: str, options: Mapping[str, Any], transport: object) -> None:
    """Raise ConfigError for an argument that a transport of the user would ignore; a mock opens no connection."""
    if "trust_env" in options and transport is not None and not is_mock(transport):
        raise ConfigError(
            f"{class_name}(trust_env=...) cannot be used with a transport of your own",
            hint="configure it there, for example transport=httpx.AsyncHTTPTransport(trust_env=False)",
        )


def is_mock(transport: object) -> bool:
    """Whether a transport opens no connection, so that options of connections cannot matter."""
    return isinstance(transport, httpx.MockTransport) or (
        isinstance(transport, MockRouter) and not isinstance(transport, httpx.AsyncBaseTransport)
    )


def _canonical_names(hook: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options under their own names instead of their aliases."""
    known: dict[str, Any] = {}
    for name, value in kwargs.items():
        own_name = _ALIASES.get(name, name)
        if own_name in known:
            alias = next(alias for alias, aliased in _ALIASES.items() if aliased == own_name)
            raise ConfigError(f"{hook}: {own_name} and {alias} are the same option: return one of them")
        known[own_name] = value
    return known


def _check_stream(hook: str, value: Any, *, streams_body: bool) -> None:
    """Raise ConfigError for `stream` if the body is read otherwise."""
    if value is None or bool(value) is streams_body:
        return
    hint = "remove stream: an async generator always reads the body while it arrives"
    if value:
        hint = "make parse_response an async generator, which reads the body while it arrives, or remove stream"
    raise ConfigError(f"{hook}: stream = {value!r} does not agree with parse_response, which decides it", hint=hint)


def _check_transport(hook: str, known: Mapping[str, Any], transport: object) -> None:
    """Raise ConfigError for options of the built-in transport beside one of the user's."""
    if transport is None or is_mock(transport):
        return
    for name in _PER_CLIENT:
        if known.get(name) is not None:
            raise ConfigError(
                f"{hook}: {name} cannot be used with a transport of your own",
                hint=f"configure it there, for example transport=httpx.AsyncHTTPTransport({name}=...), "
                "or remove the transport",
            )


def _parse_extensions(hook: str, extensions: Any, stream: Stream, client: ClientOptions) -> Mapping[str, Any]:
    """The extensions, each of which the transport, a middleware or a transport of the user may read."""
    if not isinstance(extensions, Mapping):
        raise ConfigError(f"{hook}: extensions is of type {type(extensions).__name__}: expected a mapping")
    found = dict(cast(Mapping[str, Any], extensions))
    uses_httpx = client.http2 or (client.proxy or "").startswith("socks")
    has_other_readers = stream.resolved.transport is not None or bool(stream.resolved.middleware)
    for name, value in found.items():
        if name in _OWN_EXTENSIONS or name.partition(".")[0] == "asyncstreams":
            hint = "return it as the key timeout of request_kwargs" if name == "timeout" else "choose another name"
            raise ConfigError(f"{hook}: the extension {name!r} is set by asyncstreams", hint=hint)
        if name == "sni_hostname":
            if not isinstance(value, str):
                raise ConfigError(f"{hook}: the extension sni_hostname must be a str")
        elif not has_other_readers and not (name in _HTTPX_EXTENSIONS and uses_httpx):
            raise ConfigError(
                f"{hook}: the extension {name!r} would be ignored",
                hint="the built-in transport uses sni_hostname; trace and target need http2 or a transport of httpx, "
                "and other names a middleware that reads them",
            )
    return found


def _parse_flag(hook: str, name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{hook}: {name} = {value!r}: expected True or False")


def _parse_proxy(hook: str, proxy: Any, url: str) -> str | None:
    """The URL of the proxy for a request to `url`, also from a mapping by scheme; None for that of the environment."""
    if isinstance(proxy, Mapping):
        entries = cast(Mapping[object, Any], proxy)
        by_scheme = {str(name).removesuffix("://"): value for name, value in entries.items()}
        if unknown := sorted(by_scheme.keys() - {"http", "https", "all"}):
            raise ConfigError(
                f"{hook}: proxies has the key {unknown[0]!r}: expected http, https or all",
                hint="for a single host, return a proxy only in requests to it",
            )
        scheme = url.partition(":")[0].lower()
        proxy = by_scheme.get(scheme) or by_scheme.get("all")
    if not proxy:
        return None
    proxy = str(proxy) if isinstance(proxy, httpx.URL) else proxy
    if not isinstance(proxy, str):
        raise ConfigError(
            f"{hook}: proxy is of type {type(proxy).__name__}: expected a URL", hint="write it as http://host:port"
        )
    if not proxy.lower().startswith(_PROXY_SCHEMES):
        raise ConfigError(f"{hook}: the proxy has no scheme", hint="write it as http://host:port")
    return proxy


def _parse_verify(hook: str, verify: Any) -> bool | str | ssl.SSLContext:
    if isinstance(verify, bool | ssl.SSLContext):
        return verify
    if isinstance(verify, str | PathLike):
        return os.fspath(cast(str, verify))
    raise ConfigError(
        f"{hook}: verify = {verify!r}: expected True, False, the path of a file or folder of "
        "certificate authorities, or an ssl.SSLContext"
    )


def _parse_cert(hook: str, cert: Any) -> str | tuple[str, ...]:
    parts: list[Any] = [*cast(Sequence[Any], cert)] if isinstance(cert, tuple | list) else [cert]
    if 1 <= len(parts) <= 3 and all(isinstance(part, str | PathLike) for part in parts):
        return tuple([os.fspath(cast(str, part)) for part in parts])
    raise ConfigError(
        f"{hook}: cert: expected the path of a certificate with its key, (certificate, key), or "
        "(certificate, key, password)"
    )


def _parse_timeouts(hook: str, timeout: Any, default: Timeouts) -> Timeouts:
    """The timeouts of a request; None, also within a pair, leaves those of the stream."""
    if timeout is None or isinstance(timeout, Timeouts):
        return timeout or default
    if isinstance(timeout, httpx.Timeout):
        _check_httpx_timeout(hook, timeout)
        timeout = (timeout.connect, timeout.read)
    if isinstance(timeout, int | float):
        timeout = (timeout, timeout)
    pair: list[Any] = [*cast(Sequence[Any], timeout)] if isinstance(timeout, tuple | list) else []
    is_valid = len(pair) == 2 and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in pair
    )
    if not is_valid:
        raise ConfigError(f"{hook}: timeout must be a number of seconds, (connect, read), or Timeouts(...)")
    connect, read = pair
    if connect is not None:
        default = replace(default, connect=connect)
    return default if read is None else replace(default, first_byte=read, read=read, total=max(default.total, read))


def _check_httpx_timeout(hook: str, timeout: httpx.Timeout) -> None:
    """Raise ConfigError for timeouts of httpx that have no counterpart and are not those for all phases."""
    for name in ("write", "pool"):
        value = getattr(timeout, name)
        if value is not None and value not in (timeout.read, timeout.connect):
            raise ConfigError(
                f"{hook}: timeout: httpx's {name} timeout has no counterpart here",
                hint="use Timeouts(...): total bounds a whole request, and waiting for a connection is not limited",
            )
