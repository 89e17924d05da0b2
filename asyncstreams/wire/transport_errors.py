"""Transport errors that httpx has no class for. Their texts contain no header, body, query or password."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import httpx


class CertificateRejected(httpx.ConnectError):
    """The server's certificate, or that of the proxy, was not accepted."""


class HostNotFound(httpx.ConnectError):
    """The name of the server's host could not be resolved."""


class ProxyUnreachable(httpx.ConnectError):
    """No connection to the proxy could be opened; the text names the proxy."""


class TunnelRefused(httpx.ProxyError):
    """The proxy refused to open a tunnel to the server; the text names the proxy."""


class ProxyAuthenticationRequired(httpx.ProxyError):
    """The proxy answered 407: it demands a user name and a password, or rejects those that it received."""


class InvalidResponse(httpx.RemoteProtocolError):
    """The response breaks a rule of HTTP, which the text names."""


def connect_error(error: OSError) -> httpx.ConnectError:
    """The transport error for a connection that could not be opened."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRejected(error.verify_message)
    if isinstance(error, ssl.SSLError):
        reason = describe(error)
        if "wrong version number" in reason or "http request" in reason:
            reason += ": the server does not speak TLS on this port"
        return httpx.ConnectError(f"the TLS handshake failed: {reason}")
    if isinstance(error, socket.gaierror):
        return HostNotFound(error.strerror or "the name cannot be resolved")
    return httpx.ConnectError(describe(error))


def describe(error: BaseException) -> str:
    """The reason for an OSError in plain words, without addresses."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "unknown reason").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return os.strerror(errno.ECONNRESET)
    return str(error) or type(error).__name__
