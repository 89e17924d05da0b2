"""Request handling of a MockApi: routing, authentication, quota, faults and pages, without sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...clock import Clock
from . import paging
from .counts import CountsRecorder, ResourceCounts
from .faults import Fault, FaultCounter, faulty_steps, replacement_response, without_body
from .index_page import api_description
from .mock_auth import Auth, OAuth2
from .mock_oauth import TokenEndpoint
from .mock_settings import MockSettings
from .pages import PageCache, record_response
from .quota import FixedWindow, Quota, TokenBucket, quota_header_lines
from .resource import Latency, Resource
from .routes import Route, RouteMatch, build_routes, match_path
from .seeding import draw_fraction, seed_key
from .wire_messages import BadRequest, MockResponse, ReceivedRequest, Step, json_body, make_response, read_request

_CONTROL_PREFIX = "_mock/"
_INDEX_NAME = "/"
UNKNOWN_RESOURCE = "unknown"
_MAX_CACHED_REQUESTS = 4_096
_METHODS = ("GET", "HEAD", "POST")


class PreparedReply:
    """A parsed request, with the parts of its reply that do not change.

    `page` is the built page. `payload` is the complete encoded response, set only when nothing but the
    request's bytes decides the response.
    """

    __slots__ = ("counts", "is_cached", "keep_alive", "match", "page", "payload", "records", "request")

    def __init__(self, request: ReceivedRequest) -> None:
        self.request = request
        self.keep_alive = request.keep_alive
        self.is_cached = False
        self.match: RouteMatch | None = None
        self.page: MockResponse | None = None
        self.payload: bytes | None = None
        self.counts: ResourceCounts | None = None
        self.records = 0


class ReplyCache:
    """Prepared replies by the bytes of their requests. It is cleared when it holds too many or too large ones."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.clear()

    def clear(self) -> None:
        self._by_head: dict[bytes, PreparedReply] = {}
        self._bytes = 0

    def get(self, head: bytes) -> PreparedReply | None:
        return self._by_head.get(head)

    def add(self, head: bytes, prepared: PreparedReply) -> None:
        if len(self._by_head) >= _MAX_CACHED_REQUESTS:
            self.clear()
        self._by_head[head] = prepared
        prepared.is_cached = True
        self.add_bytes(len(head))

    def add_bytes(self, size: int) -> None:
        """Add the size of a page or payload that a cached reply holds."""
        self._bytes += size
        if self._bytes > self._max_bytes:
            self.clear()


@dataclass(slots=True)
class Reply:
    """The steps to send after `delay` seconds. `counts` is None for a reply that is not counted."""

    steps: Iterator[Step]
    counts: ResourceCounts | None
    records: int = 0
    delay: float = 0.0
    keep_alive: bool = True


class MockService:
    """The API without its sockets. It is used from one event loop only."""

    def __init__(self, settings: MockSettings, clock: Clock) -> None:
        self.settings, self._clock = settings, clock
        self.recorder = CountsRecorder()
        # Half of the budget is for pages, half for requests and their responses.
        self._page_cache = PageCache(settings.cache_bytes // 2)
        self._reply_cache = ReplyCache(settings.cache_bytes // 2)
        self._started_at = clock.monotonic()
        self._request_number = 0
        self._meters: dict[str, tuple[Quota, FixedWindow | TokenBucket]] = {}
        self._token_endpoints: dict[OAuth2, TokenEndpoint] = {}
        self._fault_counters: dict[str, list[FaultCounter]] = {}
        self.reload_settings()

    def reload_settings(self) -> None:
        """Apply changed settings and clear the caches. Raises ConfigError.

        Quotas, token endpoints and faults that have not changed keep their counters.
        """
        settings = self.settings
        self._routes = build_routes(settings.resources, settings.seed)
        auths = [settings.auth, *(resource.auth for resource in settings.resources)]
        self._oauth_by_path = {auth.path: auth for auth in auths if isinstance(auth, OAuth2)}
        self._page_cache.clear()
        self._reply_cache.clear()

    def find_ready(self, head: bytes) -> PreparedReply | None:
        """The cached reply to exactly these bytes, if it has a constant payload; otherwise None."""
        prepared = self._reply_cache.get(head)
        # The list of faults can change without a call of reload_settings.
        return None if prepared is None or prepared.payload is None or self.settings.faults else prepared

    def prepare(self, head: bytes, body: bytes = b"") -> PreparedReply:
        """Parse a request, or return the cached one. Raises ValueError if it is not an HTTP request."""
        found = None if body else self._reply_cache.get(head)
        if found is not None:
            return found
        prepared = PreparedReply(read_request(head, body))
        headers = prepared.request.headers
        has_body = "content-length" in headers or "transfer-encoding" in headers
        if not has_body and not prepared.request.path.startswith(_CONTROL_PREFIX):
            self._reply_cache.add(head, prepared)
        return prepared

    def reply(self, prepared: PreparedReply) -> Reply:
        """Build the reply to a request and count the request."""
        request = prepared.request
        if request.path.startswith(_CONTROL_PREFIX):
            return self._reply_with(prepared, self._control_response(request), None)
        self._request_number += 1
        try:
            if request.path == "":
                index = api_description(self._routes.values(), self.settings)
                return self._reply_with(prepared, make_response(200, json_body(index)), _INDEX_NAME)
            if (auth := self._oauth_by_path.get(request.path)) is not None:
                return self._reply_with_token(prepared, auth)
            return self._reply_from_resource(prepared, self._match_route(prepared))
        except BadRequest as refused:
            name = prepared.match.route.name if prepared.match else UNKNOWN_RESOURCE
            return self._reply_with(prepared, refused.response, name)
        # The response carries an exception of the user's record= or when=, so that the client's test shows it.
        except Exception as error:
            failed = BadRequest(500, f"MockApi: record= or when= raised {type(error).__name__}: {error}")
            name = prepared.match.route.name if prepared.match else UNKNOWN_RESOURCE
            return self._reply_with(prepared, failed.response, name)

    def counts(self) -> dict[str, object]:
        return self.recorder.snapshot(self.uptime).as_dict()

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._started_at

    def _match_route(self, prepared: PreparedReply) -> RouteMatch:
        if prepared.match is None:
            prepared.match = match_path(self._routes.values(), prepared.request.segments)
        return prepared.match

    def _reply_from_resource(self, prepared: PreparedReply, match: RouteMatch) -> Reply:
        resource = match.route.dataset.resource
        delay = self._draw_latency(self.settings.latency if resource.latency == "inherit" else resource.latency)
        try:
            return self._reply_if_admitted(prepared, match, delay)
        except BadRequest as refused:
            return self._reply_with(prepared, refused.response, resource.name, b"", delay)

    def _reply_if_admitted(self, prepared: PreparedReply, match: RouteMatch, delay: float) -> Reply:
        """Check authentication, quota and faults, in this order, then send the page. Raises BadRequest."""
        resource, request, now = match.route.dataset.resource, prepared.request, self._clock.monotonic()
        if request.method not in _METHODS:
            raise BadRequest(405, f"method {request.method} is not allowed here", {"Allow": ", ".join(_METHODS)})
        self._authenticate(self.settings.auth if resource.auth == "inherit" else resource.auth, request, now)
        if resource.forbidden:
            raise BadRequest(403, f"these credentials may not read {resource.name}")
        quota = self.settings.quota if resource.quota == "inherit" else resource.quota
        quota_headers = b""
        if quota is not None:
            decision = self._meter("" if resource.quota == "inherit" else resource.name, quota).admit(now)
            quota_headers = quota_header_lines(quota, decision, self._clock.wall())
            if not decision.allowed:
                self.recorder.admission.refused_by_quota += 1
                refused = BadRequest(quota.status, f"more than {quota.limit} requests in {quota.per:g} seconds")
                return self._reply_with(prepared, refused.response, resource.name, quota_headers, delay)
            self.recorder.admission.queued_by_quota += decision.wait > 0
            delay += decision.wait
        fault = self._pick_fault(match.route, request)
        if fault is not None:
            return self._reply_with_fault(prepared, match, fault, quota_headers, delay)
        page = prepared.page
        if page is None:
            page = self._build_page(prepared, match)
        reply = self._reply_with(prepared, page, resource.name, quota_headers, delay)
        if prepared.is_cached and prepared.page is None:
            prepared.page = page
            self._reply_cache.add_bytes(len(page.body))
            if page.iter_pieces is None and quota is None and self._is_constant(resource):
                self._cache_payload(prepared, page, reply)
        return reply

    def _cache_payload(self, prepared: PreparedReply, page: MockResponse, reply: Reply) -> None:
        """Store the complete payload, which `find_ready` returns for the same request bytes."""
        head_only = prepared.request.method == "HEAD"
        prepared.payload = page.encode(keep_alive=prepared.keep_alive, head_only=head_only)
        prepared.counts, prepared.records = reply.counts, reply.records
        self._reply_cache.add_bytes(len(prepared.payload))

    def _is_constant(self, resource: Resource) -> bool:
        """Whether only the request's bytes decide the response. The caller checks the quota."""
        auth = self.settings.auth if resource.auth == "inherit" else resource.auth
        latency = self.settings.latency if resource.latency == "inherit" else resource.latency
        return not isinstance(auth, OAuth2) and not latency and not resource.faults

    def _build_page(self, prepared: PreparedReply, match: RouteMatch, fault: Fault | None = None) -> MockResponse:
        dataset, request = match.route.dataset, prepared.request
        if match.slot is not None:
            return record_response(dataset, match.slot)
        resource = dataset.resource
        names = resource.data.since_param, resource.data.until_param
        since, until = (request.params.get(name) for name in names)
        try:
            slots = dataset.slots_between(dataset.slots(match.parent_slot), since, until)
        except ValueError as error:
            raise BadRequest(400, f"{' or '.join(names)}: {error}") from error
        window = paging.page_window(resource, slots, request.params)
        if fault is not None and fault.kind == "duplicate_page":
            window = replace(window, offset=max(0, window.offset - window.size))
        elif fault is not None and fault.kind == "cycle":
            numbered = resource.layout.effective_paging in ("page", "offset")
            window = replace(window, offset=0) if numbered else replace(window, next_offset=0)
        gzip = self.settings.gzip and request.accepts_gzip and fault is None
        return self._page_cache.get_page(dataset, window, request.url, gzip=gzip)

    def _reply_with_fault(
        self, prepared: PreparedReply, match: RouteMatch, fault: Fault, extra_headers: bytes, delay: float
    ) -> Reply:
        self.recorder.faults[fault.kind] += 1
        name = match.route.name
        if (replacement := replacement_response(fault)) is not None:
            return self._reply_with(prepared, replacement, name, extra_headers, delay)
        page = self._build_page(prepared, match, fault)
        if fault.affects_paging:
            return self._reply_with(prepared, page, name, extra_headers, delay)
        silent = fault.kind == "hang" or (fault.kind == "reset" and not fault.mid_body)
        counts = self.recorder.counts_for(name, 0 if silent else page.status)
        steps = faulty_steps(fault, page, extra_headers)
        if prepared.request.method == "HEAD":
            return Reply(without_body(steps), counts, 0, delay, prepared.keep_alive)
        return Reply(steps, counts, page.records if fault.kind == "drip" else 0, delay, prepared.keep_alive)

    def _reply_with(
        self,
        prepared: PreparedReply,
        response: MockResponse,
        name: str | None,
        extra_headers: bytes = b"",
        delay: float = 0.0,
    ) -> Reply:
        request = prepared.request
        counts = None if name is None else self.recorder.counts_for(name, response.status)
        head_only, keep_alive = request.method == "HEAD", prepared.keep_alive
        records = 0 if head_only else response.records
        if response.iter_pieces is not None and not head_only:
            chunked = request.version == "HTTP/1.1"
            steps = response.stream_steps(extra_headers, keep_alive=keep_alive, chunked=chunked)
            return Reply(steps, counts, records, delay, keep_alive and chunked)
        if response.iter_pieces is not None:
            payload = response.encode_head(None, extra_headers, keep_alive)
        else:
            payload = response.encode(extra_headers, keep_alive=keep_alive, head_only=head_only)
        return Reply(iter((payload,)), counts, records, delay, keep_alive)

    def _reply_with_token(self, prepared: PreparedReply, auth: OAuth2) -> Reply:
        request = prepared.request
        if request.method != "POST":
            refused = BadRequest(405, "the token endpoint accepts POST only", {"Allow": "POST"})
            return self._reply_with(prepared, refused.response, auth.path)
        delay = self._draw_latency(self.settings.latency)
        fault = self._pick_fault_from("", self.settings.faults, auth.path, request, only_named=True)
        if fault is not None:
            self.recorder.faults[fault.kind] += 1
            if (replacement := replacement_response(fault)) is not None:
                return self._reply_with(prepared, replacement, auth.path, b"", delay)
        response = self._token_endpoint(auth).issue(request, self._clock.monotonic())
        if fault is None or fault.affects_paging:
            return self._reply_with(prepared, response, auth.path, b"", delay)
        counts = self.recorder.counts_for(auth.path, response.status)
        return Reply(faulty_steps(fault, response, b""), counts, 0, delay, prepared.keep_alive)

    def _control_response(self, request: ReceivedRequest) -> MockResponse:
        if request.path == f"{_CONTROL_PREFIX}counts":
            return make_response(200, json_body(self.counts()))
        return BadRequest(404, "the only control endpoint is /_mock/counts").response

    def _authenticate(self, auth: Auth | None, request: ReceivedRequest, now: float) -> None:
        try:
            if isinstance(auth, OAuth2):
                self._token_endpoint(auth).check(request, now)
            elif auth is not None:
                auth.check(request)
        except BadRequest:
            self.recorder.admission.refused_by_auth += 1
            raise

    def _token_endpoint(self, auth: OAuth2) -> TokenEndpoint:
        endpoint = self._token_endpoints.get(auth)
        if endpoint is None:
            endpoint = TokenEndpoint(auth, seed_key(self.settings.seed, auth.path), self.recorder.admission)
            self._token_endpoints[auth] = endpoint
        return endpoint

    def _meter(self, name: str, quota: Quota) -> FixedWindow | TokenBucket:
        known, meter = self._meters.get(name, (None, None))
        if meter is None or known is not quota:
            meter = quota.new_meter()
            self._meters[name] = quota, meter
        return meter

    def _pick_fault(self, route: Route, request: ReceivedRequest) -> Fault | None:
        own = route.dataset.resource.faults
        first = self._pick_fault_from("", self.settings.faults, route.name, request)
        return self._pick_fault_from(route.name, own, route.name, request) if first is None and own else first

    def _pick_fault_from(
        self, scope: str, faults: Sequence[Fault], name: str, request: ReceivedRequest, *, only_named: bool = False
    ) -> Fault | None:
        if not faults:
            return None
        known, active = self._fault_counters.setdefault(scope, []), list[FaultCounter]()
        for fault in faults:
            # A fault keeps its counter when it moves in the list; one that is listed twice has two counters.
            counter = next((known_ for known_ in known if known_.fault is fault and known_ not in active), None)
            if counter is None:
                counter = FaultCounter(fault, seed_key(self.settings.seed, "fault", scope, len(known)))
                known.append(counter)
            active.append(counter)
        # Every counter sees the request, also after one that hits.
        hits = [counter.fault for counter in active if counter.count_request(name, request, only_named=only_named)]
        return hits[0] if hits else None

    def _draw_latency(self, latency: Latency | str | None) -> float:
        if isinstance(latency, tuple):
            low, high = latency
            return low + (high - low) * draw_fraction(seed_key(self.settings.seed, "latency"), self._request_number)
        return latency if isinstance(latency, int | float) else 0.0
