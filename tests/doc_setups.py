"""What must be there before a script of the documentation runs: mocked routes, by the name that its comment gives.

A setup runs in the script's own process, before it, with respx started: what no setup mocks, is refused.
"""

from __future__ import annotations

SETUPS = {
    "github": """
import respx

repos = [{"id": number, "name": f"repo-{number}", "stargazers_count": number} for number in range(1, 151)]
first, second = "https://api.github.com/orgs/encode/repos", "https://api.github.com/organizations/1/repos?page=2"
respx.get(second).respond(json=repos[100:])
respx.get(first).respond(json=repos[:100], headers={"Link": f'<{second}>; rel="next"'})
""",
}
