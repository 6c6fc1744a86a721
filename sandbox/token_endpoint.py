"""What the token endpoint decides, without HTTP around it."""

from __future__ import annotations

import json
import random
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox.client_auth import check_credentials, read_credentials
from sandbox.entra_errors import EntraError
from sandbox.entra_faults import Asked
from sandbox.scopes import (
    DEFAULT,
    ScopeRequest,
    name_of,
    one_name,
    one_resource,
    parse_scope,
    resource_of,
)
from sandbox.tokens import access_claims

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.apps import AppRegistration
    from sandbox.directory import Directory, User
    from sandbox.world import World

Answer = dict[str, object]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """
    A request to the token endpoint.

    Attributes:
        tenant: The path's first part: a GUID, a domain, ``common`` or ``organizations``.
        host_url: Scheme, host and port that the caller used.
        form: The body.
        authorization: The header of that name; empty if there was none.
    """

    tenant: str
    host_url: str
    form: Mapping[str, str]
    authorization: str = ""

    @property
    def grant_type(self) -> str:
        """The grant type asked for."""
        return self.form.get("grant_type", "")


@dataclass(frozen=True, slots=True)
class _Holder:
    """The user a token is made for, where and through which app."""

    directory: Directory
    app: AppRegistration
    user: User


class TokenEndpoint:
    """Answers token requests from a world's state."""

    def __init__(self, world: World) -> None:
        self._world = world

    def asked(self, request: TokenRequest) -> Asked:
        """Tell whom a request is about, changing nothing; what is not known stays empty."""
        try:
            directory = self._world.resolve_tenant(request.tenant)
            client_id = read_credentials(request.form, request.authorization).client_id
        except EntraError:
            directory, client_id = None, ""
        form = request.form
        known = self._world.grants.grant_of(
            form.get("refresh_token", "")
        ) or self._world.grants.code_request(form.get("code", ""))
        if known is not None:
            directory = directory or self._world.directories.get(known.tenant_id)
        user = directory.user_by_id(known.object_id) if directory and known else None
        return Asked(
            tenant_id=directory.tenant_id if directory else "",
            client_id=client_id,
            user=user.address if user else "",
            grant_type=request.grant_type,
        )

    def answer(self, request: TokenRequest) -> Answer:
        """
        Decide a request and change the state accordingly.

        Args:
            request: What was asked.

        Returns:
            The JSON object of a success.

        Raises:
            EntraError: Refused.
        """
        if not request.grant_type:
            raise EntraError(900144, "The parameter is grant_type.")
        directory = self._world.resolve_tenant(request.tenant)
        app = self._authenticated_app(request, directory)
        if request.grant_type == "authorization_code":
            return self._by_code(request, directory, app)
        if request.grant_type == "refresh_token":
            return self._by_refresh_token(request, directory, app)
        if request.grant_type == "client_credentials":
            return self._by_app(request, directory, app)
        raise EntraError(70003, f"It is {request.grant_type}.")

    def _authenticated_app(
        self, request: TokenRequest, directory: Directory | None
    ) -> AppRegistration:
        credentials = read_credentials(request.form, request.authorization)
        app = self._world.app_at(credentials.client_id, directory)
        tenants = {request.tenant} | ({directory.tenant_id} if directory else set())
        audiences = {
            f"{request.host_url}/{tenant}/{path}"
            for tenant in tenants
            for path in ("oauth2/v2.0/token", "v2.0")
        }
        check_credentials(app, credentials, now=self._world.clock(), audiences=audiences)
        return app

    def _by_code(
        self, request: TokenRequest, directory: Directory | None, app: AppRegistration
    ) -> Answer:
        grants = self._world.grants
        agreed = grants.redeem_code(
            _required(request, "code"),
            tenant_id=directory.tenant_id if directory else "",
            client_id=app.client_id,
            redirect_uri=_required(request, "redirect_uri"),
            verifier=request.form.get("code_verifier", ""),
        )
        holder = self._holder(agreed.tenant_id, app, agreed.object_id)
        wanted = self._consented(request, holder, agreed.permissions)
        answer = self._user_token(request, holder, agreed.oidc, wanted, nonce=agreed.nonce)
        if "offline_access" in agreed.oidc:
            answer["refresh_token"] = grants.issue_refresh_token(grants.begin(agreed))
        return answer

    def _by_refresh_token(
        self, request: TokenRequest, directory: Directory | None, app: AppRegistration
    ) -> Answer:
        grants = self._world.grants
        token = _required(request, "refresh_token")
        known = grants.grant_of(token)
        home = directory or (self._world.directories.get(known.tenant_id) if known else None)
        if directory and known and known.tenant_id != directory.tenant_id:
            raise EntraError(50020, f"The directory is {directory.display_name}.")
        # What is wrong with user, app or consent does not use the token up.
        if known is not None and known.client_id == app.client_id and not known.revoked:
            holder = self._holder(known.tenant_id, app, known.object_id)
            self._consented(request, holder, known.permissions)
        grant = grants.redeem_refresh_token(
            token, client_id=app.client_id, strict=home.strict_rotation if home else False
        )
        holder = self._holder(grant.tenant_id, app, grant.object_id)
        wanted = self._consented(request, holder, grant.permissions)
        answer = self._user_token(request, holder, grant.oidc, wanted)
        answer["refresh_token"] = grants.issue_refresh_token(grant)
        return answer

    def _by_app(
        self, request: TokenRequest, directory: Directory | None, app: AppRegistration
    ) -> Answer:
        if directory is None:
            raise EntraError(9001023, "It is client_credentials.")
        scope = parse_scope(_required(request, "scope"))
        one_resource(scope)
        if not scope.permissions or name_of(scope.permissions[0]) != DEFAULT:
            raise EntraError(700023, "It must end in /.default.")
        presence = directory.require_app(app)
        # A registration without consent gets a token without roles, as with Entra.
        granted = set() if presence.withdrawn else presence.roles
        roles = tuple(
            sorted(name_of(role) for role in granted if _same_service(role, scope.resource))
        )
        lifetime = self._lifetime(directory)
        claims = access_claims(
            issuer=f"{request.host_url}/{directory.tenant_id}/v2.0",
            audience=scope.resource,
            tenant_id=directory.tenant_id,
            client_id=app.client_id,
            object_id=presence.object_id,
            issued_at=self._world.clock(),
            lifetime_seconds=lifetime,
            roles=roles,
        )
        return _envelope(self._world.signer.sign(claims), lifetime)

    def _holder(self, tenant_id: str, app: AppRegistration, object_id: str) -> _Holder:
        directory = self._world.directories.get(tenant_id)
        if directory is None:
            raise EntraError(90002)
        user = directory.require_user(object_id)
        directory.require_app(app)
        return _Holder(directory, app, user)

    def _consented(
        self, request: TokenRequest, holder: _Holder, granted: tuple[str, ...]
    ) -> tuple[str, ...]:
        scope = parse_scope(request.form.get("scope", ""))
        one_resource(scope)
        if scope.permissions:
            wanted = expand_default(scope, holder.app)
        else:
            first = resource_of(granted[0]) if granted else ""
            wanted = tuple(permission for permission in granted if resource_of(permission) == first)
        presence = holder.directory.require_app(holder.app)
        if not presence.covers(holder.user.object_id, wanted):
            raise EntraError(65001, f"Application {holder.app.client_id}.")
        return wanted

    def _user_token(
        self,
        request: TokenRequest,
        holder: _Holder,
        oidc: frozenset[str],
        wanted: tuple[str, ...],
        *,
        nonce: str = "",
    ) -> Answer:
        directory, user = holder.directory, holder.user
        presence = directory.require_app(holder.app)
        resource = resource_of(wanted[0]) if wanted else ""
        lifetime = self._lifetime(directory)
        now = self._world.clock()
        issuer = f"{request.host_url}/{directory.tenant_id}/v2.0"
        names = {
            name_of(permission)
            for permission in presence.tenant_permissions
            | presence.user_permissions.get(user.object_id, set())
            if resource_of(one_name(permission)) == resource_of(one_name(f"{resource}/"))
        }
        claims = access_claims(
            issuer=issuer,
            audience=resource or holder.app.client_id,
            tenant_id=directory.tenant_id,
            client_id=holder.app.client_id,
            object_id=user.object_id,
            issued_at=now,
            lifetime_seconds=lifetime,
            address=user.address,
            scopes=tuple(sorted(names)),
            recall=user.recalls,
        )
        self._world.ledger.issued(
            user.address, now=now, ends_at=now + lifetime / 2, recalls=user.recalls
        )
        answer = _envelope(self._world.signer.sign(claims), lifetime)
        answer["scope"] = " ".join((*wanted, *sorted(oidc - {"offline_access"})))
        if "openid" in oidc:
            answer["id_token"] = self._id_token(holder, issuer, now, lifetime, nonce)
        if request.form.get("client_info"):
            ids = {"uid": user.object_id, "utid": directory.tenant_id}
            answer["client_info"] = (
                urlsafe_b64encode(json.dumps(ids).encode()).rstrip(b"=").decode()
            )
        return answer

    def _id_token(self, holder: _Holder, issuer: str, now: float, lifetime: int, nonce: str) -> str:
        moment = int(now)
        claims: Answer = {
            "aud": holder.app.client_id,
            "iss": issuer,
            "iat": moment,
            "nbf": moment,
            "exp": moment + lifetime,
            "tid": holder.directory.tenant_id,
            "oid": holder.user.object_id,
            "sub": holder.user.object_id,
            "preferred_username": holder.user.address,
            "name": holder.user.display_name or holder.user.address,
            "ver": "2.0",
        }
        if nonce:
            claims["nonce"] = nonce
        return self._world.signer.sign(claims)

    def _lifetime(self, directory: Directory) -> int:
        least, most = directory.access_token_seconds
        return random.randint(least, most)  # noqa: S311 - spreads expiry, guards nothing


def expand_default(scope: ScopeRequest, app: AppRegistration) -> tuple[str, ...]:
    """
    Replace ``/.default`` by what the app registration lists for the resource.

    Raises:
        EntraError: 650056 if it lists nothing.
    """
    expanded: list[str] = []
    for permission in scope.permissions:
        if name_of(permission) != DEFAULT:
            expanded.append(permission)
            continue
        listed = [p for p in sorted(app.permissions) if resource_of(p) == resource_of(permission)]
        if not listed:
            raise EntraError(650056, f"The resource is {resource_of(permission)}.")
        expanded.extend(listed)
    return tuple(dict.fromkeys(expanded))


def _envelope(access_token: str, lifetime: int) -> Answer:
    return {
        "token_type": "Bearer",
        "expires_in": lifetime,
        "ext_expires_in": lifetime,
        "refresh_in": lifetime // 2,
        "access_token": access_token,
    }


def _required(request: TokenRequest, name: str) -> str:
    value = request.form.get(name, "")
    if not value:
        raise EntraError(900144, f"The parameter is {name}.")
    return value


def _same_service(role: str, resource: str) -> bool:
    """Exchange has one list of application permissions, by whichever name it is asked for."""
    exchange = {"https://outlook.office.com", "https://outlook.office365.com"}
    return resource_of(role) == resource or {resource_of(role), resource} <= exchange
