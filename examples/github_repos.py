"""The repositories of a GitHub organisation: pagination by Link header, and a bearer token.

python examples/github_repos.py                           # the real API, 60 requests an hour
GITHUB_TOKEN=ghp_... python examples/github_repos.py      # the real API, 5,000 requests an hour
python examples/github_repos.py http://127.0.0.1:8000/    # another server, such as that of a test
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Unpack

from asyncstreams import HttpStream, LinkHeader, RequestContext, StreamOptions, TokenAuthenticator

GITHUB = "https://api.github.com/"


class Repos(HttpStream):
    """The public repositories of an organisation."""

    primary_key = "id"
    paginator = LinkHeader()

    def __init__(self, org: str, url_base: str = GITHUB, **options: Unpack[StreamOptions]) -> None:
        super().__init__(**options)
        self.org, self.url_base = org, url_base

    def path(self, context: RequestContext) -> tuple[str, ...]:
        return ("orgs", self.org, "repos")

    def request_params(self, context: RequestContext) -> dict[str, Any]:
        return {"per_page": 100, "type": "public"}

    def request_headers(self, context: RequestContext) -> dict[str, str]:
        return {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}


async def main(url: str = GITHUB) -> None:
    token = os.environ.get("GITHUB_TOKEN")
    repos = Repos("encode", url, authenticator=TokenAuthenticator(token) if token else None)

    records = await repos.read()

    stars = sum(repo["stargazers_count"] for repo in records)
    print(f"{len(records)} repositories of {repos.org}, {stars:,} stars")
    for repo in sorted(records, key=lambda repo: repo["stargazers_count"], reverse=True)[:3]:
        print(f"{repo['stargazers_count']:>8,}  {repo['name']}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
