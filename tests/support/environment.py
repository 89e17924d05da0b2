"""The environment variables that choose proxies and certificate authorities."""

from __future__ import annotations

import pytest

_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_VARIABLES = (*_PROXY_NAMES, "REQUEST_METHOD", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def clear_network_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of the machine, which would change the result of a test."""
    for name in (*_VARIABLES, *map(str.lower, _PROXY_NAMES)):
        monkeypatch.delenv(name, raising=False)
