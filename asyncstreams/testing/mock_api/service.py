"""What is answered to a request, and when?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...clock import Clock
from . import paging
from .auth import Auth, OAuth2
from .counts import CountsRecorder, ResourceCounts
from .faults import Fault, FaultCounter, instead, spoiled, without_body
from .index_page import description
from .mock_settings import Settings
from .oauth import Tokens
from .pages import Pages, one
from .quota import Bucket, Quota, Window, quota_lines
from .resource import Latency, Resource
from .routes import Found, Route, find, routes
from .seeding import key, share
from .wire_messages import BadRequest, MockResponse, ReceivedRequest, Step, answer, json_body, read_request

_CONTROL = "_mock/"
_INDEX = "/"
NOWHERE = "unknown"
_REMEMBERED = 4_096
_METHODS = ("GET", "HEAD", "POST")


class Prepared:
    """A request that has been read, and what is known of its answer; `ready` is all of it, where that stays so."""

    __slots__ = ("found", "is_remembered", "keep_alive", "page", "ready", "records", "request", "tally")

    def __init__(self, request: ReceivedRequest) -> None:
        self.request = request
        self.keep_alive = request.keep_alive
        self.is_remembered = False
        self.found: Found | None = None
        self.page: MockResponse | None = None
        self.ready: bytes | None = None
        self.tally: ResourceCounts | None = None
        self.records = 0


@dataclass(slots=True)
class Reply:
    """What goes out after `delay` seconds; `tally` is where it counts (None: it does not)."""

    steps: Iterator[Step]
    tally: ResourceCounts | None
    records: int = 0
    delay: float = 0.0
    keep_alive: bool = True


class Service:
    """The API without its sockets. All of it happens on one event loop."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings, self._clock = settings, clock
        self.ledger = CountsRecorder()
        # Half of the room for pages, half for requests and their answers.
        self._pages = Pages(settings.cache_bytes // 2)
        self._remembered: dict[bytes, Prepared] = {}
        self._held = 0
        self._begun = clock.monotonic()
        self._number = 0
        self._meters: dict[str, tuple[Quota, Window | Bucket]] = {}
        self._tokens: dict[int, Tokens] = {}
        self._strikes: dict[str, list[FaultCounter]] = {}
        self.changed()

    def changed(self) -> None:
        """Look at the settings again. Counters of what has not changed go on. Raises ConfigError."""
        settings = self.settings
        self._routes = routes(settings.resources, settings.seed)
        auths = [settings.auth, *(resource.auth for resource in settings.resources)]
        self._logins = {auth.path: auth for auth in auths if isinstance(auth, OAuth2)}
        self._pages.clear()
        self._remembered, self._held = {}, 0

    def ready(self, head: bytes) -> Prepared | None:
        """A request that came before with just these bytes, where its answer stays the same."""
        prepared = self._remembered.get(head)
        # Faults may be added to the list without a word.
        return None if prepared is None or prepared.ready is None or self.settings.faults else prepared

    def prepared(self, head: bytes, body: bytes = b"") -> Prepared:
        """Raises ValueError for what is no request."""
        found = None if body else self._remembered.get(head)
        if found is not None:
            return found
        made = Prepared(read_request(head, body))
        alone = "content-length" not in made.request.headers and "transfer-encoding" not in made.request.headers
        if alone and not made.request.path.startswith(_CONTROL):
            if len(self._remembered) >= _REMEMBERED:
                self._remembered, self._held = {}, 0
            self._remembered[head] = made
            made.is_remembered = True
            self._hold(len(head))
        return made

    def reply(self, prepared: Prepared) -> Reply:
        """The answer to a request, which counts as one of its resource from now on."""
        request = prepared.request
        if request.path.startswith(_CONTROL):
            return self._plainly(prepared, self._control(request), None)
        self._number += 1
        try:
            if request.path == "":
                told = description(self._routes.values(), self.settings)
                return self._plainly(prepared, answer(200, json_body(told)), _INDEX)
            if (login := self._logins.get(request.path)) is not None:
                return self._login(prepared, login)
            return self._resource(prepared, self._found(prepared))
        except BadRequest as refused:
            name = prepared.found.route.name if prepared.found else NOWHERE
            return self._plainly(prepared, refused.answer, name)
        # What a user's record= or when= raises is told to the client: the test that waits there shows it.
        except Exception as error:
            failed = BadRequest(500, f"MockApi: {type(error).__name__} in a function of yours: {error}")
            name = prepared.found.route.name if prepared.found else NOWHERE
            return self._plainly(prepared, failed.answer, name)

    def counts(self) -> dict[str, object]:
        return self.ledger.snapshot(self.seconds).as_dict()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock.monotonic() - self._begun

    def _found(self, prepared: Prepared) -> Found:
        if prepared.found is None:
            prepared.found = find(self._routes.values(), prepared.request.segments)
        return prepared.found

    def _resource(self, prepared: Prepared, found: Found) -> Reply:
        resource = found.route.table.resource
        delay = self._latency(self.settings.latency if resource.latency == "inherit" else resource.latency)
        try:
            return self._admitted(prepared, found, delay)
        except BadRequest as refused:
            return self._plainly(prepared, refused.answer, resource.name, b"", delay)

    def _admitted(self, prepared: Prepared, found: Found, delay: float) -> Reply:
        """Authentication, then the quota, then faults, then the page. Raises Refused."""
        resource, request, now = found.route.table.resource, prepared.request, self._clock.monotonic()
        if request.method not in _METHODS:
            raise BadRequest(405, f"{request.method} is not for this", {"Allow": ", ".join(_METHODS)})
        self._admit(self.settings.auth if resource.auth == "inherit" else resource.auth, request, now)
        if resource.forbidden:
            raise BadRequest(403, f"these credentials may not read {resource.name}")
        quota = self.settings.quota if resource.quota == "inherit" else resource.quota
        lines = b""
        if quota is not None:
            verdict = self._meter("" if resource.quota == "inherit" else resource.name, quota).take(now)
            lines = quota_lines(quota, verdict, self._clock.wall())
            if not verdict.allowed:
                self.ledger.refused_by_quota += 1
                told = BadRequest(quota.status, f"more than {quota.limit} requests in {quota.per:g} seconds")
                return self._plainly(prepared, told.answer, resource.name, lines, delay)
            self.ledger.queued_by_quota += verdict.wait > 0
            delay += verdict.wait
        fault = self._fault(found.route, request)
        if fault is not None:
            return self._spoilt(prepared, found, fault, lines, delay)
        page = prepared.page
        if page is None:
            page = self._page(prepared, found)
        reply = self._plainly(prepared, page, resource.name, lines, delay)
        if prepared.is_remembered and prepared.page is None:
            prepared.page = page
            self._hold(len(page.body))
            if page.pieces is None and quota is None and self._stays(resource):
                self._keep(prepared, page, reply)
        return reply

    def _keep(self, prepared: Prepared, page: MockResponse, reply: Reply) -> None:
        """Next time the same bytes are answered without any of this."""
        head_only = prepared.request.method == "HEAD"
        prepared.ready = page.whole(keep_alive=prepared.keep_alive, head_only=head_only)
        prepared.tally, prepared.records = reply.tally, reply.records
        self._hold(len(prepared.ready))

    def _hold(self, size: int) -> None:
        """So many bytes more are held by the remembered requests, which are forgotten when they become too many."""
        self._held += size
        if self._held > self.settings.cache_bytes // 2:
            self._remembered, self._held = {}, 0

    def _stays(self, resource: Resource) -> bool:
        """Whether nothing but the request's own bytes decides on the answer; the quota has been looked at."""
        auth = self.settings.auth if resource.auth == "inherit" else resource.auth
        latency = self.settings.latency if resource.latency == "inherit" else resource.latency
        return not isinstance(auth, OAuth2) and not latency and not resource.faults

    def _page(self, prepared: Prepared, found: Found, fault: Fault | None = None) -> MockResponse:
        table, request = found.route.table, prepared.request
        if found.slot is not None:
            return one(table, found.slot)
        resource = table.resource
        names = resource.since_param, resource.until_param
        since, until = (request.params.get(name) for name in names)
        try:
            slots = table.between(table.slots(found.parent_slot), since, until)
        except ValueError as error:
            raise BadRequest(400, f"{' or '.join(names)}: {error}") from error
        place = paging.window(resource, slots, request.params)
        if fault is not None and fault.kind == "duplicate_page":
            place = replace(place, offset=max(0, place.offset - place.size))
        elif fault is not None and fault.kind == "cycle":
            numbered = resource.style in ("page", "offset")
            place = replace(place, offset=0) if numbered else replace(place, following=0)
        gzip = self.settings.gzip and request.accepts_gzip and fault is None
        return self._pages.page(table, place, request.url, gzip=gzip)

    def _spoilt(self, prepared: Prepared, found: Found, fault: Fault, lines: bytes, delay: float) -> Reply:
        self.ledger.faults[fault.kind] += 1
        name = found.route.name
        if (other := instead(fault)) is not None:
            return self._plainly(prepared, other, name, lines, delay)
        page = self._page(prepared, found, fault)
        if fault.is_of_paging:
            return self._plainly(prepared, page, name, lines, delay)
        silent = fault.kind == "hang" or (fault.kind == "reset" and not fault.mid_body)
        tally = self.ledger.tally(name, 0 if silent else page.status)
        steps = spoiled(fault, page, lines)
        if prepared.request.method == "HEAD":
            return Reply(without_body(steps), tally, 0, delay, prepared.keep_alive)
        return Reply(steps, tally, page.records if fault.kind == "drip" else 0, delay, prepared.keep_alive)

    def _plainly(
        self, prepared: Prepared, told: MockResponse, name: str | None, lines: bytes = b"", delay: float = 0.0
    ) -> Reply:
        request = prepared.request
        tally = None if name is None else self.ledger.tally(name, told.status)
        head_only, keep_alive = request.method == "HEAD", prepared.keep_alive
        records = 0 if head_only else told.records
        if told.pieces is not None and not head_only:
            chunked = request.version == "HTTP/1.1"
            steps = told.streamed(lines, keep_alive=keep_alive, chunked=chunked)
            return Reply(steps, tally, records, delay, keep_alive and chunked)
        if told.pieces is not None:
            whole = told.head(None, lines, keep_alive)
        else:
            whole = told.whole(lines, keep_alive=keep_alive, head_only=head_only)
        return Reply(iter((whole,)), tally, records, delay, keep_alive)

    def _login(self, prepared: Prepared, login: OAuth2) -> Reply:
        request = prepared.request
        if request.method != "POST":
            told = BadRequest(405, "tokens are asked for by POST", {"Allow": "POST"}).answer
            return self._plainly(prepared, told, login.path)
        delay = self._latency(self.settings.latency)
        fault = self._strike("", self.settings.faults, login.path, request, named=True)
        if fault is not None:
            self.ledger.faults[fault.kind] += 1
            if (other := instead(fault)) is not None:
                return self._plainly(prepared, other, login.path, b"", delay)
        told = self._tokens_of(login).issue(request, self._clock.monotonic())
        if fault is None or fault.is_of_paging:
            return self._plainly(prepared, told, login.path, b"", delay)
        tally = self.ledger.tally(login.path, told.status)
        return Reply(spoiled(fault, told, b""), tally, 0, delay, prepared.keep_alive)

    def _control(self, request: ReceivedRequest) -> MockResponse:
        if request.path == f"{_CONTROL}counts":
            return answer(200, json_body(self.counts()))
        return BadRequest(404, "the control endpoint is /_mock/counts").answer

    def _admit(self, auth: Auth | None, request: ReceivedRequest, now: float) -> None:
        try:
            if isinstance(auth, OAuth2):
                self._tokens_of(auth).check(request, now)
            elif auth is not None:
                auth.check(request)
        except BadRequest:
            self.ledger.refused_by_auth += 1
            raise

    def _tokens_of(self, login: OAuth2) -> Tokens:
        held = self._tokens.get(id(login))
        if held is None:
            made = Tokens(login, key(self.settings.seed, login.path), self.ledger)
            held = self._tokens[id(login)] = made
        return held

    def _meter(self, name: str, quota: Quota) -> Window | Bucket:
        known, meter = self._meters.get(name, (None, None))
        if meter is None or known is not quota:
            meter = quota.meter()
            self._meters[name] = quota, meter
        return meter

    def _fault(self, route: Route, request: ReceivedRequest) -> Fault | None:
        own = route.table.resource.faults
        first = self._strike("", self.settings.faults, route.name, request)
        return self._strike(route.name, own, route.name, request) if first is None and own else first

    def _strike(
        self, owner: str, faults: Sequence[Fault], place: str, request: ReceivedRequest, *, named: bool = False
    ) -> Fault | None:
        if not faults:
            return None
        known, at_work = self._strikes.setdefault(owner, []), list[FaultCounter]()
        for fault in faults:
            # Wherever it stands now; one that stands there twice is two.
            found = next((one for one in known if one.fault is fault and one not in at_work), None)
            if found is None:
                found = FaultCounter(fault, key(self.settings.seed, "fault", owner, len(known)))
                known.append(found)
            at_work.append(found)
        # Each counts its requests, also behind one that hits.
        hit = [strikes.fault for strikes in at_work if strikes.hits(place, request, named=named)]
        return hit[0] if hit else None

    def _latency(self, latency: Latency | str | None) -> float:
        if isinstance(latency, tuple):
            low, high = latency
            return low + (high - low) * share(key(self.settings.seed, "latency"), self._number)
        return latency if isinstance(latency, int | float) else 0.0
