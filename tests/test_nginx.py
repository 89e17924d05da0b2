"""Streams against nginx, a server of the field."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket
from typing import Any

import pytest

from asyncstreams import HttpStream, PageNumber

pytestmark = pytest.mark.server("nginx")
PAGES, PAGE_SIZE = 40, 50
CONFIG = """
daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    default_type application/json;
    gzip on; gzip_types application/json; gzip_min_length 1;
    keepalive_requests 7;
    limit_req_zone $server_name zone=all:1m rate=100r/s;
    limit_req_status 429;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/pages;
        location /items {{ try_files /$arg_page.json =404; }}
        location /limited {{ limit_req zone=all; try_files /$arg_page.json =404; }}
    }}
}}
"""


class Items(HttpStream):
    records_path = "data"
    paginator = PageNumber(total_pages="pages")

    def __init__(self, url_base: str) -> None:
        self.url_base = url_base
        super().__init__()

    def path(self, context: Any) -> str:
        return "items"


class Limited(Items):
    def path(self, context: Any) -> str:
        return "limited"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an nginx that serves pages of JSON, compressed, and closes connections after seven requests."""
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    (folder / "pages").mkdir()
    for page in range(1, PAGES + 1):
        rows = [{"id": (page - 1) * PAGE_SIZE + row} for row in range(PAGE_SIZE)]
        (folder / "pages" / f"{page}.json").write_text(json.dumps({"data": rows, "pages": PAGES}))
    with socket(AF_INET, SOCK_STREAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port))
    command = [
        "nginx",
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
        "-e",
        str(folder / "error.log"),
        "-g",
        "user root;",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_it_listens(port, process, folder)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Raises AssertionError with the log of nginx if it has ended."""
    for _ in range(500):
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket(AF_INET, SOCK_STREAM) as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("nginx does not listen after 5 s")


async def test_compressed_pages_are_read_over_closing_connections(nginx: str) -> None:
    records = await Items(nginx).read()

    assert [record["id"] for record in records] == list(range(PAGES * PAGE_SIZE))


async def test_pages_beyond_an_undeclared_limit_are_read_after_429(nginx: str) -> None:
    records = await Limited(nginx).read()

    assert [record["id"] for record in records] == list(range(PAGES * PAGE_SIZE))
