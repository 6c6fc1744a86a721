"""
The whole state of the sandbox: directories, apps, grants, mailboxes, faults and books.

Everything that HTTP and SMTP do is done to a ``World``; tests may do it directly.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandbox.entra_errors import EntraError
from sandbox.entra_faults import EntraFaults
from sandbox.faults import FaultPlan
from sandbox.grants import CodeRequest, GrantStore
from sandbox.ledger import TokenLedger
from sandbox.mailboxes import MailboxStore
from sandbox.tokens import (
    APP_ONLY_SMTP,
    DELEGATED_SMTP,
    Claims,
    TokenChecker,
    TokenSigner,
    TokenVerdict,
    access_claims,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.apps import AppRegistration
    from sandbox.directory import Directory, User
    from sandbox.mailboxes import Limits

SMTP_PERMISSION = f"https://outlook.office.com/{DELEGATED_SMTP}"
_SHARED_ENDPOINTS = frozenset({"common", "organizations", "consumers"})


class World:
    """
    State and its rules.

    Attributes:
        directories: Tenant id to directory.
        apps: Client id to app registration.
        grants: Codes and refresh tokens.
        mailboxes: Exchange's side of the accounts.
        signer: Signs tokens.
        ledger: Counts token requests.
        entra_faults: Misbehaviour of Entra in force.
        exchange_faults: Misbehaviour of Exchange in force.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        signer: TokenSigner | None = None,
        limits: Limits | None = None,
        mailboxes: MailboxStore | None = None,
    ) -> None:
        """
        Make an empty world.

        Args:
            clock: Gives seconds since the epoch.
            signer: None makes a new key.
            limits: For mailboxes that are given none of their own; None for Microsoft's.
            mailboxes: A store made elsewhere, instead of a new one with ``limits``.
        """
        self._clock = clock
        self._ahead_seconds = 0.0
        self.signer = signer or TokenSigner()
        self.directories: dict[str, Directory] = {}
        self.apps: dict[str, AppRegistration] = {}
        self.grants = GrantStore(self.clock)
        self.mailboxes = mailboxes or MailboxStore(clock=self.clock, limits=limits)
        self.ledger = TokenLedger()
        self.entra_faults = EntraFaults()
        self.exchange_faults = FaultPlan()
        self._domains: dict[str, Directory] = {}
        self._checker = TokenChecker(
            self.signer,
            clock=self.clock,
            policy=self._objection,
            has_full_access=self._has_full_access,
        )

    def clock(self) -> float:
        """Give the sandbox's time, in seconds since the epoch."""
        return self._clock() + self._ahead_seconds

    def advance(self, seconds: float) -> float:
        """Let time jump ahead, so that tokens and secrets age; give how far ahead it is in all."""
        self._ahead_seconds += seconds
        return self._ahead_seconds

    @property
    def ahead_seconds(self) -> float:
        """How far time was let jump ahead."""
        return self._ahead_seconds

    # Directories and apps

    def add_directory(self, directory: Directory) -> Directory:
        """
        Add a tenant.

        Raises:
            ValueError: Its id or one of its domains is taken.
        """
        taken = [domain for domain in directory.domains if domain.casefold() in self._domains]
        if directory.tenant_id in self.directories or taken:
            raise ValueError(f"tenant {directory.slug} exists")
        self.directories[directory.tenant_id] = directory
        self._domains |= {domain.casefold(): directory for domain in directory.domains}
        return directory

    def add_app(self, app: AppRegistration) -> AppRegistration:
        """
        Add an app registration.

        Raises:
            ValueError: Its client id is taken.
        """
        if app.client_id in self.apps:
            raise ValueError(f"app {app.client_id} exists")
        self.apps[app.client_id] = app
        return app

    def directory_named(self, name: str) -> Directory | None:
        """Find a directory by id, domain or slug."""
        folded = name.casefold()
        found = self.directories.get(folded) or self._domains.get(folded)
        return found or next((d for d in self.directories.values() if d.slug == name), None)

    def resolve_tenant(self, name: str) -> Directory | None:
        """
        Find the directory that a URL names; None for the endpoints that serve all tenants.

        Raises:
            EntraError: 90002 if there is none.
        """
        folded = name.casefold()
        if folded in _SHARED_ENDPOINTS:
            return None
        directory = self.directories.get(folded) or self._domains.get(folded)
        if directory is None:
            raise EntraError(90002, f"It was asked for as {name!r}; check the id and the cloud.")
        return directory

    def app_at(self, client_id: str, directory: Directory | None) -> AppRegistration:
        """
        Find an app as an endpoint sees it.

        Args:
            client_id: The app.
            directory: The endpoint's tenant; None for ``common`` and the like.

        Raises:
            EntraError: 700016 if it is not known there, 50194 if it is not for all tenants.
        """
        app = self.apps.get(client_id)
        if app is None:
            raise EntraError(700016, f"Application {client_id}.")
        if not app.multi_tenant:
            if directory is None:
                raise EntraError(50194, f"Application {client_id}.")
            if directory.tenant_id != app.home_tenant_id:
                raise EntraError(700016, f"Application {client_id}.")
        return app

    def home_of(self, address: str) -> Directory | None:
        """Find the directory that an account's domain belongs to."""
        return self._domains.get(address.rpartition("@")[2].casefold())

    def account(self, address: str) -> tuple[Directory, User]:
        """
        Find an account and its directory.

        Raises:
            KeyError: There is none.
        """
        directory = self.home_of(address)
        user = directory.user(address) if directory else None
        if directory is None or user is None:
            raise KeyError(address)
        return directory, user

    # Shortcuts past the pages, for those who need a thousand grants

    def give_grant(
        self,
        address: str,
        client_id: str,
        *,
        permissions: tuple[str, ...] = (SMTP_PERMISSION,),
    ) -> str:
        """
        Do what a person does on the pages: consent, and redeem the code.

        Args:
            address: The account.
            client_id: The app.
            permissions: What is consented to, with the resource.

        Returns:
            The refresh token.

        Raises:
            KeyError: There is no such account.
            EntraError: The app cannot be used in the account's directory.
        """
        directory, user = self.account(address)
        self.app_at(client_id, directory)
        directory.admit(client_id).consent(permissions, object_id=user.object_id)
        grant = self.grants.begin(
            CodeRequest(
                tenant_id=directory.tenant_id,
                client_id=client_id,
                object_id=user.object_id,
                redirect_uri="",
                oidc=frozenset({"openid", "profile", "offline_access"}),
                permissions=permissions,
            )
        )
        return self.grants.issue_refresh_token(grant)

    def access_token(
        self,
        address: str,
        *,
        audience: str = "https://outlook.office.com",
        scopes: tuple[str, ...] = (DELEGATED_SMTP,),
        lifetime_seconds: int = 3600,
        client_id: str = "00000000-0000-0000-0000-000000000000",
    ) -> str:
        """
        Make an access token out of nothing, for tests of the SMTP side.

        Raises:
            KeyError: There is no such account.
        """
        directory, user = self.account(address)
        claims = access_claims(
            issuer=f"https://sandbox.invalid/{directory.tenant_id}/v2.0",
            audience=audience,
            tenant_id=directory.tenant_id,
            client_id=client_id,
            object_id=user.object_id,
            issued_at=self.clock(),
            lifetime_seconds=lifetime_seconds,
            address=user.address,
            scopes=scopes,
            recall=user.recalls,
        )
        return self.signer.sign(claims)

    # What Exchange asks

    def check_token(self, raw_token: str, user: str) -> TokenVerdict:
        """Judge a bearer token at SMTP submission."""
        return self._checker.check_smtp_token(raw_token, user)

    def _objection(self, claims: Claims, user: str) -> str:
        directory = self.directories.get(str(claims.get("tid", "")))
        if directory is None:
            return "the tenant is gone"
        if "upn" in claims:
            account = directory.user(str(claims["upn"]))
            if account is None or account.object_id != claims.get("oid"):
                return "the account is gone"
            recalled = account.recalls > int(claims.get("sandbox_recall", 0))
            return "the token was recalled" if recalled else ""
        presence = directory.enterprise_apps.get(str(claims.get("appid", "")))
        if presence is None:
            return "the app is not in the tenant"
        claimed = APP_ONLY_SMTP in claims.get("roles", ())
        if presence.reaches(user, claimed=claimed):
            return ""
        return "the app has no right to the mailbox" if claimed else f"no role {APP_ONLY_SMTP}"

    def _has_full_access(self, person: str, mailbox: str) -> bool:
        opened = self.mailboxes.get(mailbox)
        return opened is not None and person.lower() in opened.full_access

    # What a person at the tenant does

    def revoke_grants(self, address: str, *, recall_access_tokens: bool) -> int:
        """
        Revoke a user's sessions, as an administrator does.

        Args:
            address: The account.
            recall_access_tokens: Also make Exchange refuse access tokens that were already given
                out; the real one takes them until they expire.

        Returns:
            How many grants were good until now.

        Raises:
            KeyError: There is no such account.
        """
        directory, user = self.account(address)
        if recall_access_tokens:
            user.recalls += 1
        return self.grants.revoke(tenant_id=directory.tenant_id, object_id=user.object_id)

    def clear_books(self) -> None:
        """Forget counts, outboxes, violations, lock-outs and faults; the world itself stays."""
        self.ledger.clear()
        self.entra_faults.clear()
        self.exchange_faults.clear()
        store = self.mailboxes
        for mailbox in store:
            mailbox.outbox.clear()
            mailbox.violations.clear()
            mailbox.unlock()
            mailbox.max_sent_in_window = 0
            mailbox.max_connections = 0
        for counts in (store.violation_counts, store.refusals, store.token_refusals):
            counts.clear()
        store.violations.clear()
        store.shelf.clear()
