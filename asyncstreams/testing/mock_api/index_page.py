"""Description of a MockApi, as served at `/`, and example code that reads its resources."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ...pagination.paginators import Header
from .mock_auth import ApiKeyAuth, Auth, BasicAuth, BearerAuth, OAuth2
from .mock_settings import MockSettings
from .resource import PageLayout, Resource
from .routes import Route

_IMPORTABLE_NAMES = (
    "ApiKeyAuthenticator",
    "BasicHttpAuthenticator",
    "Continuation",
    "Cursor",
    "Header",
    "HttpStream",
    "LinkHeader",
    "NextUrl",
    "Oauth2Authenticator",
    "Offset",
    "PageNumber",
    "TokenAuthenticator",
    "csv_rows",
    "ndjson",
)


def api_description(routes: Iterable[Route], settings: MockSettings) -> dict[str, Any]:
    """The body of the response to `GET /`."""
    return {
        "api": "MockApi of asyncstreams",
        "auth": type(settings.auth).__name__ if settings.auth else None,
        "resources": [_describe_route(route) for route in routes],
        "counts": "/_mock/counts",
    }


def render_stream_source(route_path: str, resource: Resource, url: str, auth: Auth | None) -> str:
    """Python source of a stream class for the resource and of one instance, named after the resource.

    For a resource with a parent, the parent's id comes from the slice: `{"id": ...}`.
    """
    variable = re.sub(r"\W", "_", resource.name)
    name = "".join(word.capitalize() for word in variable.split("_"))
    lines = [f"class {name}(HttpStream):", f'    url_base = "{url}"']
    if resource.layout.has_envelope:
        lines.append(f'    records_path = "{resource.layout.records_at}"')
    if paginator := _render_paginator(resource.layout):
        lines.append(f"    paginator = {paginator}")
    lines += ["", "    def path(self, context):", f"        return {_render_path(route_path)}"]
    if resource.layout.format != "json":
        reader = "ndjson" if resource.layout.format == "ndjson" else "csv_rows"
        lines += [
            "",
            "    async def parse_response(self, response, context):",
            f"        async for record in {reader}(response):",
            "            yield record",
        ]
    source = "\n".join([*lines, "", "", f"{variable} = {name}({_render_authenticator(auth, url)})", ""])
    imported = [word for word in _IMPORTABLE_NAMES if re.search(rf"\b{word}\(", source) or word == "HttpStream"]
    return f"from asyncstreams import {', '.join(imported)}\n\n\n{source}"


def render_curl(path: str, url: str, auth: Auth | None) -> str:
    """A curl command that fetches one page."""
    target, credential = f"{url}{path}", ""
    if isinstance(auth, BearerAuth):
        credential = f'-H "Authorization: Bearer {auth.tokens[0]}" '
    elif isinstance(auth, BasicAuth):
        credential = f'-u "{auth.username}:{auth.password}" '
    elif isinstance(auth, ApiKeyAuth) and auth.into == "query":
        target += f"?{auth.name}={auth.key}"
    elif isinstance(auth, ApiKeyAuth):
        header = f'-H "{auth.name}: {auth.key}" '
        credential = header if auth.into == "header" else f'-b "{auth.name}={auth.key}" '
    elif isinstance(auth, OAuth2):
        secret = "" if auth.client_secret is None else f" -d client_secret={auth.client_secret}"
        grant = f"-d grant_type=refresh_token -d refresh_token={auth.refresh_token}"
        fetch_token = f"curl -s {url}{auth.path} -d client_id={auth.client_id}{secret} {grant}"
        read_token = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""
        credential = f'-H "Authorization: Bearer $({fetch_token} | {read_token})" '
    return f'curl {credential}"{target}"'


def _describe_route(route: Route) -> dict[str, Any]:
    resource = route.dataset.resource
    layout = resource.layout
    params: dict[str, str] = {}
    if layout.effective_paging != "none":
        params[layout.page_size_param] = f"page size, default {layout.page_size}, at most {layout.page_size_cap}"
    if layout.effective_paging in ("page", "link"):
        params[layout.page_param] = f"page number, from {layout.first_page}"
    elif layout.effective_paging == "offset":
        params[layout.offset_param] = "number of records to skip, from 0"
    elif layout.effective_paging != "none":
        params[layout.cursor_param] = "cursor from the previous page"
    params[resource.data.since_param] = f"lower bound of {resource.data.cursor_field}, inclusive"
    params[resource.data.until_param] = f"upper bound of {resource.data.cursor_field}, exclusive"
    return {
        "name": resource.name,
        "path": f"/{route.path}",
        "count": list(resource.count) if isinstance(resource.count, tuple) else resource.count,
        "paging": layout.effective_paging,
        "format": layout.format,
        "records_at": layout.records_at if layout.has_envelope else None,
        "next_at": _describe_location(layout.next_location)
        if layout.effective_paging in ("cursor", "next_url", "continue")
        else None,
        "total_at": _describe_location(layout.total_location),
        "parent": resource.parent,
        "parameters": params,
    }


def _describe_location(at: str | Header | None) -> str | None:
    return f"header {at.name}" if isinstance(at, Header) else at


def _render_paginator(layout: PageLayout) -> str:
    total, size = layout.total_location, layout.page_size
    size_arg = "" if layout.page_size_param == "per_page" else f', size_param="{layout.page_size_param}"'
    if layout.effective_paging == "page":
        param = "" if layout.page_param == "page" else f'"{layout.page_param}", '
        start = "" if layout.first_page == 1 else f"start={layout.first_page}, "
        total_arg = f", total_items={_render_selector(total)}" if total else ""
        return f"PageNumber({param}{start}size={size}{size_arg}{total_arg})"
    if layout.effective_paging == "offset":
        param = "" if layout.offset_param == "offset" else f'"{layout.offset_param}", '
        size_arg = "" if layout.page_size_param == "limit" else f', limit_param="{layout.page_size_param}"'
        return f"Offset({param}limit={size}{size_arg}{f', total={_render_selector(total)}' if total else ''})"
    if layout.effective_paging == "cursor":
        param = "" if layout.cursor_param == "cursor" else f', param="{layout.cursor_param}"'
        return f"Cursor({_render_selector(layout.next_location)}{param})"
    if layout.effective_paging == "next_url":
        return f"NextUrl({_render_selector(layout.next_location)})"
    if layout.effective_paging == "continue":
        return f"Continuation({_render_selector(layout.next_location)})"
    return "LinkHeader()" if layout.effective_paging == "link" else ""


def _render_path(path: str) -> str:
    """A path as a Python expression; the id of a parent comes from the slice."""
    if "{id}" not in path:
        return f'"{path}"'
    parts = ['context.stream_slice["id"]' if part == "{id}" else f'"{part}"' for part in path.split("/")]
    return f"({', '.join(parts)})"


def _render_selector(at: str | Header | None) -> str:
    return f'Header("{at.name}")' if isinstance(at, Header) else f'"{at}"'


def _render_authenticator(auth: Auth | None, url: str) -> str:
    if isinstance(auth, BearerAuth):
        return f'authenticator=TokenAuthenticator("{auth.tokens[0]}")'
    if isinstance(auth, BasicAuth):
        return f'authenticator=BasicHttpAuthenticator("{auth.username}", "{auth.password}")'
    if isinstance(auth, ApiKeyAuth):
        return f'authenticator=ApiKeyAuthenticator("{auth.key}", "{auth.name}", into="{auth.into}")'
    if isinstance(auth, OAuth2):
        secret = "None" if auth.client_secret is None else f'"{auth.client_secret}"'
        arguments = f'"{url}{auth.path}", "{auth.client_id}", {secret}, "{auth.refresh_token}"'
        return f"authenticator=Oauth2Authenticator({arguments})"
    return ""
