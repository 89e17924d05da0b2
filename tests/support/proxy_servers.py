"""Proxies on free ports: squid, with a port for each kind of proxy, and tinyproxy."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from certificates import Authority
from server_process import free_ports, running

_USER = "user"
_LOG_S = 5.0
_CERTIFICATE_HELPER = "/usr/lib/squid/security_file_certgen"
_SQUID = """
http_port 127.0.0.1:{open}
http_port 127.0.0.1:{protected} name=protected
https_port 127.0.0.1:{tls} tls-cert={certificate.certificate} tls-key={certificate.key}
http_port 127.0.0.1:{intercepting} name=intercepting ssl-bump generate-host-certificates=on \
    tls-cert={root.certificate} tls-key={root.key}
sslcrtd_program {helper} -s {folder}/certificates -M 4MB
sslcrtd_children 1 startup=1
tls_outgoing_options cafile={upstream}
acl intercepted myportname intercepting
ssl_bump bump intercepted
ssl_bump splice all
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/passwords
auth_param basic children 1 startup=1
acl protected myportname protected
acl users proxy_auth REQUIRED
acl allowed_ports port {allowed}
http_access deny !allowed_ports
http_access deny protected !users
http_access allow all
hosts_file {folder}/hosts
cache deny all
cache_mem 1 MB
pinger_enable off
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
shutdown_lifetime 0 seconds
"""
_TINYPROXY = """
Listen 127.0.0.1
Port {port}
PidFile "{folder}/{name}.pid"
LogFile "{folder}/{name}.log"
"""


@dataclass(frozen=True)
class Proxies:
    """The ports of running proxies: one without a password, and one with it. Others have further ones."""

    password: str
    open: int
    protected: int
    tls: int = 0
    intercepting: int = 0
    authority: Authority | None = None
    """The authority of the ports `tls` and `intercepting`."""
    log: Path = Path()
    """The access log of squid."""

    def url(self, port: str = "open", password: str = "") -> str:
        """The URL of a proxy, with a user name if there is a password."""
        scheme = "https" if port == "tls" else "http"
        login = f"{_USER}:{quote(password, safe='')}@" if password else ""
        return f"{scheme}://{login}127.0.0.1:{getattr(self, port)}"

    def count(self, text: str) -> int:
        """In how many lines of the log a text is."""
        return sum(text in line for line in self.log.read_text().splitlines())

    def wait_for_log(self, text: str) -> None:
        """Wait until a line of the log contains a text; lines are written in the order of the requests."""
        deadline = time.monotonic() + _LOG_S
        while not self.count(text):
            assert time.monotonic() < deadline, f"{text!r} is not logged"
            time.sleep(0.01)


@contextmanager
def run_squid(allowed_ports: Sequence[int], upstream_authority: str, host: str) -> Iterator[Proxies]:
    """Run squid, which alone resolves `host`: to 127.0.0.1. Needs squid with OpenSSL, and openssl."""
    if not Path(_CERTIFICATE_HELPER).exists():
        pytest.skip("this squid is built without OpenSSL: apt-get install squid-openssl")
    with tempfile.TemporaryDirectory() as name:  # not a folder of pytest, which only its owner may enter
        folder = Path(name)
        authority = Authority(folder, "Intercepting Authority")
        open_, protected, tls, intercepting = free_ports(4)
        proxies = Proxies("p@ss:w/rd", open_, protected, tls, intercepting, authority, folder / "access.log")
        hashed = subprocess.check_output(["openssl", "passwd", "-apr1", proxies.password], text=True)
        (folder / "passwords").write_text(f"{_USER}:{hashed}")
        (folder / "hosts").write_text(f"127.0.0.1 localhost {host}\n")
        new_database = [_CERTIFICATE_HELPER, "-c", "-s", folder / "certificates", "-M", "4MB"]
        subprocess.run(new_database, check=True, capture_output=True)
        config = _SQUID.format(
            folder=folder,
            open=open_,
            protected=protected,
            tls=tls,
            intercepting=intercepting,
            certificate=authority.issue("proxy", "IP:127.0.0.1"),
            root=authority.root,
            helper=_CERTIFICATE_HELPER,
            upstream=upstream_authority,
            allowed=" ".join(map(str, allowed_ports)),
        )
        (folder / "squid.conf").write_text(config)
        _open_to_all(folder)
        with running(["squid", "-N", "-f", folder / "squid.conf"], open_, folder / "cache.log"):
            yield proxies


@contextmanager
def run_tinyproxy(folder: Path, tls_port: int) -> Iterator[Proxies]:
    """Run a tinyproxy that opens tunnels to one port only, and one with a password. Needs tinyproxy."""
    proxies = Proxies("passw0rd", *free_ports(2))  # tinyproxy takes letters and digits only
    with (
        _tinyproxy(folder, "open", proxies.open, f"ConnectPort {tls_port}"),
        _tinyproxy(folder, "protected", proxies.protected, f"BasicAuth {_USER} {proxies.password}"),
    ):
        yield proxies


@contextmanager
def _tinyproxy(folder: Path, name: str, port: int, directive: str) -> Iterator[None]:
    config = folder / f"{name}.conf"
    config.write_text(_TINYPROXY.format(folder=folder, name=name, port=port) + directive)
    with running(["tinyproxy", "-d", "-c", config], port, folder / f"{name}.log"):
        yield


def _open_to_all(folder: Path) -> None:
    """Let squid use the files, which runs as a user of its own if root starts it."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
