"""An nginx on free ports: pages, files and charsets, odd framing, large headers, and TLS in several configurations."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certificates import Authority
from server_process import free_ports, running

PAGES, PAGE_SIZE = 40, 50
REQUESTS_PER_CONNECTION = 7
LARGE_ROWS = 20_000
FILE_ROWS = [{"id": str(number), "name": f"Zoë {number}"} for number in range(2000)]
"""The rows of the files below `/files/`, which are CSV in ISO-8859-1."""
HOST = "shop.test"
"""A name of the default TLS servers, which no resolver knows."""
_PORTS = ("http", "tls", "tls12", "tls13", "client_certificate", "http2")
_KIB = "x" * 1024
_CONFIG = """
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
    keepalive_requests {requests};
    limit_req_zone $server_name zone=all:1m rate=100r/s;
    limit_req_status 429;
    root {folder}/pages;
    charset_map iso-8859-1 utf-8 {{ EB C3AB; }}
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_certificate {default.certificate};
    ssl_certificate_key {default.key};
    server {{
        listen 127.0.0.1:{ports[http]};
        set $kib {kib};
        set $kib10 $kib$kib$kib$kib$kib$kib$kib$kib$kib$kib;
        location /items {{ try_files /$arg_page.json =404; }}
        location /limited {{ limit_req zone=all; try_files /$arg_page.json =404; }}
        location /brief {{ keepalive_timeout 1s 1s; return 200 '[{{"connection": $connection}}]'; }}
        location /silent {{ keepalive_timeout 1s; return 200 '[{{"connection": $connection}}]'; }}
        location /compressed {{ try_files /large.json =404; }}
        location /rewritten {{
            gzip off;
            sub_filter_types application/json; sub_filter_once off; sub_filter zero 0;
            try_files /large.json =404;
        }}
        location /headers/40 {{ add_header X-Large $kib10$kib10$kib10$kib10; return 200 '[{{"id": 1}}]'; }}
        location /headers/300 {{ {headers} return 200 '[{{"id": 1}}]'; }}
        location /files/ {{ charset iso-8859-1; charset_types text/csv application/gzip; types {{
            text/csv csv; application/gzip gz; application/octet-stream bz2 zip;
        }} }}
        location /recoded/ {{ alias {folder}/pages/files/; source_charset iso-8859-1; charset utf-8;
            default_type text/csv; charset_types text/csv; types {{ }} }}
        location /static/ {{ alias {folder}/pages/files/; gzip_static always; default_type text/csv; types {{ }}
            charset iso-8859-1; charset_types text/csv; }}
        location /status {{ stub_status; }}
        include {folder}/common.conf;
        location / {{ return 200 '[{{"id": 1}}]'; }}
    }}
    server {{ listen 127.0.0.1:{ports[tls12]} ssl; ssl_protocols TLSv1.2; include {folder}/session.conf; }}
    server {{ listen 127.0.0.1:{ports[tls13]} ssl; ssl_protocols TLSv1.3; include {folder}/session.conf; }}
    server {{ listen 127.0.0.1:{ports[http2]} ssl http2; include {folder}/session.conf; }}
    server {{ listen 127.0.0.1:{ports[tls]} ssl; include {folder}/session.conf; }}
    server {{
        listen 127.0.0.1:{ports[tls]} ssl;
        server_name one.test;
        ssl_certificate {one.certificate};
        ssl_certificate_key {one.key};
        include {folder}/session.conf;
    }}
    server {{
        listen 127.0.0.1:{ports[client_certificate]} ssl;
        ssl_verify_client on;
        ssl_client_certificate {authority};
        include {folder}/session.conf;
    }}
}}
"""
_COMMON = """
location /connections { return 200 '{"data": [{"page": $arg_page, "connection": $connection}], "pages": %d}'; }
location /unframed { chunked_transfer_encoding off; try_files /large.json =404; }
location /uploads { client_max_body_size 1k; return 200 '[]'; }
"""
_SESSION = """
include common.conf;
set $names '"server": "$ssl_server_name", "client": "$ssl_client_s_dn"';
location / {
    return 200 '[{"protocol": "$ssl_protocol", $names, "proxy_authorization": "$http_proxy_authorization"}]';
}
"""


class Nginx:
    """A running nginx. `client` is a certificate that its port `client_certificate` accepts."""

    def __init__(self, ports: dict[str, int], authority: Authority) -> None:
        self.ports = ports
        self.authority = authority
        self.client = authority.issue("client")
        self._own_connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}/"

    def tls_url(self, port: str = "tls", host: str = "localhost") -> str:
        return f"https://{host}:{self.ports[port]}/"

    def connections(self) -> int:
        """How many connections it has accepted on all ports, without those of this method."""
        with urllib.request.urlopen(f"{self.url}status") as response:
            accepted = re.search(rb"(\d+) \d+ \d+", response.read())
        assert accepted is not None
        self._own_connections += 1
        return int(accepted[1]) - self._own_connections


@contextmanager
def run_nginx(folder: Path) -> Iterator[Nginx]:
    """Run nginx until the block ends. Needs nginx and openssl."""
    folder.chmod(0o755)
    _write_pages(folder / "pages")
    authority = Authority(folder)
    default = authority.issue("default", "DNS:localhost", f"DNS:{HOST}", "IP:127.0.0.1")
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    config = _CONFIG.format(
        folder=folder,
        ports=ports,
        requests=REQUESTS_PER_CONNECTION,
        kib=_KIB,
        headers=" ".join(f"add_header X-Large-{number} $kib10;" for number in range(30)),
        default=default,
        one=authority.issue("one.test"),
        authority=authority.file,
    )
    (folder / "nginx.conf").write_text(config)
    (folder / "common.conf").write_text(_COMMON % PAGES)
    (folder / "session.conf").write_text(_SESSION)
    log = folder / "error.log"
    command = ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", log, "-g", "user root;"]
    with running(command, ports["http"], log):
        yield Nginx(ports, authority)


def _write_pages(folder: Path) -> None:
    folder.mkdir()
    for page in range(1, PAGES + 1):
        rows = [{"id": (page - 1) * PAGE_SIZE + row} for row in range(PAGE_SIZE)]
        (folder / f"{page}.json").write_text(json.dumps({"data": rows, "pages": PAGES}))
    _write_files(folder / "files")
    # In the response of /rewritten, nginx replaces the word by the number.
    large = [{"id": row, "name": "a row", "offset": "zero"} for row in range(LARGE_ROWS)]
    (folder / "large.json").write_text(json.dumps(large))


def _write_files(folder: Path) -> None:
    folder.mkdir()
    text = "\r\n".join(["id;name;;", *(f"{row['id']};{row['name']};;" for row in FILE_ROWS)]).encode("latin-1")
    (folder / "rows.csv").write_bytes(text)
    (folder / "rows.csv.gz").write_bytes(gzip.compress(text))
    (folder / "rows.csv.bz2").write_bytes(bz2.compress(text))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rows.csv", text)
    (folder / "rows.csv.zip").write_bytes(archive.getvalue())
