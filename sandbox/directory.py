"""A customer's Entra directory: people, and the apps that it lets in."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox.entra_errors import EntraError
from sandbox.scopes import one_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.apps import AppRegistration

LIFETIME_SECONDS = (3600, 5400)
"""An access token lives between 60 and 90 minutes, drawn by chance."""


@dataclass(slots=True)
class User:
    """
    One account.

    Attributes:
        address: User principal name and mail address in one.
        object_id: GUID, stable over renames.
        password: For the sign-in page.
        display_name: Shown in the ID token.
        enabled: A disabled account can neither sign in nor refresh (50057).
        admin: May consent for the whole tenant.
        mfa: The sign-in page asks for an approval on the phone.
        recalls: How often its access tokens were recalled.
    """

    address: str
    password: str = "sandbox"  # noqa: S105 - a sandbox's default
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    display_name: str = ""
    enabled: bool = True
    admin: bool = False
    mfa: bool = False
    recalls: int = 0


@dataclass(slots=True)
class EnterpriseApp:
    """
    An app's presence in a directory (its service principal) and what it was allowed.

    Attributes:
        client_id: The app registration.
        object_id: GUID of the service principal.
        enabled: Switched off by an administrator, every token request gets 7000112.
        withdrawn: Consent was withdrawn; what it covered is kept, so that it can be restored.
        tenant_permissions: Consented by an administrator for everyone.
        user_permissions: Object id to what this user consented for himself.
        roles: Application permissions granted by an administrator.
        mailboxes: Addresses that the app may open when it acts for itself and its token claims the
            role.
        scope: Addresses that a role assignment of RBAC for Applications reaches, ``*`` for all;
            it holds for tokens that do not claim the role.
    """

    client_id: str
    object_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    enabled: bool = True
    withdrawn: bool = False
    tenant_permissions: set[str] = field(default_factory=set)
    user_permissions: dict[str, set[str]] = field(default_factory=dict)
    roles: set[str] = field(default_factory=set)
    mailboxes: set[str] = field(default_factory=set)
    scope: set[str] = field(default_factory=set)

    def covers(self, object_id: str, permissions: Iterable[str]) -> bool:
        """Say whether consent covers what is asked for a user."""
        if self.withdrawn:
            return False
        mine = self.tenant_permissions | self.user_permissions.get(object_id, set())
        return set(map(one_name, permissions)) <= set(map(one_name, mine))

    def reaches(self, address: str, *, claimed: bool) -> bool:
        """
        Say whether the app, acting for itself, may submit as a mailbox.

        Args:
            address: The mailbox.
            claimed: Its token has the role ``SMTP.SendAsApp``: then the mailbox permissions decide,
                else the scope of the role assignment.
        """
        if claimed:
            return address.casefold() in self.mailboxes
        return bool({address.casefold(), "*"} & self.scope)

    def consent(self, permissions: Iterable[str], *, object_id: str = "") -> None:
        """
        Record a consent.

        Args:
            permissions: With their resource.
            object_id: The user who consents for himself; empty for the whole tenant.
        """
        if self.withdrawn:
            # Consent given anew is given for what is asked now, not for what was once withdrawn.
            self.tenant_permissions.clear()
            self.user_permissions.clear()
            self.roles.clear()
            self.withdrawn = False
        if object_id:
            self.user_permissions.setdefault(object_id, set()).update(permissions)
        else:
            self.tenant_permissions.update(permissions)


@dataclass(slots=True)
class Directory:
    """
    One tenant.

    Attributes:
        tenant_id: GUID.
        slug: Short name in the sandbox.
        display_name: Shown on the pages.
        domains: Verified domains.
        users: Address, lower case, to account.
        enterprise_apps: Client id to presence.
        access_token_seconds: Least and most lifetime of an access token.
        strict_rotation: A refresh token presented twice revokes its grant; Entra does not do that.
        user_consent_allowed: Users may consent for themselves; else 90094.
    """

    tenant_id: str
    slug: str
    display_name: str
    domains: tuple[str, ...]
    users: dict[str, User] = field(default_factory=dict)
    enterprise_apps: dict[str, EnterpriseApp] = field(default_factory=dict)
    access_token_seconds: tuple[int, int] = LIFETIME_SECONDS
    strict_rotation: bool = False
    user_consent_allowed: bool = True

    def add_user(self, user: User) -> User:
        """Add an account."""
        self.users[user.address.casefold()] = user
        return user

    def user(self, address: str) -> User | None:
        """Find an account by its address."""
        return self.users.get(address.casefold())

    def user_by_id(self, object_id: str) -> User | None:
        """Find an account by its object id."""
        return next((user for user in self.users.values() if user.object_id == object_id), None)

    def admit(self, client_id: str) -> EnterpriseApp:
        """Give an app's presence, made if there is none."""
        return self.enterprise_apps.setdefault(client_id, EnterpriseApp(client_id))

    def require_app(self, app: AppRegistration) -> EnterpriseApp:
        """
        Give an app's presence.

        Raises:
            EntraError: 700016 if it is not there, 7000112 if it is switched off.
        """
        presence = self.enterprise_apps.get(app.client_id)
        if presence is None:
            raise EntraError(700016, f"Application {app.client_id}, directory {self.display_name}.")
        if not presence.enabled:
            raise EntraError(7000112)
        return presence

    def require_user(self, object_id: str) -> User:
        """
        Give an account that may get tokens.

        Raises:
            EntraError: 50034 if it is gone, 50057 if it is disabled.
        """
        user = self.user_by_id(object_id)
        if user is None:
            raise EntraError(50034)
        if not user.enabled:
            raise EntraError(50057)
        return user

    def as_json(self) -> dict[str, object]:
        """Give the directory as an object for JSON; passwords included, since it is a sandbox."""
        return {
            "tenant_id": self.tenant_id,
            "slug": self.slug,
            "display_name": self.display_name,
            "domains": list(self.domains),
            "access_token_seconds": list(self.access_token_seconds),
            "strict_rotation": self.strict_rotation,
            "user_consent_allowed": self.user_consent_allowed,
            "users": [
                {
                    "address": user.address,
                    "object_id": user.object_id,
                    "password": user.password,
                    "enabled": user.enabled,
                    "admin": user.admin,
                    "mfa": user.mfa,
                }
                for user in self.users.values()
            ],
            "apps": [
                {
                    "client_id": presence.client_id,
                    "object_id": presence.object_id,
                    "enabled": presence.enabled,
                    "withdrawn": presence.withdrawn,
                    "tenant_permissions": sorted(presence.tenant_permissions),
                    "user_permissions": {
                        object_id: sorted(permissions)
                        for object_id, permissions in presence.user_permissions.items()
                    },
                    "roles": sorted(presence.roles),
                    "mailboxes": sorted(presence.mailboxes),
                    "scope": sorted(presence.scope),
                }
                for presence in self.enterprise_apps.values()
            ],
        }
