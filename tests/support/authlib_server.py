"""An OAuth2 server by Authlib, with rotation and reuse detection; run as `python authlib_server.py PORT LOG`.

A refresh token that is used twice revokes all tokens of its user. Each line of the log is the result of a request.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer, ResourceProtector
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6750 import BearerTokenValidator
from flask import Flask, jsonify

LIFETIME_S = 3600
FIRST_REFRESH_TOKEN = "first-refresh-token"


class Client(ClientMixin):
    client_id, secret = "my client", "s3cret +/= with spaces"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return False

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return True

    def check_response_type(self, response_type: str) -> bool:
        return False

    def check_grant_type(self, grant_type: str) -> bool:
        return True


class Token(TokenMixin):
    def __init__(self, access_token: str, refresh_token: str) -> None:
        self.access_token, self.refresh_token, self.is_used, self.is_withdrawn = (
            access_token,
            refresh_token,
            False,
            False,
        )

    def check_client(self, client: ClientMixin) -> bool:
        return True

    def get_scope(self) -> str:
        return ""

    def get_expires_in(self) -> int:
        return LIFETIME_S

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return self.is_withdrawn

    def get_user(self) -> Any:
        return SimpleNamespace(id=1)

    def get_client(self) -> Client:
        return client


client = Client()
tokens = [Token("no-access", FIRST_REFRESH_TOKEN)]


class RotatingRefreshTokens(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        token = next((token for token in tokens if token.refresh_token == refresh_token), None)
        if token is not None and token.is_used:
            for each in tokens:
                each.is_withdrawn = True
            write("reused")
        return None if token is None or token.is_used or token.is_withdrawn else token

    def authenticate_user(self, refresh_token: Token) -> Any:
        return refresh_token.get_user()

    def revoke_old_credential(self, refresh_token: Token) -> None:
        refresh_token.is_used = True


class Validator(BearerTokenValidator):
    def authenticate_token(self, token_string: str) -> Token | None:
        # An access token ends with the renewal that replaces it.
        return tokens[-1] if tokens[-1].access_token == token_string and not tokens[-1].is_withdrawn else None


def save_token(token: dict[str, Any], request: Any) -> None:
    tokens.append(Token(token["access_token"], token["refresh_token"]))
    write("renewed")


def write(line: str) -> None:
    with Path(sys.argv[2]).open("a") as log:
        log.write(f"{line}\n")


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    server = AuthorizationServer(
        app, query_client=lambda client_id: client if client_id == client.client_id else None, save_token=save_token
    )
    server.register_grant(RotatingRefreshTokens)
    protector = ResourceProtector()
    protector.register_token_validator(Validator())
    app.add_url_rule("/token", view_func=server.create_token_response, methods=["POST"], endpoint="token")
    app.add_url_rule("/items/<int:part>", view_func=protector()(lambda part: jsonify([{"id": part}])), endpoint="items")
    return app


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    create_app().run("127.0.0.1", int(sys.argv[1]), threaded=True)
