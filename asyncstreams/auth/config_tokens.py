"""OAuth2 credentials that live in the configuration: new tokens are written back to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Unpack, cast

from ..errors import ConfigError
from ..models import Secret
from .oauth2 import Oauth2Authenticator, Oauth2Options
from .tokens import Oauth2Tokens

_DEFAULT_LIFETIME_S = 3600.0


class SingleUseRefreshTokenOauth2Authenticator(Oauth2Authenticator):
    """An Oauth2Authenticator whose credentials live in the configuration, for refresh tokens that are valid once.

    Each renewal reads the tokens from `connector_config`, and writes the new ones back to it before they are used:
    access token, refresh token, and the time at which the access token expires, in ISO 8601. `on_refresh` is called
    afterwards: store the configuration there. An access token of the configuration that has not expired is used.

    connector_config: the configuration, a mutable mapping; that of a Source is the mapping that was passed to it.
    client_id, client_secret: default to `credentials.client_id` and `credentials.client_secret` of the
        configuration.
    access_token_config_path, refresh_token_config_path, token_expiry_date_config_path: where the tokens are.

    The other arguments, and the errors raised, are those of Oauth2Authenticator.
    """

    def __init__(
        self,
        connector_config: Mapping[str, Any],
        token_refresh_endpoint: str,
        scopes: Sequence[str] = (),
        *,
        client_id: str | None = None,
        client_secret: str | Secret | None = None,
        access_token_config_path: Sequence[str] = ("credentials", "access_token"),
        refresh_token_config_path: Sequence[str] = ("credentials", "refresh_token"),
        token_expiry_date_config_path: Sequence[str] = ("credentials", "token_expiry_date"),
        grant_type: str = "refresh_token",
        **options: Unpack[Oauth2Options],
    ) -> None:
        paths = (access_token_config_path, refresh_token_config_path, token_expiry_date_config_path)
        tokens = ConfigTokens(type(self).__name__, connector_config, *map(tuple, paths))
        id_path, secret_path = ("credentials", "client_id"), ("credentials", "client_secret")
        found_id = tokens.value_at(id_path) if client_id is None else client_id
        super().__init__(
            token_refresh_endpoint,
            tokens.text(found_id, id_path),
            tokens.value_at(secret_path) if client_secret is None else client_secret,
            tokens.text(tokens.value_at(tokens.refresh_path), tokens.refresh_path),
            scopes,
            grant_type=grant_type,
            token_store=tokens,
            **options,
        )
        # The refresh token differs from run to run, so it does not identify the account.
        self._account_token = None


class ConfigTokens:
    """The TokenStore of a configuration. Its tokens belong to one account, so keys are ignored."""

    def __init__(
        self,
        class_name: str,
        config: Mapping[str, Any],
        access_path: tuple[str, ...],
        refresh_path: tuple[str, ...],
        expiry_path: tuple[str, ...],
    ) -> None:
        self._class_name = class_name
        self._config = config
        self.access_path, self.refresh_path, self.expiry_path = access_path, refresh_path, expiry_path
        for path in (access_path, refresh_path, expiry_path):
            self._check_path(path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigTokens) and self._config is other._config

    def __hash__(self) -> int:
        return id(self._config)

    def __repr__(self) -> str:
        return f"ConfigTokens({'.'.join(self.access_path)!r}, {'.'.join(self.refresh_path)!r})"

    @asynccontextmanager
    async def exclusive(self, key: str, /) -> AsyncGenerator[Oauth2Tokens | None]:
        """The tokens of the configuration now. A lock is not needed within one process."""
        access = self.value_at(self.access_path)
        yield Oauth2Tokens(
            Secret(access or ""),
            Secret(self.text(self.value_at(self.refresh_path), self.refresh_path)),
            _DEFAULT_LIFETIME_S,
            self._expires_at() if access else None,
        )

    async def save(self, key: str, tokens: Oauth2Tokens, /) -> None:
        """Write the tokens back to the configuration."""
        self._set(self.access_path, tokens.access_token)
        if tokens.refresh_token is not None:
            self._set(self.refresh_path, tokens.refresh_token)
        if tokens.expires_at is not None:
            moment = datetime.fromtimestamp(tokens.expires_at, UTC).isoformat(timespec="seconds")
            self._set(self.expiry_path, moment.replace("+00:00", "Z"))

    def value_at(self, path: Sequence[str]) -> Any:
        """The value at a path of the configuration, or None."""
        value: Any = self._config
        for name in path:
            value = cast(Mapping[str, Any], value).get(name) if isinstance(value, Mapping) else None
        return value

    def text(self, value: Any, path: Sequence[str]) -> str:
        """The text of a required value. Raises ConfigError if it is missing."""
        text = value.reveal() if isinstance(value, Secret) else value
        if not isinstance(text, str) or not text:
            raise ConfigError(
                f"{self._class_name}: the configuration has no text at {'.'.join(path)!r}",
                hint="authorize the client, and store the tokens in the configuration",
            )
        return text

    def _expires_at(self) -> float | None:
        value = self.value_at(self.expiry_path)
        if isinstance(value, int | float):
            return float(value)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{self._class_name}: {'.'.join(self.expiry_path)!r} of the configuration is not a time in ISO 8601"
            ) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def _check_path(self, path: tuple[str, ...]) -> None:
        parents = [self.value_at(path[:length]) for length in range(len(path))]
        if not path or any(parent is not None and not isinstance(parent, MutableMapping) for parent in parents):
            raise ConfigError(
                f"{self._class_name}(connector_config=...): cannot be changed at {'.'.join(path)!r}",
                hint="pass the configuration as a dict of dicts: new tokens are written back to it",
            )

    def _set(self, path: Sequence[str], value: str | Secret) -> None:
        parent = cast(MutableMapping[str, Any], self._config)
        for name in path[:-1]:
            parent = parent.setdefault(name, {})
        is_secret = isinstance(parent.get(path[-1]), Secret)
        parent[path[-1]] = value.reveal() if isinstance(value, Secret) and not is_secret else value
