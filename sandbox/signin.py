"""
What a person goes through: sign in, approve, consent; and the way back to the app.

The answers are values (``ShowPage``, ``GoBack``); ``entra.py`` turns them into HTTP.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox.entra_errors import EntraError
from sandbox.grants import CodeRequest
from sandbox.pages import approval_page, consent_page, sign_in_page
from sandbox.scopes import DEFAULT, ScopeRequest, name_of, parse_scope
from sandbox.token_endpoint import expand_default

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.apps import AppRegistration
    from sandbox.directory import Directory, User
    from sandbox.world import World

TRANSACTION_SECONDS = 900.0
_SHOWN_ACCOUNTS = 5


@dataclass(frozen=True, slots=True)
class ShowPage:
    """Show HTML."""

    html: str


@dataclass(frozen=True, slots=True)
class GoBack:
    """
    Send the browser back to the app.

    Attributes:
        redirect_uri: Where to; it was checked.
        fields: What to tell the app.
        response_mode: ``query`` or ``form_post``.
    """

    redirect_uri: str
    fields: dict[str, str]
    response_mode: str = "query"


Step = ShowPage | GoBack


@dataclass(slots=True)
class Transaction:
    """One authorization request on its way through the pages."""

    app: AppRegistration
    directory: Directory | None
    redirect_uri: str
    scope: ScopeRequest
    state: str
    response_mode: str
    began_at: float
    prompt: str = ""
    nonce: str = ""
    challenge: str = ""
    challenge_method: str = ""
    admin_consent: bool = False
    user: User | None = None
    approved: bool = False
    permissions: tuple[str, ...] = field(default=())

    def back(self, fields: Mapping[str, str]) -> GoBack:
        """Answer the app, with the state it gave."""
        state = {"state": self.state} if self.state else {}
        return GoBack(self.redirect_uri, {**fields, **state}, self.response_mode)

    def refused(self, error: EntraError, *, subcode: str = "") -> GoBack:
        """Tell the app that it does not get a code."""
        fields = {
            "error": error.refusal.error,
            "error_description": str(error),
            "error_uri": f"https://login.microsoftonline.com/error?code={error.refusal.code}",
        }
        return self.back(fields | ({"error_subcode": subcode} if subcode else {}))


class SignIn:
    """Leads people through the pages."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[str, Transaction] = {}

    def begin(self, tenant: str, asked: Mapping[str, str]) -> Step:
        """
        Take an authorization request.

        Args:
            tenant: The path's first part.
            asked: Parameters of the query or, where it was posted, of the body.

        Raises:
            EntraError: It cannot be answered to the app: unknown tenant, app or redirect URI.
        """
        transaction = self._checked(tenant, asked)
        transaction.prompt = asked.get("prompt", "")
        transaction.nonce = asked.get("nonce", "")
        transaction.challenge = asked.get("code_challenge", "")
        transaction.challenge_method = asked.get("code_challenge_method", "plain")
        try:
            _check(transaction, asked)
        except EntraError as error:
            return transaction.refused(error)
        return self._sign_in(tenant, transaction, account=asked.get("login_hint", ""))

    def begin_admin_consent(self, tenant: str, asked: Mapping[str, str]) -> Step:
        """
        Take a request for an administrator's consent.

        Args:
            tenant: The path's first part; a tenant or ``organizations``, never ``common``.
            asked: Parameters of the query.

        Raises:
            EntraError: It cannot be answered to the app.
        """
        if tenant in {"common", "consumers"}:
            raise EntraError(9001023, "Use the tenant id or organizations.")
        transaction = self._checked(tenant, asked)
        transaction.admin_consent = True
        try:
            transaction.scope = parse_scope(asked.get("scope", ""))
            transaction.permissions = _for_admin(transaction)
        except EntraError as error:
            return transaction.refused(error)
        return self._sign_in(tenant, transaction, account="")

    def proceed(self, tenant: str, posted: Mapping[str, str]) -> Step:
        """
        Take a form that a person sent, whichever page it is from.

        Args:
            tenant: The path's first part.
            posted: The form.

        Raises:
            EntraError: The form belongs to no open request.
        """
        key = posted.get("transaction", "")
        transaction = self._open.get(key)
        if transaction is None or self._is_stale(transaction):
            raise EntraError(90100, "The sign-in took too long or was ended; start again.")
        if transaction.user is None:
            try:
                transaction.user = self._signed_in(transaction, posted)
            except EntraError as error:
                account = posted.get("account", "")
                return self._ask_password(tenant, key, account=account, error=str(error))
        user = transaction.user
        if user.mfa and not transaction.approved:
            if posted.get("approved") != "yes":
                page = approval_page(action=_action(tenant), transaction=key, account=user.address)
                return ShowPage(page)
            transaction.approved = True
        try:
            step = self._decide(tenant, key, transaction, user, posted.get("decision", ""))
        except EntraError as error:
            step = transaction.refused(error)
        if isinstance(step, GoBack):
            del self._open[key]
        return step

    def _checked(self, tenant: str, asked: Mapping[str, str]) -> Transaction:
        directory = self._world.resolve_tenant(tenant)
        client_id = asked.get("client_id", "").lower()
        if not client_id:
            raise EntraError(900144, "The parameter is client_id.")
        app = self._world.app_at(client_id, directory)
        redirect_uri = asked.get("redirect_uri", "")
        if not redirect_uri:
            if len(app.redirect_uris) != 1:
                raise EntraError(900971)
            redirect_uri = app.redirect_uris[0]
        if not app.knows_redirect(redirect_uri):
            raise EntraError(50011, f"It is {redirect_uri}, for application {app.client_id}.")
        return Transaction(
            app=app,
            directory=directory,
            redirect_uri=redirect_uri,
            scope=ScopeRequest(frozenset(), (), ""),
            state=asked.get("state", ""),
            response_mode=asked.get("response_mode", "query") or "query",
            began_at=self._world.clock(),
        )

    def _sign_in(self, tenant: str, transaction: Transaction, *, account: str) -> ShowPage:
        for key in [key for key, held in self._open.items() if self._is_stale(held)]:
            del self._open[key]
        key = secrets.token_urlsafe(24)
        self._open[key] = transaction
        return self._ask_password(tenant, key, account=account)

    def _is_stale(self, transaction: Transaction) -> bool:
        return self._world.clock() - transaction.began_at > TRANSACTION_SECONDS

    def _ask_password(self, tenant: str, key: str, *, account: str, error: str = "") -> ShowPage:
        transaction = self._open[key]
        directory = transaction.directory
        users = list(directory.users.values()) if directory else []
        page = sign_in_page(
            action=_action(tenant),
            transaction=key,
            app_name=transaction.app.name,
            account=account,
            error=error,
            accounts=[(user.address, user.password) for user in users[:_SHOWN_ACCOUNTS]],
        )
        return ShowPage(page)

    def _signed_in(self, transaction: Transaction, posted: Mapping[str, str]) -> User:
        account = posted.get("account", "").strip()
        directory = transaction.directory
        home = self._world.home_of(account)
        if directory is None:
            directory = home
        if home is None or directory is None:
            raise EntraError(50034)
        if home is not directory:
            raise EntraError(50020, f"The directory is {directory.display_name}.")
        user = directory.user(account)
        if user is None:
            raise EntraError(50034)
        given, right = posted.get("password", ""), user.password
        if not secrets.compare_digest(given.encode(), right.encode()):
            raise EntraError(50126)
        if not user.enabled:
            raise EntraError(50057)
        # From here on the request is about the account's own tenant, whatever endpoint it came by.
        self._world.app_at(transaction.app.client_id, directory)
        transaction.directory = directory
        return user

    def _decide(
        self, tenant: str, key: str, transaction: Transaction, user: User, decision: str
    ) -> Step:
        if decision == "cancel":
            return transaction.refused(EntraError(65004), subcode="cancel")
        if transaction.admin_consent:
            if not user.admin:
                raise EntraError(90094, "The account is no administrator.")
            if decision == "accept":
                return self._admin_consented(transaction)
            return self._ask_consent(tenant, key, transaction, user)
        directory = transaction.directory
        assert directory is not None
        presence = directory.enterprise_apps.get(transaction.app.client_id)
        if presence is not None and not presence.enabled:
            raise EntraError(7000112)
        covered = presence is not None and presence.covers(user.object_id, transaction.permissions)
        if not covered and not (directory.user_consent_allowed or user.admin):
            raise EntraError(90094)
        if decision == "accept":
            presence = directory.admit(transaction.app.client_id)
            presence.consent(transaction.permissions, object_id=user.object_id)
        elif not covered or transaction.prompt == "consent":
            return self._ask_consent(tenant, key, transaction, user)
        return self._give_code(transaction, directory, user)

    def _ask_consent(self, tenant: str, key: str, transaction: Transaction, user: User) -> ShowPage:
        directory = transaction.directory
        whole = directory.display_name if directory and transaction.admin_consent else ""
        page = consent_page(
            action=_action(tenant),
            transaction=key,
            app_name=transaction.app.name,
            account=user.address,
            permissions=(*transaction.permissions, *sorted(transaction.scope.oidc)),
            for_tenant=whole,
        )
        return ShowPage(page)

    def _give_code(self, transaction: Transaction, directory: Directory, user: User) -> GoBack:
        code = self._world.grants.issue_code(
            CodeRequest(
                tenant_id=directory.tenant_id,
                client_id=transaction.app.client_id,
                object_id=user.object_id,
                redirect_uri=transaction.redirect_uri,
                oidc=transaction.scope.oidc,
                permissions=transaction.permissions,
                nonce=transaction.nonce,
                challenge=transaction.challenge,
                challenge_method=transaction.challenge_method,
            )
        )
        return transaction.back({"code": code, "session_state": secrets.token_hex(16)})

    def _admin_consented(self, transaction: Transaction) -> GoBack:
        directory, app = transaction.directory, transaction.app
        assert directory is not None
        presence = directory.admit(app.client_id)
        roles = {permission for permission in transaction.permissions if permission in app.roles}
        presence.consent(set(transaction.permissions) - roles)
        presence.roles |= roles
        return transaction.back(
            {
                "admin_consent": "True",
                "tenant": directory.tenant_id,
                "scope": " ".join(transaction.permissions),
            }
        )


def _check(transaction: Transaction, asked: Mapping[str, str]) -> None:
    """
    Demand what a good authorization request has, and note its scope.

    Raises:
        EntraError: Something is missing or wrong; the app is told.
    """
    if transaction.response_mode not in {"query", "form_post"}:
        transaction.response_mode = "query"
        raise EntraError(90100, "response_mode must be query or form_post.")
    if asked.get("response_type") != "code":
        raise EntraError(90100, "response_type must be code.")
    if transaction.challenge and transaction.challenge_method not in {"S256", "plain"}:
        raise EntraError(90100, "code_challenge_method must be S256 or plain.")
    if transaction.challenge and not 43 <= len(transaction.challenge) <= 128:  # noqa: PLR2004 - RFC 7636
        raise EntraError(50147)
    transaction.scope = parse_scope(asked.get("scope", ""))
    transaction.permissions = expand_default(transaction.scope, transaction.app)
    if not transaction.permissions and not transaction.scope.oidc:
        raise EntraError(900144, "The parameter is scope.")
    if transaction.prompt == "none":
        # The sandbox keeps nobody signed in.
        raise EntraError(50058)


def _action(tenant: str) -> str:
    return f"/{tenant}/login"


def _for_admin(transaction: Transaction) -> tuple[str, ...]:
    """Expand what an administrator is asked for; app permissions come with /.default only."""
    app, scope = transaction.app, transaction.scope
    if not scope.permissions:
        raise EntraError(900144, "The parameter is scope.")
    found: list[str] = []
    for permission in scope.permissions:
        if name_of(permission) != DEFAULT:
            found.append(permission)
            continue
        resource = permission.rpartition("/")[0]
        listed = sorted(p for p in app.permissions | app.roles if p.startswith(f"{resource}/"))
        if not listed:
            raise EntraError(650056, f"The resource is {resource}.")
        found.extend(listed)
    return tuple(dict.fromkeys(found))
