"""A stream of one page at a given path, with given options of its requests."""

from __future__ import annotations

from typing import Any

from loopback import Items

from asyncstreams import RequestContext


class LocatedItems(Items):
    """`Items` at `path`; the other arguments are what `request_kwargs` returns."""

    def __init__(self, url: str, path: str = "items", **request_kwargs: Any) -> None:
        super().__init__(url)
        self._path, self._kwargs = path, request_kwargs

    def path(self, context: RequestContext) -> str:
        return self._path

    def request_kwargs(self, context: RequestContext) -> dict[str, Any]:
        return self._kwargs


class Upload(LocatedItems):
    """A POST of 10 MB."""

    http_method = "POST"

    def request_data(self, context: RequestContext) -> bytes:
        return b"x" * 10_000_000
