"""Certificate authorities and certificates for tests of TLS, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_CONFIG = """
[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Certificate(NamedTuple):
    """The PEM files of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> tuple[str, str]:
        return str(self.certificate), str(self.key)

    def joined(self) -> Path:
        """One file with the certificate and the key."""
        path = self.certificate.with_suffix(".joined.pem")
        path.write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        return path

    def encrypted(self, password: str) -> Certificate:
        """The same certificate with an encrypted key."""
        path = self.key.with_suffix(".encrypted.key")
        _openssl("pkey", "-in", self.key, "-aes256", "-passout", f"pass:{password}", "-out", path)
        return Certificate(self.certificate, path)


class Authority:
    """A new certificate authority, whose files are in `folder`. Needs openssl."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self._folder = folder
        self._config = folder / "openssl.cnf"
        self._config.write_text(_CONFIG)
        self.root = self._issue("authority", name, "authority")

    @property
    def file(self) -> str:
        """The path of the authority's certificate."""
        return str(self.root.certificate)

    def hashed_folder(self) -> str:
        """The path of a folder with the authority's certificate, in the form that OpenSSL searches."""
        folder = self._folder / "hashed"
        folder.mkdir(exist_ok=True)
        shutil.copy(self.root.certificate, folder)
        _openssl("rehash", folder)
        return str(folder)

    def issue(self, name: str, *subjects: str) -> Certificate:
        """A certificate for subjects such as `DNS:one.example`; by default for the DNS name `name`."""
        subject = ",".join(subjects or (f"DNS:{name}",))
        signer = ("-CA", self.root.certificate, "-CAkey", self.root.key)
        return self._issue(name, name, "leaf", *signer, "-addext", f"subjectAltName={subject}")

    def _issue(self, stem: str, name: str, section: str, *options: str | Path) -> Certificate:
        made = Certificate(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", made.key)
        described = ("-config", self._config, "-extensions", section, "-subj", f"/CN={name}", "-days", "2")
        _openssl("req", "-x509", *new_key, *described, *options, "-out", made.certificate)
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
