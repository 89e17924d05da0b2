"""Servers that pip does not install: which command each needs, and how to install it."""

from __future__ import annotations

import shutil

INSTALL = {
    "chromium": "apt-get install chromium",
    "nginx": "apt-get install nginx-light",
    "squid": "apt-get install squid-openssl",
    "systemd-analyze": "apt-get install systemd",
    "tinyproxy": "apt-get install tinyproxy",
    "unshare": "apt-get install util-linux",
}


def missing(server: str) -> str | None:
    """Why tests against this server cannot run, with the command that installs it; None if they can.

    Raises KeyError for a server that is not in INSTALL.
    """
    command = INSTALL[server]
    return None if shutil.which(server) else f"{server} is not installed: {command}"
