"""The words of an API in its error bodies, whatever their form and charset."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from time import process_time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncstreams.content.error_text import error_text, is_html_page

SAID = "since must precede until"


def answer(body: bytes | str | Any, content_type: str | None = "application/json", status: int = 400) -> httpx.Response:
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {} if content_type is None else {"Content-Type": content_type}
    return httpx.Response(status, headers=headers, content=content)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"message": SAID}, SAID),
        ({"Message": SAID}, SAID),
        ({"error_message": SAID, "status": "INVALID"}, SAID),
        ({"errorMessages": [SAID], "errors": {}}, SAID),
        ({"errorSummary": SAID, "errorCode": "E1", "errorCauses": []}, SAID),
        ({"ok": False, "error": True, "msg": SAID}, SAID),
        ({"fault": {"faultstring": SAID, "detail": {"errorcode": "E1"}}}, SAID),
        ({"response": {"errors": [{"userMessage": SAID}]}}, SAID),
        ({"error": "invalid_request", "error_description": SAID}, f"invalid_request: {SAID}"),
        ({"title": "Bad", "detail": SAID, "status": 400}, f"Bad: {SAID}"),
        ({"title": "Bad.", "errors": {"since": [SAID]}}, f"Bad: since: {SAID}"),
        ({"title": "Bad", "invalid-params": [{"name": "since", "reason": SAID}]}, f"Bad: since: {SAID}"),
        ({"message": "Invalid", "errors": [{"field": "since", "message": SAID}]}, f"Invalid, since: {SAID}"),
        ({"since": [SAID]}, f"since: {SAID}"),
        ({"__type": "ValidationException", "Message": SAID}, SAID),
        ({"status": "OVER_QUERY_LIMIT"}, "OVER_QUERY_LIMIT"),
        ({"status": {"error_code": 400, "error_message": SAID}}, SAID),
        ({"Message": "Bad", "Elements": [{"ValidationErrors": [{"Message": SAID}]}]}, f"Bad, {SAID}"),
        (SAID, SAID),
        (json.dumps(SAID), SAID),
        ([], None),
        ({"id": 7}, None),
    ],
)
def test_json_message_is_found(body: Any, expected: str | None):
    assert error_text(answer(body)) == expected


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (f"<Error><Code>Bad</Code><Message>{SAID}</Message></Error>", "application/xml", f"Bad: {SAID}"),
        (f"<a:Fault><faultstring>{SAID}</faultstring></a:Fault>", "text/xml", SAID),
        (f"<error><![CDATA[{SAID}]]></error>", None, SAID),
        (f'<response status="error" message="{SAID}"/>', "application/xml", SAID),
        (f"error=bad&error_description={SAID}".replace(" ", "+"), "application/x-www-form-urlencoded", f"bad: {SAID}"),
        (f"<r><code>5</code><error>a &lt; b: {SAID}</error></r>", "text/xml", f"5: a < b: {SAID}"),
        (f"<html><head><title>Oops</title></head><body><h1>{SAID}</h1></body>", "text/html", f"Oops: {SAID}"),
        (f"<html><style>x</style><script>y</script><title>{SAID}</title></html>", None, SAID),
        (f'{{"message": "{SAID}"}}', "text/html", SAID),
        (f"{{'message': '{SAID}'", "application/json", f"{{'message': '{SAID}'"),
        (f'{{"message": "{SAID}", "trace": "cut', "application/json", SAID),
        (f'{{"message": "{SAID}",}}', "application/json", SAID),
        (SAID, "text/plain", SAID),
        (SAID, None, SAID),
    ],
)
def test_message_of_other_forms_is_found(body: str, content_type: str | None, expected: str):
    assert error_text(answer(body, content_type)) == expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"message": "né"}'.encode("latin-1"), "application/json; charset=iso-8859-1"),
        ('{"message": "né"}'.encode("utf-8-sig"), "application/json"),
        ('{"message": "né"}'.encode("utf-16"), "application/json"),
        ('{"message": "né"}'.encode("utf-16-le"), "application/json"),
        ("né".encode("cp1252"), "text/plain"),
        ("né".encode(), "text/plain; charset=unknown"),
        ("né".encode(), "text/plain; charset=idna"),
        ('<?xml version="1.0" encoding="latin-1"?><error>né</error>'.encode("latin-1"), "text/xml"),
        ('<html><meta charset="latin-1"><title>né</title>'.encode("latin-1"), "text/html"),
    ],
)
def test_message_is_read_in_its_charset(body: bytes, content_type: str):
    assert error_text(answer(body, content_type)) == "né"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "text/plain"),
        (b"\x89PNG\r\n", "image/png"),
        (b"\x00\x01\x02" * 100, "application/octet-stream"),
        (b"<html><title>400 Bad Request</title><h1>400 Bad Request</h1></html>", "text/html"),
        (b"HTTP status 400", "text/plain"),
    ],
)
def test_body_without_words_shows_nothing(body: bytes, content_type: str):
    assert error_text(answer(body, content_type)) is None


def test_gzipped_message_without_content_encoding_is_found():
    body = gzip.compress(json.dumps({"message": SAID}).encode())

    assert error_text(answer(body)) == SAID
    assert error_text(answer(gzip.compress(bytes(10**7)))) is None


def test_control_characters_are_shown_as_escapes():
    response = answer({"message": "\x1b[31mred\x07 \u202egnp\u2066 \u200b\x9b \U000e0041"})

    text = error_text(response)

    assert text == r"\x1b[31mred\x07 \u202egnp\u2066 \u200b\x9b \U000e0041"


def test_secret_across_the_cut_is_removed():
    response = answer({"message": "x" * 295 + " hunter2hunter2"})

    text = error_text(response, ["hunter2hunter2"])

    assert text is not None
    assert len(text) <= 300
    assert "hunter" not in text


def test_message_behind_a_long_trace_is_found():
    assert error_text(answer({"trace": "x" * 80_000, "message": SAID})) == SAID


@given(st.binary(max_size=300), st.sampled_from(["application/json", "text/html", "text/xml", "text/plain; charset=x"]))
def test_any_body_gives_printable_text_of_300_characters(body: bytes, content_type: str):
    text = error_text(answer(body, content_type))

    assert text is None or (text.isprintable() and 0 < len(text) <= 300)


@pytest.mark.parametrize("evil", ["<", "<a>", "<!--", "<a></b>", "</a", '"message":"', "\\", "[", "<![CDATA[", "&amp"])
def test_hostile_body_is_read_in_linear_time(seconds_used, evil: str):
    error_text(answer(evil * (200_000 // len(evil)), None))

    assert seconds_used() < 1.0


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("<!DOCTYPE html><html></html>", "text/html", True),
        ("  <center><h1>403</h1></center>", None, True),
        ("<?xml version='1.0'?><html xmlns='x'/>", "application/xhtml+xml", True),
        ("<Error><Code>AccessDenied</Code></Error>", "application/xml", False),
        ('{"error": "no"}', "text/html", False),
        ("RBAC: access denied", "text/plain", False),
        ("", "text/html", False),
    ],
)
def test_html_page_is_recognised(body: str, content_type: str | None, expected: bool):
    assert is_html_page(answer(body, content_type)) is expected


@pytest.fixture
def seconds_used() -> Callable[[], float]:
    began = process_time()
    return lambda: process_time() - began
