"""Responses of the HTTP/1.1 transport, byte by byte: valid, unusual, mutated and cut anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11
import httpx
import pytest
from fed_connection import feed
from hypothesis import example, given
from hypothesis import strategies as st
from loopback import http_response
from simulation import examples

from asyncstreams.wire.transport_errors import InvalidResponse

Headers = list[tuple[bytes, bytes]]
CHUNKED = "Transfer-Encoding: chunked"
ANOTHER = http_response(b"of another")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade"}
SECRET = b"hunter22"


@dataclass(frozen=True)
class Written:
    """The bytes of a response, and what a client has to read from them."""

    data: bytes
    status: int
    headers: Headers
    body: bytes
    method: str = "GET"
    ends_with_connection: bool = False


LINE_END = st.sampled_from([b"\r\n", b"\r\n", b"\n"])
SPACE = st.sampled_from([b"", b" ", b"\t", b"  "])
TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
NAME = TOKEN.filter(lambda name: name.lower() not in FRAMING)
VALUE = st.binary(max_size=12).map(lambda value: value.translate(None, b"\0\r\n").strip(b" \t"))
REASON = st.sampled_from([b"", b" ", b" OK", b" Not  Found\t!", b" Caf\xe9", b" 200 200"])
FINAL_STATUS = st.sampled_from([200, 201, 203, 206, 301, 400, 404, 413, 418, 429, 500, 503, 599])
BODY = st.binary(max_size=60) | st.sampled_from([b"\r\n", b"0\r\n\r\n", http_response(b"of another")])
EXTENSION = st.sampled_from([b"", b"", b";a", b";a=1", b';a="b c";d', b" ", b"  ", b"\t", b" ;a=1"])


@st.composite
def field_lines(draw: st.DrawFn, headers: Headers) -> bytes:
    lines = b""
    for name, value in headers:
        if b" " in value and draw(st.booleans()):
            before, _, after = value.partition(b" ")
            if before.strip() and after.strip():
                value = before + draw(LINE_END) + draw(st.sampled_from([b" ", b"\t", b"   "])) + after
        lines += name + b":" + draw(SPACE) + value + draw(SPACE) + draw(LINE_END)
    return lines


@st.composite
def chunked_body(draw: st.DrawFn, body: bytes) -> bytes:
    chunks = b""
    while body:
        size = draw(st.integers(1, len(body)))
        digits = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % size
        chunks += digits + draw(EXTENSION) + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailers = draw(st.lists(st.tuples(NAME, VALUE), max_size=2))
    end = draw(st.sampled_from([b"0", b"000"])) + draw(EXTENSION) + b"\r\n"
    return chunks + end + b"".join(b"%s: %s\r\n" % trailer for trailer in trailers) + b"\r\n"


@st.composite
def written_responses(draw: st.DrawFn) -> Written:
    framing = draw(st.sampled_from(["length", "length", "chunked", "chunked", "connection", "no body"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"])) if framing != "chunked" else b"1.1"
    status, body, method = draw(FINAL_STATUS), draw(BODY), draw(st.sampled_from(["GET", "POST"]))
    headers = draw(st.lists(st.tuples(NAME, VALUE), max_size=4))
    payload = body
    if framing == "no body":
        body = payload = b""
        method, status = draw(st.sampled_from([("HEAD", 200), ("GET", 204), ("GET", 304)]))
        if method == "HEAD" or status == 304:
            framing_headers = draw(st.sampled_from([[], [(b"Content-Length", b"77")]]))
        else:
            framing_headers = []
    elif framing == "length":
        framing_headers = [(b"Content-Length", b"%d" % len(body))] * draw(st.sampled_from([1, 1, 1, 2]))
    elif framing == "chunked":
        payload = draw(chunked_body(body))
        framing_headers = [(b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked"])))]
    else:
        framing_headers = draw(st.sampled_from([[], [(b"Connection", b"close")]]))
    position = draw(st.integers(0, len(headers)))
    lines = draw(field_lines([*headers[:position], *framing_headers, *headers[position:]]))
    informational = draw(st.lists(st.sampled_from([100, 102, 103, 199]), max_size=2))
    data = draw(st.sampled_from([b"", b"", b"\r\n", b"\n\r\n"]))
    for code in informational:
        some = draw(field_lines(draw(st.lists(st.tuples(NAME, VALUE), max_size=2))))
        data += b"HTTP/1.1 %d%s" % (code, draw(REASON)) + draw(LINE_END) + some + draw(LINE_END)
    data += b"HTTP/%s %d%s" % (version, status, draw(REASON)) + draw(LINE_END) + lines + draw(LINE_END) + payload
    return Written(data, status, headers, body, method, framing == "connection")


def comparable(headers: Headers) -> Headers:
    """Headers without those that frame a message, and with one space for each fold and run of spaces."""
    return [(name.lower(), re.sub(rb"[ \t]+", b" ", value)) for name, value in headers if name.lower() not in FRAMING]


def parse_with_h11(data: bytes, method: str) -> tuple[int, Headers, bytes] | None:
    """Status, headers and body according to h11; None if h11 refuses the response or finds it incomplete."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "here")]))
    client.send(h11.EndOfMessage())
    response, body = None, b""
    try:
        client.receive_data(data)
        client.receive_data(b"")
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
    except h11.RemoteProtocolError:
        return None
    assert response is not None
    return response.status_code, comparable(list(response.headers)), body


@examples(full=3000, short=80)
@given(written_responses(), st.data())
async def test_property_valid_response_is_read_as_written(written, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(written.data)), max_size=6)))
    pieces = [written.data[start:end] for start, end in zip([0, *cuts], [*cuts, len(written.data)], strict=True)]

    outcome = await feed(pieces, written.method, closes=written.ends_with_connection)

    read = (outcome.status, comparable(outcome.headers), outcome.body)
    assert outcome.error is None
    assert read == (written.status, comparable(written.headers), written.body)
    second_opinion = parse_with_h11(written.data, written.method)
    assert second_opinion in (None, read)


FRAGMENT = st.sampled_from(
    [b"\r", b"\n", b"\0", b" ", b"\t", b":", b";", b",", b"0", b"-", b"\xff", b"\r\n", b"\r\n\r\n"]
    + [b"HTTP/1.1 200 OK\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"ffffffff"]
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, str]:
    written = draw(written_responses())
    data = written.data
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 4)))
        data = data[:start] + draw(FRAGMENT | st.just(data[start : end + 8]) | st.just(b"")) + data[end:]
    return data, written.method


@examples(full=5000, short=80)
@given(mutated() | st.tuples(st.binary(max_size=80).map(b"HTTP/1.1 ".__add__) | st.binary(max_size=80), st.just("GET")))
@example((b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET"))
async def test_property_mutated_response_is_read_or_refused(response):
    data, method = response

    whole = await feed([data], method, closes=True)
    bytewise = await feed([data[at : at + 1] for at in range(len(data))], method, closes=True)

    assert whole.error is None or isinstance(whole.error, httpx.RemoteProtocolError | httpx.ReadError)
    assert repr(whole) == repr(bytewise)
    second_opinion = parse_with_h11(data, method)
    if whole.error is None and second_opinion is not None and second_opinion[0] != 101:
        assert (whole.status, comparable(whole.headers), whole.body) == second_opinion


COMPLETE: dict[str, tuple[bytes, int, bytes]] = {
    "length": (http_response(b"here"), 200, b"here"),
    "empty": (http_response(b""), 200, b""),
    "informational": (CONTINUE + b"HTTP/1.1 103\r\nLink: </a>\r\n\r\n" + http_response(b"here"), 200, b"here"),
    "chunked": (http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED), 200, b"here"),
    "chunk extensions": (http_response(b'2;a="b;c"\r\nhe\r\n02 \r\nre\r\n0;last\r\n\r\n', CHUNKED), 200, b"here"),
    "trailers": (http_response(b"4\r\nhere\r\n0\r\nX-Sum: 1\r\nX-Two:\r\n\r\n", CHUNKED), 200, b"here"),
    "chunks of line ends": (http_response(b"2\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", CHUNKED), 200, b"\r\n0\r\n\r\n"),
    "chunked and length": (http_response(b"4\r\nhere\r\n0\r\n\r\n", "Content-Length: 2", CHUNKED), 200, b"here"),
    "twice the same length": (http_response(b"here", "Content-Length: 4", "Content-Length: 4"), 200, b"here"),
    "folded lines": (http_response(b"here", "X-A: one\r\n two\r\n\tthree", "X-B:\r\n four"), 200, b"here"),
    "bare line feeds": (b"HTTP/1.1 200 OK\nX-A: one\nContent-Length: 4\n\nhere", 200, b"here"),
    "mixed line ends": (b"HTTP/1.1 200 OK\r\nX-A: one\nContent-Length: 4\r\n\nhere", 200, b"here"),
    "latin-1 and controls": (http_response(b"here", "X-A: \u00e9\x01\x7f\x1b").replace(b"\xc3", b""), 200, b"here"),
    "empty lines before": (b"\r\n\n\r\n" + http_response(b"here"), 200, b"here"),
    "no reason": (b"HTTP/1.1 404\r\nContent-Length: 4\r\n\r\nhere", 404, b"here"),
    "no content": (b"HTTP/1.1 204 No Content\r\nX-A: one\r\n\r\n", 204, b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", 304, b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nhere", 200, b"here"),
    "excess": (http_response(b"here") + http_response(b"of another"), 200, b"here"),
    "excess after chunks": (http_response(b"4\r\nhere\r\n0\r\n\r\nmore", CHUNKED), 200, b"here"),
    "response after chunks": (http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED) + ANOTHER, 200, b"here"),
    "switch after chunks": (http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED) + SWITCHED, 200, b"here"),
    "bare line feed at the end": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\n\r\nhe", 200, b"\r\nhe"),
    "spaces around values": (b"HTTP/1.1 200 OK\nX-A:  one \nContent-Length: 4 \t\n\nhere", 200, b"here"),
}
CLOSED_AT_END: dict[str, tuple[bytes, int, bytes]] = {
    "no framing": (b"HTTP/1.1 200 OK\r\nX-A: one\r\n\r\nhere\r\n\r\n", 200, b"here\r\n\r\n"),
    "HTTP/1.0 without headers": (b"HTTP/1.0 200 OK\r\n\r\nhere", 200, b"here"),
}
REFUSED: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ""),
    "HTML": (b"<html><body>hunter22</body></html>\r\n\r\n", ""),
    "HTTP/2": (b"HTTP/2 200 OK\r\nX: hunter22\r\n\r\n", "(?i)version"),
    "no status": (b"HTTP/1.1 OK\r\nX: hunter22\r\n\r\n", "(?i)status"),
    "status of two digits": (b"HTTP/1.1 20 OK\r\nX: hunter22\r\n\r\n", "(?i)status"),
    "no colon": (http_response(b"", "X hunter22"), ""),
    "no name": (http_response(b"", ": hunter22"), ""),
    "space in a name": (http_response(b"", "X Y: hunter22"), ""),
    "space after a name": (http_response(b"", "X : hunter22"), ""),
    "space after Transfer-Encoding": (http_response(b"", "Transfer-Encoding : chunked", "Content-Length: 0"), ""),
    "space after Connection": (http_response(b"", "Connection : close"), ""),
    "RTSP": (b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "(?i)HTTP"),
    "status below 100": (http_response(b"", status="099 hunter22"), "(?i)status"),
    "NUL": (http_response(b"", "X: hunter22\0"), "(?i)NUL"),
    "negative length": (http_response(b"", "Content-Length: -1", "X: hunter22"), "(?i)content-length"),
    "no number": (http_response(b"", "Content-Length: hunter22"), "(?i)content-length"),
    "signed length": (http_response(b"hunter22", "Content-Length: +8"), "(?i)content-length"),
    "hexadecimal length": (http_response(b"hunter22", "Content-Length: 0x8"), "(?i)content-length"),
    "empty length": (http_response(b"hunter22", "Content-Length:"), "(?i)content-length"),
    "different lengths": (http_response(b"here", "Content-Length: 4", "Content-Length: 3"), "(?i)content-length"),
    "different lengths in one": (http_response(b"here", "Content-Length: 4, 3"), "(?i)content-length"),
    "length beyond 64 bits": (http_response(b"", "Content-Length: 99999999999999999999"), "(?i)content-length"),
    "chunk size": (http_response(b"hunter22\r\n", CHUNKED), "(?i)chunk"),
    "empty chunk size": (http_response(b"\r\nhunter22\r\n", CHUNKED), "(?i)chunk"),
    "negative chunk size": (http_response(b"-1\r\nhunter22\r\n", CHUNKED), "(?i)chunk"),
    "chunk size beyond 64 bits": (http_response(b"ffffffffffffffffff\r\nhunter22", CHUNKED), "(?i)chunk"),
    "longer than its chunk": (http_response(b"4\r\nhunter22\r\n0\r\n\r\n", CHUNKED), ""),
    "invalid trailer": (http_response(b"0\r\nX hunter22\r\n\r\n", CHUNKED), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", [*COMPLETE, *CLOSED_AT_END])
async def test_response_is_the_same_however_it_is_cut(case):
    closes = case in CLOSED_AT_END
    data, status, body = (COMPLETE | CLOSED_AT_END)[case]

    whole = await feed([data], closes=closes)
    halves = [await feed([data[:at], data[at:]], closes=closes) for at in range(1, len(data))]
    bytewise = await feed([bytes([byte]) for byte in data], closes=closes)

    assert (whole.status, whole.body, whole.error) == (status, body, None)
    assert [half for half in halves if half != whole] == []
    assert bytewise == whole


@pytest.mark.parametrize("case", REFUSED)
async def test_broken_rule_is_named_however_it_is_cut(case):
    data, rule = REFUSED[case]

    outcomes = [await feed([data[:at], data[at:]], closes=True) for at in range(len(data))]
    bytewise = await feed([bytes([byte]) for byte in data], closes=True)

    assert {type(outcome.error) for outcome in [*outcomes, bytewise]} == {InvalidResponse}
    texts = {str(outcome.error) for outcome in [*outcomes, bytewise]}
    assert len(texts) == 1
    assert re.search(rule, text := texts.pop())
    assert text
    assert SECRET.decode() not in text


@pytest.mark.parametrize("case", ["length", "chunked", "no framing", "informational"])
async def test_response_cut_off_anywhere_is_an_error(case):
    data, *_ = (COMPLETE | CLOSED_AT_END)[case]
    end = data.index(b"\r\n\r\n") + 4 if case == "no framing" else len(data)

    outcomes = [await feed([data[:length]], closes=True) for length in range(end)]

    assert [outcome for outcome in outcomes if not isinstance(outcome.error, httpx.TransportError)] == []
    assert [outcome for outcome in outcomes if outcome.is_reusable] == []


async def test_nul_in_body_after_a_bare_line_feed_is_no_error():
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\n\r\n1\r\n\0\r\n0\r\n\r\n"

    outcome = await feed([data], "GET")

    assert (outcome.error, outcome.body) == (None, b"\0")


async def test_pieces_before_an_error_are_delivered():
    chunked = await feed([http_response(b"4\r\nhere\r\nzz\r\n", CHUNKED)])
    truncated = await feed([http_response(b"here", "Content-Length: 9")], closes=True)

    assert (chunked.body, type(chunked.error)) == (b"here", InvalidResponse)
    assert truncated.body == b"here"
    assert isinstance(truncated.error, httpx.TransportError)


def head_of(size: int) -> bytes:
    """The bytes of a response without body, whose head has this size."""
    head = http_response(b"", "X-Filler: ")
    return head.replace(b"Filler: ", b"Filler: " + b"x" * (size - len(head)))


@pytest.mark.parametrize("piece_size", [100, 10_000, 2**19])
async def test_head_of_up_to_256_kib_is_accepted(piece_size):
    data, too_large = head_of(2**18), head_of(2**18 + 1)

    accepted = await feed([data[at : at + piece_size] for at in range(0, len(data), piece_size)])
    refused = await feed([too_large[at : at + piece_size] for at in range(0, len(too_large), piece_size)])

    assert (accepted.status, accepted.error, accepted.is_reusable) == (200, None, True)
    assert isinstance(refused.error, InvalidResponse)
    assert "256 KiB" in str(refused.error)


async def test_head_without_end_is_refused_at_256_kib():
    pieces = [b"HTTP/1.1 200 OK\r\n", *[b"X: %s\r\n" % (b"x" * 994)] * 300]

    outcome = await feed(pieces)

    assert isinstance(outcome.error, InvalidResponse)
    assert "256 KiB" in str(outcome.error)


async def test_head_of_up_to_512_lines_is_accepted():
    accepted = await feed([http_response(b"here", *["X: y"] * 511)])
    refused = await feed([http_response(b"here", *["X: y"] * 512)])

    assert (accepted.status, len(accepted.headers), accepted.body) == (200, 512, b"here")
    assert isinstance(refused.error, InvalidResponse)
    assert "512" in str(refused.error)


async def test_endless_trailers_are_refused():
    outcome = await feed([http_response(b"0\r\n", CHUNKED), *[b"X: %s\r\n" % (b"x" * 994)] * 400], closes=True)

    assert isinstance(outcome.error, InvalidResponse)


async def test_endless_chunk_extension_is_refused():
    outcome = await feed([http_response(b"4;", CHUNKED), *[b"x" * 1000] * 400], closes=True)

    assert isinstance(outcome.error, InvalidResponse)


@pytest.mark.parametrize(
    ("response", "is_reusable"),
    [
        (http_response(b"here"), True),
        (http_response(b"here", status="500 Internal Server Error"), True),
        (http_response(b"4\r\nhere\r\n0\r\nX-Sum: 1\r\n\r\n", CHUNKED), True),
        (http_response(b"here", "Content-Length: 4", "Content-Length: 4"), True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
        (CONTINUE + http_response(b"here"), True),
        (http_response(b"here", "Connection: close"), False),
        (http_response(b"here", "Connection: x, Close"), False),
        (http_response(b"here", "Connection: x", "Connection: close"), False),
        (http_response(b"here").replace(b"1.1", b"1.0"), False),
        (http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED, "Content-Length: 2"), False),
        (http_response(b"here") + b"\0", False),
        (http_response(b"here") + ANOTHER, False),
        (http_response(b"4\r\nhere\r\n0\r\n\r\nmore", CHUNKED), False),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nhere", False),
        (b"HTTP/1.1 304 Not Modified\r\n\r\nhere", False),
        (http_response(b"4\r\nhere\r\n0\r\n\r\n", CHUNKED) + ANOTHER, False),
        (SWITCHED, False),
        (http_response(b"here", "Keep-Alive: timeout=0"), False),
    ],
    ids=range(19),
)
async def test_connection_is_reused_only_after_a_clean_end(response, is_reusable):
    outcome = await feed([response])

    assert outcome.error is None
    assert outcome.is_reusable == is_reusable
    assert b"another" not in outcome.body


def test_valid_examples_are_mostly_accepted_by_h11():
    accepted = {case for case, (data, *_) in (COMPLETE | CLOSED_AT_END).items() if parse_with_h11(data, "GET")}

    assert len(accepted) > len(COMPLETE) / 2
