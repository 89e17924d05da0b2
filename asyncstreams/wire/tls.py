"""TLS contexts: which certificate authorities are trusted, and which certificate the client shows."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import certifi

from ..errors import ConfigError

_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


class TlsOptions(NamedTuple):
    """How a server is verified, and the client's own certificate.

    verify: True, False, the path of a file or folder of authorities, or a context of the user's.
    cert: the path of a file with certificate and key, or (certificate, key), or (certificate, key, password).
    """

    verify: bool | str | ssl.SSLContext = True
    cert: str | tuple[str, ...] | None = None


DEFAULT_TLS = TlsOptions()
_certificates: WeakKeyDictionary[ssl.SSLContext, str | tuple[str, ...]] = WeakKeyDictionary()


def with_environment(options: TlsOptions, environ: Mapping[str, str]) -> TlsOptions:
    """The options with the authorities that the environment names, if `verify` is True.

    The first of SSL_CERT_FILE, SSL_CERT_DIR and REQUESTS_CA_BUNDLE counts. Raises ConfigError, which names
    the variable, if there is nothing at its path.
    """
    if options.verify is True:
        for name in _VARIABLES:
            if path := environ.get(name):
                if not Path(path).exists():
                    raise ConfigError(f"the environment variable {name} is {path!r}: there is no such file or folder")
                return options._replace(verify=path)
    return options


def tls_context(options: TlsOptions, *, http2: bool = False) -> ssl.SSLContext:
    """The context for these options, one per process: loading the certificate authorities takes 20 ms.

    The protocols that it offers are part of it, so HTTP/2 has a context of its own. Files that have changed
    are loaded again. Raises ConfigError if a file cannot be loaded.
    """
    return _context(options, http2, tuple(map(_modified_at, _paths(options))))


@functools.cache
def _context(options: TlsOptions, http2: bool, modified_at: tuple[int | None, ...]) -> ssl.SSLContext:
    verify, cert = options
    if isinstance(verify, ssl.SSLContext):
        if cert is not None:
            _load_into_shared(verify, cert)
        return verify
    context = _new_context(verify)
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    if cert is not None:
        _load_certificate(context, cert)
    return context


def _paths(options: TlsOptions) -> list[str]:
    verify = [options.verify] if isinstance(options.verify, str) else []
    return [*verify, *([options.cert] if isinstance(options.cert, str) else (options.cert or ())[:2])]


def _modified_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _new_context(verify: bool | str) -> ssl.SSLContext:
    if isinstance(verify, str):
        try:
            if os.path.isdir(verify):
                return ssl.create_default_context(capath=verify)
            return ssl.create_default_context(cafile=verify)
        except ssl.SSLError:
            problem = "contains no certificate in PEM format"
        except OSError as error:
            problem = error.strerror or type(error).__name__
        raise ConfigError(f"request_kwargs: verify = {verify!r}: {problem}")
    if verify:
        return ssl.create_default_context(cafile=certifi.where())
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load_into_shared(context: ssl.SSLContext, cert: str | tuple[str, ...]) -> None:
    """Load a client certificate into the user's context, which can hold only one."""
    if _certificates.setdefault(context, cert) != cert:
        raise ConfigError(
            "request_kwargs: two different cert for one SSLContext as verify",
            hint="use a context of its own for each client certificate",
        )
    _load_certificate(context, cert)


def _load_certificate(context: ssl.SSLContext, cert: str | tuple[str, ...]) -> None:
    certfile, keyfile, password = (*((cert,) if isinstance(cert, str) else cert), None, None)[:3]
    assert certfile is not None
    try:
        # Without a function, OpenSSL would ask for the password of an encrypted key on the terminal.
        context.load_cert_chain(certfile, keyfile, password or _no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = "the key does not belong to the certificate"
        else:
            problem = "no certificate with its key in PEM format, or the password of the key is wrong"
    except OSError as error:
        problem = error.strerror or type(error).__name__
    else:
        return
    raise ConfigError(f"request_kwargs: cert = {' and '.join(filter(None, (certfile, keyfile)))}: {problem}")


def _no_password() -> str:
    raise ConfigError("request_kwargs: the key of cert is encrypted", hint="pass cert=(certificate, key, password)")
