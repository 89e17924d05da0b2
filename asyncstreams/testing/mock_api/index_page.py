"""What does the API have, in words for people: its description, and a stream that reads a resource."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ...pagination.paginators import Header
from .auth import ApiKeyAuth, Auth, BasicAuth, BearerAuth, OAuth2
from .mock_settings import Settings
from .resource import Resource
from .routes import Route

_NAMES = (
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


def description(routes: Iterable[Route], settings: Settings) -> dict[str, Any]:
    """What `GET /` tells."""
    return {
        "api": "MockApi of asyncstreams",
        "auth": type(settings.auth).__name__ if settings.auth else None,
        "resources": [_described(route) for route in routes],
        "counts": "/_mock/counts",
    }


def stream_source(route_path: str, resource: Resource, url: str, auth: Auth | None) -> str:
    """Python that reads a resource: a stream class and one stream, ready to be pasted.

    For children, the ids of their parents are taken from the slice: `{"id": ...}`.
    """
    variable = re.sub(r"\W", "_", resource.name)
    name = "".join(word.capitalize() for word in variable.split("_"))
    lines = [f"class {name}(HttpStream):", f'    url_base = "{url}"']
    if resource.has_object:
        lines.append(f'    records_path = "{resource.records_at}"')
    if paginator := _paginator(resource):
        lines.append(f"    paginator = {paginator}")
    lines += ["", "    def path(self, context):", f"        return {_path(route_path)}"]
    if resource.format != "json":
        reader = "ndjson" if resource.format == "ndjson" else "csv_rows"
        lines += [
            "",
            "    async def parse_response(self, response, context):",
            f"        async for record in {reader}(response):",
            "            yield record",
        ]
    source = "\n".join([*lines, "", "", f"{variable} = {name}({_authenticator(auth, url)})", ""])
    used = [word for word in _NAMES if re.search(rf"\b{word}\(", source) or word == "HttpStream"]
    return f"from asyncstreams import {', '.join(used)}\n\n\n{source}"


def curl(path: str, url: str, auth: Auth | None) -> str:
    """A command that fetches one page."""
    target, given = f"{url}{path}", ""
    if isinstance(auth, BearerAuth):
        given = f'-H "Authorization: Bearer {auth.tokens[0]}" '
    elif isinstance(auth, BasicAuth):
        given = f'-u "{auth.username}:{auth.password}" '
    elif isinstance(auth, ApiKeyAuth) and auth.into == "query":
        target += f"?{auth.name}={auth.key}"
    elif isinstance(auth, ApiKeyAuth):
        given = f'-H "{auth.name}: {auth.key}" ' if auth.into == "header" else f'-b "{auth.name}={auth.key}" '
    elif isinstance(auth, OAuth2):
        secret = "" if auth.client_secret is None else f" -d client_secret={auth.client_secret}"
        grant = f"-d grant_type=refresh_token -d refresh_token={auth.refresh_token}"
        token = f"curl -s {url}{auth.path} -d client_id={auth.client_id}{secret} {grant}"
        read = """python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])'"""
        given = f'-H "Authorization: Bearer $({token} | {read})" '
    return f'curl {given}"{target}"'


def _described(route: Route) -> dict[str, Any]:
    resource = route.table.resource
    params: dict[str, str] = {}
    if resource.style != "none":
        params[resource.size_name] = f"records on a page, {resource.page_size} unless told, at most {resource.size_cap}"
    if resource.style in ("page", "link"):
        params[resource.page_param] = f"number of the page, from {resource.first_page}"
    elif resource.style == "offset":
        params[resource.offset_param] = "records before the first, from 0"
    elif resource.style != "none":
        params[resource.cursor_param] = "from the page before"
    params[resource.since_param] = f"the least {resource.cursor_field}"
    params[resource.until_param] = f"the {resource.cursor_field} before which it ends"
    return {
        "name": resource.name,
        "path": f"/{route.path}",
        "count": list(resource.count) if isinstance(resource.count, tuple) else resource.count,
        "paging": resource.style,
        "format": resource.format,
        "records_at": resource.records_at if resource.has_object else None,
        "next_at": _place(resource.token_at) if resource.style in ("cursor", "next_url", "continue") else None,
        "total_at": _place(resource.total_at),
        "parent": resource.parent,
        "parameters": params,
    }


def _place(at: str | Header | None) -> str | None:
    return f"header {at.name}" if isinstance(at, Header) else at


def _paginator(resource: Resource) -> str:
    total, size = resource.total_at, resource.page_size
    named = "" if resource.size_name == "per_page" else f', size_param="{resource.size_name}"'
    if resource.style == "page":
        param = "" if resource.page_param == "page" else f'"{resource.page_param}", '
        start = "" if resource.first_page == 1 else f"start={resource.first_page}, "
        told = f", total_items={_selector(total)}" if total else ""
        return f"PageNumber({param}{start}size={size}{named}{told})"
    if resource.style == "offset":
        param = "" if resource.offset_param == "offset" else f'"{resource.offset_param}", '
        named = "" if resource.size_name == "limit" else f', limit_param="{resource.size_name}"'
        return f"Offset({param}limit={size}{named}{f', total={_selector(total)}' if total else ''})"
    if resource.style == "cursor":
        param = "" if resource.cursor_param == "cursor" else f', param="{resource.cursor_param}"'
        return f"Cursor({_selector(resource.token_at)}{param})"
    if resource.style == "next_url":
        return f"NextUrl({_selector(resource.token_at)})"
    if resource.style == "continue":
        return f"Continuation({_selector(resource.token_at)})"
    return "LinkHeader()" if resource.style == "link" else ""


def _path(path: str) -> str:
    """A path as Python; the id of a parent comes from the slice."""
    if "{id}" not in path:
        return f'"{path}"'
    parts = ['context.stream_slice["id"]' if part == "{id}" else f'"{part}"' for part in path.split("/")]
    return f"({', '.join(parts)})"


def _selector(at: str | Header | None) -> str:
    return f'Header("{at.name}")' if isinstance(at, Header) else f'"{at}"'


def _authenticator(auth: Auth | None, url: str) -> str:
    if isinstance(auth, BearerAuth):
        return f'authenticator=TokenAuthenticator("{auth.tokens[0]}")'
    if isinstance(auth, BasicAuth):
        return f'authenticator=BasicHttpAuthenticator("{auth.username}", "{auth.password}")'
    if isinstance(auth, ApiKeyAuth):
        return f'authenticator=ApiKeyAuthenticator("{auth.key}", "{auth.name}", into="{auth.into}")'
    if isinstance(auth, OAuth2):
        secret = "None" if auth.client_secret is None else f'"{auth.client_secret}"'
        given = f'"{url}{auth.path}", "{auth.client_id}", {secret}, "{auth.refresh_token}"'
        return f"authenticator=Oauth2Authenticator({given})"
    return ""
