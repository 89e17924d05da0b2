"""Parsing of the `Link` header according to RFC 8288."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncstreams.pagination.link_header import parse_link_header

often = settings(max_examples=100, deadline=None)
relations = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
targets = st.text(st.characters(exclude_characters="<>", min_codepoint=33, max_codepoint=126), max_size=20)
quoted = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


def in_quotes(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("header", "links"),
    [
        (
            '<http://example.com/TheBook/chapter2>; rel="previous"; title="previous chapter"',
            {"previous": "http://example.com/TheBook/chapter2"},
        ),
        ('</>; rel="http://example.net/foo"', {"http://example.net/foo": "/"}),
        (
            (
                "</TheBook/chapter2>; rel=\"previous\"; title*=UTF-8'de'letztes%20Kapitel, "
                "</TheBook/chapter4>; rel=\"next\"; title*=UTF-8'de'n%c3%a4chstes%20Kapitel"
            ),
            {"previous": "/TheBook/chapter2", "next": "/TheBook/chapter4"},
        ),
        (
            '<http://example.org/>; rel="start http://example.net/relation/other"',
            {"start": "http://example.org/", "http://example.net/relation/other": "http://example.org/"},
        ),
        (
            '<https://example.org/>; rel="start", <https://example.org/index>; rel="index"',
            {"start": "https://example.org/", "index": "https://example.org/index"},
        ),
    ],
)
def test_rfc_8288_examples_are_parsed(header: str, links: dict[str, str]) -> None:
    assert parse_link_header(header) == links


def test_link_with_anchor_is_skipped() -> None:
    assert parse_link_header('</terms>; rel="copyright"; anchor="#foo"') == {}
    assert parse_link_header('</a>; anchor="/x"; rel="next", </b>; rel="next"') == {"next": "/b"}


def test_github_header_is_parsed() -> None:
    header = (
        '<https://api.github.com/repositories/1/issues?page=2>; rel="next", '
        '<https://api.github.com/repositories/1/issues?page=7>; rel="last"'
    )

    links = parse_link_header(header)

    assert links["next"].endswith("page=2")
    assert links["last"].endswith("page=7")


@pytest.mark.parametrize(
    "header",
    [
        "<a>; rel=next",
        '<a>; rel="next"',
        "<a>; rel='next'",
        "<a>; rel='first next'; title='x'",
        "<b>; title='it; rel=last', <a>; rel=next",
        "<a>;rel=next",
        '<a>  ;  rel  =  "next"',
        '\t<a>;\trel="next"',
        '<a>; REL="NEXT"',
        "<a>; Rel=Next",
        '<a>; title="a, b; c <d>"; rel="next"',
        '<a>; title="say \\"hi\\", <b>; rel=last"; rel="next"',
        '<a>; rel="first next"',
        '<a>; rel="next"; rel="last"',
        '<a>; crossorigin; rel="next"',
        '<a>; rel="next";',
        ' , , <a>; rel="next", ',
        '<a>; rel="next", <b>; rel="next"',
        'garbage, <a>; rel="next"',
        '<b>, <a>; rel="next"',
        '<b>; title="never closed, <a>; rel=next',
        pytest.param(
            '<a>;; rel="next"',
        ),
    ],
)
def test_next_link_is_found_in_any_spelling(header: str) -> None:
    assert parse_link_header(header)["next"] == "a"


@pytest.mark.parametrize("header", ["", " ", ",", ",,;", "<", "<a", "a>; rel=next", "<a>", "<a>; rel", '<a>; rel=""'])
def test_header_without_relation_gives_no_link(header: str) -> None:
    assert parse_link_header(header) == {}


def test_target_may_contain_commas_and_semicolons() -> None:
    assert parse_link_header("</q?ids=1,2;3>; rel=next") == {"next": "/q?ids=1,2;3"}


@often
@given(st.text(max_size=60) | st.text(alphabet='<>;,="\\ relnxta*\t', max_size=60))
def test_any_text_parses_without_invented_targets(text: str) -> None:
    links = parse_link_header(text)

    assert all(f"<{target}>" in text for target in links.values())
    assert all(relation == relation.lower() and relation.split() == [relation] for relation in links)


@often
@given(
    st.lists(
        st.tuples(targets, st.lists(relations, min_size=1, max_size=3), quoted, st.booleans()), min_size=1, max_size=4
    )
)
def test_links_round_trip_and_first_of_relation_wins(
    links: list[tuple[str, list[str], str, bool]],
) -> None:
    expected: dict[str, str] = {}
    parts = []
    for target, relation, title, title_first in links:
        params = [f'rel="{" ".join(relation)}"', f"title={in_quotes(title)}"]
        parts.append("; ".join([f"<{target}>", *(reversed(params) if title_first else params)]))
        for name in relation:
            expected.setdefault(name, target)

    assert parse_link_header(", ".join(parts)) == expected


@often
@given(junk=st.text(st.characters(exclude_characters='<>,"'), max_size=12))
def test_malformed_link_does_not_hide_next_one(junk: str) -> None:
    assert parse_link_header(f"{junk}, </a>; rel=next") == {"next": "/a"}
