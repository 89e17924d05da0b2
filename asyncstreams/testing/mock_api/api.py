"""What do users hold: an API to test against, and what it has to tell afterwards."""

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
from .auth import Auth
from .counts import Counts
from .faults import Fault
from .index_page import curl, stream_source
from .mock_settings import Settings
from .process import Process
from .quota import Quota
from .resource import Latency, Resource, check_latency
from .routes import Route, routes
from .runners import Listener, Thread


class MockApi:
    """A real HTTP server on this machine, with data, paging, authentication, quotas and faults as declared.

    `async with` serves it on the running loop, `with` in a thread; with `process=True` both serve it
    in a process of its own, on uvloop where `uvloop=True`, and then settings cannot be changed while
    it runs. The same `seed` gives the same records, latencies and faults. Leaving breaks off what is
    under way; each start begins with new counts. `cache_bytes` bounds what encoded pages
    and remembered answers hold together. `gzip` compresses for clients that accept it. `clock` is the
    time of quotas and tokens.
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
            raise ConfigError("MockApi(process=True, clock=...): a clock cannot be shared between processes")
        if uvloop and not process:
            raise ConfigError("MockApi(uvloop=True): a loop of its own needs process=True")
        self._settings = Settings(list(resources), auth, quota, latency, list(faults), seed, gzip, cache_bytes)
        self._routes = routes(resources, seed)
        self._host, self._port = host, port
        self._process, self._uvloop, self._clock = process, uvloop, clock or SystemClock()
        self._running: Listener | Thread | Process | None = None
        self._last = Counts()
        self._bound: int | None = None

    async def __aenter__(self) -> Self:
        self._check_idle()
        if self._process:
            process = Process(self._settings, self._uvloop)
            self._began(process, await process.open_beside(self._host, self._port))
        else:
            listener = Listener(self._settings, self._clock)
            self._began(listener, await listener.open(self._host, self._port))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._ended()
        if isinstance(running, Listener):
            await running.close()
        else:
            await asyncio.to_thread(running.close)

    def __enter__(self) -> Self:
        self._check_idle()
        running = Process(self._settings, self._uvloop) if self._process else Thread(self._settings, self._clock)
        self._began(running, running.open(self._host, self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._ended()
        assert not isinstance(running, Listener)
        running.close()

    @property
    def url(self) -> str:
        """Where it is, with the slash at the end. Raises ConfigError before it is started."""
        if self._bound is None:
            raise ConfigError("MockApi: it is not running", hint="`async with api:` or `with api:` starts it")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._bound}/"

    @property
    def counts(self) -> Counts:
        """What it has served since it was started; after its end, what it served in all."""
        running = self._running
        if isinstance(running, Thread):
            running = running.listener
        return self._last if running is None else running.counts()

    @property
    def pid(self) -> int:
        """The process of its own, as long as it runs. Raises ConfigError where it has none."""
        if not isinstance(self._running, Process):
            raise ConfigError("MockApi.pid: it runs in no process of its own", hint="process=True gives it one")
        return self._running.pid

    @property
    def resources(self) -> tuple[Resource, ...]:
        return tuple(self._settings.resources)

    def add(self, resource: Resource) -> Resource:
        """One more resource, also while it runs. Raises ConfigError where it does not fit the others."""
        self._check_changeable("add(...)")
        self._routes = routes([*self._settings.resources, resource], self._settings.seed)
        self._settings.resources.append(resource)
        self._changed()
        return resource

    def ids(self, name: str, *parents: object) -> list[Any]:
        """The ids that a complete read gives, in its order; of one parent's children, by the parents' ids."""
        table = self._route(name).table
        return [table.id_of(slot) for slot in self._slots(name, parents)]

    def records(self, name: str, *parents: object) -> Iterator[Record]:
        """The records themselves, made one by one."""
        table = self._route(name).table
        return (table.record(slot) for slot in self._slots(name, parents))

    def path(self, name: str) -> str:
        """Where a resource lies, from `url` on, with {id} for the ids of parents."""
        return self._route(name).path

    def curl(self, name: str) -> str:
        """A command line that fetches a page of it, or first a token."""
        resource = self._route(name).table.resource
        return curl(self._route(name).path, self.url, self._auth_of(resource))

    def stream_source(self, name: str) -> str:
        """Python that declares a stream for it, and makes one by the resource's name."""
        resource = self._route(name).table.resource
        return stream_source(self._route(name).path, resource, self.url, self._auth_of(resource))

    @property
    def auth(self) -> Auth | None:
        return self._settings.auth

    @auth.setter
    def auth(self, auth: Auth | None) -> None:
        self._check_changeable("auth")
        self._settings.auth = auth
        self._changed()

    @property
    def quota(self) -> Quota | None:
        return self._settings.quota

    @quota.setter
    def quota(self, quota: Quota | None) -> None:
        self._check_changeable("quota")
        self._settings.quota = quota
        self._changed()

    @property
    def latency(self) -> Latency:
        return self._settings.latency

    @latency.setter
    def latency(self, latency: Latency) -> None:
        check_latency("MockApi", latency)
        self._check_changeable("latency")
        self._settings.latency = latency
        self._changed()

    @property
    def faults(self) -> list[Fault]:
        """A list that may be changed while it runs."""
        return self._settings.faults

    @faults.setter
    def faults(self, faults: Sequence[Fault]) -> None:
        self._check_changeable("faults")
        self._settings.faults[:] = faults

    def __repr__(self) -> str:
        where = "not running" if self._bound is None else self.url
        return f"<MockApi {where}: {', '.join(self._routes) or 'no resources'}>"

    def _route(self, name: str) -> Route:
        if name not in self._routes:
            raise ConfigError(f"MockApi: no resource {name!r}; known are {', '.join(self._routes) or 'none'}")
        return self._routes[name]

    def _slots(self, name: str, parents: Sequence[object]) -> Iterator[int]:
        route = self._route(name)
        if not parents:
            return route.table.all_slots()
        return iter(route.table.slots(route.parent_slot([str(told) for told in parents])))

    def _auth_of(self, resource: Resource) -> Auth | None:
        return self._settings.auth if resource.auth == "inherit" else resource.auth

    def _began(self, running: Listener | Thread | Process, port: int) -> None:
        self._running, self._bound, self._last = running, port, Counts()

    def _ended(self) -> Listener | Thread | Process:
        running = self._running
        assert running is not None
        # Somebody may have killed its process.
        with suppress(OSError):
            # What is broken off by the end is not under way any more.
            self._last = replace(self.counts, in_flight=0, open_connections=0)
        self._running = self._bound = None
        return running

    def _check_idle(self) -> None:
        if self._running is not None:
            raise ConfigError("MockApi: it is running already", hint="make another one, or leave the first block")

    def _check_changeable(self, what: str) -> None:
        if isinstance(self._running, Process):
            raise ConfigError(f"MockApi.{what}: its process has settings of its own while it runs")

    def _changed(self) -> None:
        if isinstance(self._running, Thread):
            self._running.changed()
        elif isinstance(self._running, Listener):
            self._running.service.changed()
