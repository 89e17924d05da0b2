"""Imports on first use: what neither the package nor a first request loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import asyncstreams

# Without brotli and zstd: every request names those that can be imported, in Accept-Encoding.
LATE = {
    "aiolimiter",
    "duckdb",
    "h2",
    "jsonschema",
    "jsonschema_rs",
    "opentelemetry",
    "platformdirs",
    "pyarrow",
    "respx",
    "rich",
    "sqlite3",
    "zoneinfo",
}
# The command of httpx imports rich, if click is installed. What httpx imports by itself does not count.
HTTPX = "import sys; sys.modules['click'] = None; import httpx; known = set(sys.modules)"
REQUEST = """
import asyncio, http.server, threading
from asyncstreams import HttpStream

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b'[{"id":1}]')

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

class Users(HttpStream):
    url_base = f"http://127.0.0.1:{server.server_port}/"

    def path(self, context):
        return "users"

assert asyncio.run(Users().read()) == [{"id": 1}]
"""


def imported_by(code: str, folder: Path, before: str = "known = set(sys.modules)") -> set[str]:
    """The top-level packages that a new process imports for `code`, without those that `before` imports."""
    script = f"import json, sys\n{before}\n{code}\nprint(json.dumps([*set(sys.modules) - known]))"
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


@pytest.mark.parametrize("code", ["from asyncstreams import HttpStream, PageNumber, Source", REQUEST])
def test_optional_packages_are_imported_on_first_use(code: str, tmp_path: Path) -> None:
    imported = imported_by(code, tmp_path, HTTPX)

    assert "asyncstreams" in imported
    assert imported & LATE == set()


def test_destination_is_imported_on_first_use(tmp_path: Path) -> None:
    before = "import asyncstreams; known = set(sys.modules)"

    imported = imported_by("asyncstreams.SQLite", tmp_path, before)

    assert "sqlite3" in imported


def test_unpickling_imports_a_destination(tmp_path: Path) -> None:
    code = "import pickle; assert pickle.loads(b'casyncstreams\\nSQLite\\n.').__module__ == 'asyncstreams'"

    assert "sqlite3" in imported_by(code, tmp_path)


def test_unknown_public_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'asyncstreams' has no attribute 'SqLite'"):
        _ = asyncstreams.SqLite


def test_pytest_plugin_imports_nothing_before_use(tmp_path: Path) -> None:
    imported = imported_by("import pytest_asyncstreams", tmp_path, "import pytest; known = set(sys.modules)")

    assert imported == {"pytest_asyncstreams"}


@pytest.mark.parametrize("arguments", [[], ["-p", "no:respx"]], ids=["with respx plugin", "without"])
def test_plugin_extends_respx_for_the_first_test(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_mocked.py").write_text(
        "import asyncio, respx\n"
        "from asyncstreams import HttpStream\n"
        "class Users(HttpStream):\n"
        "    url_base = 'https://api.example.com/'\n"
        "    def path(self, context): return 'users'\n"
        "@respx.mock\n"
        "def test_mocked():\n"
        "    respx.get('https://api.example.com/users').respond(json=[{'id': 1}])\n"
        "    assert asyncio.run(Users().read()) == [{'id': 1}]\n"
    )

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
