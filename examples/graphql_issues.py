"""The issues of a GitHub repository by GraphQL: POST, a cursor in the variables, errors in a 200 response.

GITHUB_TOKEN=ghp_... python examples/graphql_issues.py                          # the real API
GITHUB_TOKEN=ghp_... python examples/graphql_issues.py http://127.0.0.1:8000/   # another server
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from typing import Any, Unpack

from asyncstreams import Cursor, HttpStream, RequestContext, Response, ResponseAction, StreamOptions, TokenAuthenticator

GITHUB = "https://api.github.com/"
QUERY = """query($owner: String!, $name: String!, $after: String) { repository(owner: $owner, name: $name) {
  issues(first: 100, after: $after) { nodes { number state } pageInfo { endCursor hasNextPage } }
}}"""
PAGE = "data.repository.issues.pageInfo"


class Issues(HttpStream):
    """All issues of a repository, oldest first."""

    http_method = "POST"
    primary_key = "number"
    records_path = "data.repository.issues.nodes"
    paginator = Cursor(f"{PAGE}.endCursor", param="variables.after", into="json", more=f"{PAGE}.hasNextPage")

    def __init__(self, owner: str, repo: str, url_base: str = GITHUB, **options: Unpack[StreamOptions]) -> None:
        super().__init__(**options)
        self.owner, self.repo, self.url_base = owner, repo, url_base

    def path(self, context: RequestContext) -> str:
        return "graphql"

    def request_json(self, context: RequestContext) -> dict[str, Any]:
        return {"query": QUERY, "variables": {"owner": self.owner, "name": self.repo}}

    def classify(self, response: Response, context: RequestContext) -> ResponseAction:
        action = super().classify(response, context)
        if action is not ResponseAction.FAIL or not response.is_success:
            return action
        # Errors without a type are internal errors of GitHub, such as a query timeout.
        is_internal = all("type" not in error for error in response.json()["errors"])
        return ResponseAction.RETRY if is_internal else action


async def main(url: str = GITHUB) -> None:
    issues = Issues("pallets", "click", url, authenticator=TokenAuthenticator(os.environ["GITHUB_TOKEN"]))

    records = await issues.read()

    states = Counter(issue["state"].lower() for issue in records)
    print(f"{len(records)} issues of {issues.owner}/{issues.repo}: {states['open']} open, {states['closed']} closed")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
