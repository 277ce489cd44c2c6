"""Authorization headers for one registry and one user: basic, or tokens of the service that the registry names.

::

    request ──▶ 401, WWW-Authenticate: Bearer realm=...,service=...   ──▶ GET/POST realm?scope=... ──▶ token
                401, WWW-Authenticate: Basic                          ──▶ user and password

The user's password goes to the registry that he logged in to and to the realm that this registry names, which must be
https unless the registry itself is trusted without (threats.md E9, CVE-2020-15157). Redirects are not followed there.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import aiohttp

from orlop.errors import InvalidParameterError
from orlop.registry.challenge import parse_challenges
from orlop.registry.credentials import ANONYMOUS, Credentials
from orlop.registry.endpoints import is_loopback
from orlop.registry.failures import BODY_LIMIT, RegistryError, refusal
from orlop.registry.http import without_query
from orlop.spec.strict_json import Fields, parse_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.registry.challenge import Challenge
    from orlop.registry.endpoints import Endpoint
    from orlop.registry.http import Http

CLIENT = "docker"
NO_BASIC = "no basic auth credentials"
_TOKEN_LIMIT = 1 << 20
_TOKEN_SECONDS = 60.0


class Authorization:
    """Owns the tokens of one operation.

    Attributes:
        scopes: what tokens are asked for.
        identity_token: a refresh token that the service gave (``offline_token``); empty for none.
    """

    def __init__(
        self, http: Http, endpoint: Endpoint, credentials: Credentials, scopes: Sequence[str], *, offline: bool = False
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._credentials = ANONYMOUS if endpoint.mirror else credentials
        self._offline = offline
        self._lock = asyncio.Lock()
        self._header = ""
        self._expires = 0.0
        self.scopes = tuple(scopes)
        self.identity_token = ""
        if self._credentials.registry_token:
            self._header, self._expires = f"Bearer {self._credentials.registry_token}", float("inf")

    def header(self) -> str:
        """Return what to send with a request, as far as is known; empty for nothing."""
        return self._header if time.monotonic() < self._expires else ""

    async def answer(self, challenges: Sequence[str], refused: str) -> bool:
        """Meet a registry's challenge; False when nothing new can be sent.

        Args:
            challenges: the WWW-Authenticate headers.
            refused: the header that was sent.

        Raises:
            RegistryError: no credentials, or the token service refused.
        """
        parsed = parse_challenges(challenges)
        bearer = next((item for item in parsed if item.scheme == "bearer"), None)
        async with self._lock:
            if self.header() not in ("", refused):
                return True  # another request got it meanwhile
            if bearer is not None and not self._credentials.registry_token:
                if refused.startswith("Bearer ") and bearer.parameters.get("error") == "insufficient_scope":
                    return False
                header = f"Bearer {await self._token(bearer)}"
            elif any(item.scheme == "basic" for item in parsed):
                if not self._credentials.has_password:
                    raise RegistryError(NO_BASIC, code="UNAUTHORIZED", status=401)
                header, self._expires = self._credentials.basic(), float("inf")
            else:
                return False
            self._header = header
            return header != refused

    async def _token(self, challenge: Challenge) -> str:
        realm, service = challenge.parameters.get("realm", ""), challenge.parameters.get("service", "")
        self._check_realm(realm)
        scopes = list(self.scopes)
        asked = challenge.parameters.get("scope", "")
        scopes.extend(scope for scope in asked.split(" ") if scope and scope not in scopes and not self.scopes)
        if self._credentials.identity_token:
            body = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT,
                "refresh_token": self._credentials.identity_token,
                "scope": " ".join(scopes),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return await self._fetch("POST", realm, headers, urlencode(body).encode())
        query = [("scope", scope) for scope in scopes]
        if service:
            query.append(("service", service))
        headers = {}
        if self._credentials.has_password:
            query.append(("account", self._credentials.username))
            headers["Authorization"] = self._credentials.basic()
        if self._offline:
            query.extend((("offline_token", "true"), ("client_id", CLIENT)))
        joint = "&" if "?" in realm else "?"
        return await self._fetch("GET", realm + joint + urlencode(query), headers, None)

    def _check_realm(self, realm: str) -> None:
        try:
            parts = urlsplit(realm)
            host = parts.hostname or ""
            valid = parts.scheme in ("http", "https") and bool(host) and parts.username is None
        except ValueError:
            valid = False
        if not valid:
            raise RegistryError(f"registry named a bad token service: {realm[:100]!r}")
        if parts.scheme != "https" and not (is_loopback(host) or self._endpoint.insecure):
            raise RegistryError(f'refusing to send credentials without TLS: "{without_query(realm)[:200]}"')

    async def _fetch(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> str:
        response = await self._http.send(method, url, headers, data=body)
        try:
            data = await read_limited(response, _TOKEN_LIMIT)
        finally:
            response.release()
        if response.status >= 400:
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            raise refusal(response.status, data[:BODY_LIMIT], challenges)
        try:
            fields = Fields(parse_object(data, limit=_TOKEN_LIMIT, what="token"), "token")
            token = fields.text("token") or fields.text("access_token")
            seconds = fields.integer("expires_in") if fields.has("expires_in") else 0
            self.identity_token = fields.text("refresh_token") or self.identity_token
        except InvalidParameterError as error:
            raise RegistryError(f"unable to decode token response: {error}") from None
        if response.status != 200 or not token or not token.isprintable():
            raise RegistryError("authorization server did not include a token in the response")
        self._expires = time.monotonic() + max(_TOKEN_SECONDS, min(float(seconds), 3600.0)) * 0.9
        return token


async def read_limited(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return an answer's body.

    Raises:
        RegistryError: longer than ``limit`` bytes, or cut short.
    """
    data = bytearray()
    try:
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > limit:
                raise RegistryError(f"registry's answer is larger than {limit} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise RegistryError(f"unexpected EOF: {error}", retry=True) from None
    return bytes(data)
