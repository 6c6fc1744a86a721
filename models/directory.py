"""
The directory: who sends, for whom, under which app and which grant.

One door to what stands, one idea each, in ``app_registrations``, ``tenants``, ``mailboxes``,
``grants``, ``senders`` and ``routes``. Everything that enters is checked there by
``directory_rules``.
"""

from __future__ import annotations

from models.app_registrations import (
    App,
    Credential,
    Given,
    OpenedApp,
    add_app,
    app,
    give_credential,
    list_apps,
    open_app,
    remove_app,
    renew_credential,
    retire_credential,
)
from models.grants import (
    APP_ONLY,
    DELEGATED,
    StoredGrant,
    connect_mailbox,
    load_grant,
    open_cache,
    store_grant,
    update_grant,
    withdraw,
)
from models.mailboxes import (
    MailboxChanges,
    MailboxEntry,
    Removal,
    add_mailbox,
    edit_mailbox,
    list_mailboxes,
    mailbox,
    remove_mailbox,
    set_default,
)
from models.routes import Route, Routes, find_route, route, routes
from models.senders import Sender, sender, senders
from models.tenants import (
    TenantChanges,
    TenantEntry,
    TenantOptions,
    add_tenant,
    edit_tenant,
    list_tenants,
    remove_tenant,
    tenant,
)

__all__ = [
    "APP_ONLY", "DELEGATED", "App", "Credential", "Given", "MailboxChanges", "MailboxEntry",
    "OpenedApp", "Removal", "Route", "Routes", "Sender", "StoredGrant", "TenantChanges",
    "TenantEntry", "TenantOptions", "add_app", "add_mailbox", "add_tenant", "app",
    "connect_mailbox", "edit_mailbox", "edit_tenant", "find_route", "give_credential", "list_apps",
    "list_mailboxes", "list_tenants", "load_grant", "mailbox", "open_app", "open_cache",
    "remove_app", "remove_mailbox", "remove_tenant", "renew_credential", "retire_credential",
    "route", "routes", "sender", "senders", "set_default", "store_grant", "tenant", "update_grant",
    "withdraw",
]  # fmt: skip
