"""MockApi, the public class of the mock API: its settings, its start and end, and its counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ...clock import Clock, SystemClock
from ...errors import ConfigError
from ...models import Record
from .counts import Counts
from .faults import Fault
from .index_page import render_curl, render_stream_source
from .mock_auth import Auth
from .mock_settings import MockSettings
from .process import ProcessServer
from .quota import Quota
from .resource import Latency, Resource, check_latency
from .routes import Route, build_routes
from .runners import LoopServer, ThreadServer


class MockApi:
    """An HTTP server on this machine with declared data, paging, authentication, quotas and faults.

    `async with` serves on the running event loop, `with` in a thread. With `process=True`, both serve in a
    separate process, on uvloop with `uvloop=True`; settings then cannot change while it runs. Leaving the
    block aborts the requests in progress. It can be started again, with new counts, quotas and tokens.

    - `resources`: what it serves. The order matters only for parents, which come before their children.
    - `auth`, `quota`: required credentials and rate limit; None (default) means none.
    - `latency`: delay before each response in seconds, or `(low, high)` for a random one (default 0).
    - `faults`: failures to inject; the first one that hits a request applies.
    - `seed`: equal seeds give equal records, latencies and faults (default 0).
    - `gzip`: compress responses for clients that accept it.
    - `host` (default 127.0.0.1) and `port`; `port=0` (default) uses any free port.
    - `cache_bytes`: upper bound for cached pages and responses together, in bytes (default 64 MiB).
    - `clock`: time for quotas, tokens and counts (default: the system clock); not with `process=True`.

    Invalid arguments raise ConfigError, as does a start on an address that cannot be bound.
    """

    def __init__(
        self,
        *resources: Resource,
        auth: Auth | None = None,
        quota: Quota | None = None,
        latency: Latency = 0.0,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        gzip: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        process: bool = False,
        uvloop: bool = False,
        cache_bytes: int = 64 * 2**20,
        clock: Clock | None = None,
    ) -> None:
        check_latency("MockApi", latency)
        if process and clock is not None:
            raise ConfigError("MockApi(process=True, clock=...): processes cannot share a clock")
        if uvloop and not process:
            raise ConfigError("MockApi(uvloop=True): uvloop requires process=True")
        self._settings = MockSettings(list(resources), auth, quota, latency, list(faults), seed, gzip, cache_bytes)
        self._routes = build_routes(resources, seed)
        self._host, self._port = host, port
        self._process, self._uvloop, self._clock = process, uvloop, clock or SystemClock()
        self._server: LoopServer | ThreadServer | ProcessServer | None = None
        self._final_counts = Counts()
        self._bound_port: int | None = None

    async def __aenter__(self) -> Self:
        self._check_not_running()
        if self._process:
            process = ProcessServer(self._settings, self._uvloop)
            self._set_server(process, await process.open_async(self._host, self._port))
        else:
            listener = LoopServer(self._settings, self._clock)
            self._set_server(listener, await listener.open(self._host, self._port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server = self._pop_server()
        if isinstance(server, LoopServer):
            await server.close()
        else:
            await asyncio.to_thread(server.close)

    def __enter__(self) -> Self:
        self._check_not_running()
        server = (
            ProcessServer(self._settings, self._uvloop) if self._process else ThreadServer(self._settings, self._clock)
        )
        self._set_server(server, server.open(self._host, self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server = self._pop_server()
        assert not isinstance(server, LoopServer)
        server.close()

    @property
    def url(self) -> str:
        """The base URL, with a slash at the end. Raises ConfigError unless it runs."""
        if self._bound_port is None:
            raise ConfigError("MockApi: not running", hint="start it with `async with api:` or `with api:`")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._bound_port}/"

    @property
    def counts(self) -> Counts:
        """Counts since the last start; after the end, the final counts."""
        server = self._server
        if isinstance(server, ThreadServer):
            server = server.server
        return self._final_counts if server is None else server.counts()

    @property
    def pid(self) -> int:
        """The id of the separate process. Raises ConfigError unless it runs with `process=True`."""
        if not isinstance(self._server, ProcessServer):
            raise ConfigError("MockApi.pid: no separate process is running", hint="start it with process=True")
        return self._server.pid

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The declared resources, in their order."""
        return tuple(self._settings.resources)

    def add(self, resource: Resource) -> Resource:
        """Add a resource, also while it runs, and return it. Raises ConfigError if it conflicts with the others."""
        self._check_changeable("add(...)")
        self._routes = build_routes([*self._settings.resources, resource], self._settings.seed)
        self._settings.resources.append(resource)
        self._reload_settings()
        return resource

    def ids(self, name: str, *parents: object) -> list[Any]:
        """The ids of a resource in the order of a complete read.

        `parents` are the ids of the parent records, the outermost first; without them, the children of
        all parents are included.
        """
        table = self._route(name).dataset
        return [table.id_of(slot) for slot in self._slots(name, parents)]

    def records(self, name: str, *parents: object) -> Iterator[Record]:
        """The records of a resource, generated one at a time. Order and `parents` are those of `ids`."""
        table = self._route(name).dataset
        return (table.record(slot) for slot in self._slots(name, parents))

    def path(self, name: str) -> str:
        """The path of a resource below `url`, with `{id}` for the id of each parent."""
        return self._route(name).path

    def curl(self, name: str) -> str:
        """A curl command that fetches one page of a resource, with credentials."""
        resource = self._route(name).dataset.resource
        return render_curl(self._route(name).path, self.url, self._effective_auth(resource))

    def stream_source(self, name: str) -> str:
        """Python source that declares a stream class for a resource and creates an instance named after it."""
        resource = self._route(name).dataset.resource
        return render_stream_source(self._route(name).path, resource, self.url, self._effective_auth(resource))

    @property
    def auth(self) -> Auth | None:
        """The required credentials; None: none. It can be set while it runs."""
        return self._settings.auth

    @auth.setter
    def auth(self, auth: Auth | None) -> None:
        self._check_changeable("auth")
        self._settings.auth = auth
        self._reload_settings()

    @property
    def quota(self) -> Quota | None:
        """The rate limit; None: none. It can be set while it runs; a new quota starts with nothing used."""
        return self._settings.quota

    @quota.setter
    def quota(self, quota: Quota | None) -> None:
        self._check_changeable("quota")
        self._settings.quota = quota
        self._reload_settings()

    @property
    def latency(self) -> Latency:
        """The delay before each response in seconds, or `(low, high)`. It can be set while it runs."""
        return self._settings.latency

    @latency.setter
    def latency(self, latency: Latency) -> None:
        check_latency("MockApi", latency)
        self._check_changeable("latency")
        self._settings.latency = latency
        self._reload_settings()

    @property
    def faults(self) -> list[Fault]:
        """The list of faults. It can be changed and replaced while it runs."""
        return self._settings.faults

    @faults.setter
    def faults(self, faults: Sequence[Fault]) -> None:
        self._check_changeable("faults")
        self._settings.faults[:] = faults

    def __repr__(self) -> str:
        address = "not running" if self._bound_port is None else self.url
        return f"<MockApi {address}: {', '.join(self._routes) or 'no resources'}>"

    def _route(self, name: str) -> Route:
        if name not in self._routes:
            raise ConfigError(
                f"MockApi: no resource {name!r}", hint=f"its resources are {', '.join(self._routes) or 'none'}"
            )
        return self._routes[name]

    def _slots(self, name: str, parents: Sequence[object]) -> Iterator[int]:
        route = self._route(name)
        if not parents:
            return route.dataset.all_slots()
        return iter(route.dataset.slots(route.parent_slot([str(parent) for parent in parents])))

    def _effective_auth(self, resource: Resource) -> Auth | None:
        return self._settings.auth if resource.auth == "inherit" else resource.auth

    def _set_server(self, server: LoopServer | ThreadServer | ProcessServer, port: int) -> None:
        self._server, self._bound_port, self._final_counts = server, port, Counts()

    def _pop_server(self) -> LoopServer | ThreadServer | ProcessServer:
        server = self._server
        assert server is not None
        # The process may have been killed.
        with suppress(OSError):
            # The end aborts the requests in progress.
            self._final_counts = replace(self.counts, in_flight=0, open_connections=0)
        self._server = self._bound_port = None
        return server

    def _check_not_running(self) -> None:
        if self._server is not None:
            raise ConfigError("MockApi: already running", hint="create another one, or leave the first block")

    def _check_changeable(self, setting: str) -> None:
        if isinstance(self._server, ProcessServer):
            raise ConfigError(
                f"MockApi.{setting}: settings cannot change while it runs in a separate process",
                hint="change them before the start, or leave out process=True",
            )

    def _reload_settings(self) -> None:
        if isinstance(self._server, ThreadServer):
            self._server.reload_settings()
        elif isinstance(self._server, LoopServer):
            self._server.service.reload_settings()
