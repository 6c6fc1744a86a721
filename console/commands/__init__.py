"""
The verbs, a file for each group.

They are loaded by name: all of them together take two seconds, of which most commands need a
third. So ``--help`` and completion have to know what each is for without loading it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where a verb or a group of verbs stands.

    Attributes:
        module: Its file, in this folder.
        attribute: Its name there.
        summary: What the first paragraph of its help says; a test compares the two.
    """

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "status": Place(
        "status", "status",
        "Show who can send, what waits and why, what died, what ends soon, and whether workers "
        "live.",
    ),
    "tenants": Place("tenants", "app", "Customer organisations."),
    "mailboxes": Place("mailboxes", "app", "Sender accounts."),
    "apps": Place("apps", "app", "App registrations that several tenants share."),
    "expiries": Place(
        "expiries", "expiries",
        "List client secrets, certificates and grants that end soon, with who needs them.",
    ),
    "warnings": Place(
        "warnings", "warnings",
        "List what the operator was warned of by mail: when, to whom, by which mail.",
    ),
    "deliveries": Place("deliveries", "app", "What became of alerts, one by one."),
    "dead": Place("dead", "app", "What did not go out, and what to do with it."),
    "suppressions": Place("suppressions", "app", "Addresses that are not used again."),
    "audit": Place("audit", "app", "Who did what, when and why."),
    "init": Place(
        "db", "init",
        "Make an installation in the data directory: its key and its database. Harmless where "
        "one is.",
    ),
    "db": Place("db", "app", "The database's tables."),
    "keys": Place("keys", "app", "The keys that encrypt at rest."),
    "demo": Place(
        "demo", "demo",
        "Mail 459 real alerts for twelve tenants while Microsoft 365 has a bad day.",
    ),
    "up": Place(
        "service", "up",
        "Run everything: Redis, SQL, workers. Ctrl-C stops it, starting again finds all as it was.",
    ),
    "worker": Place(
        "service", "worker",
        "Run workers only; Redis, and as a rule PostgreSQL, run elsewhere. Start as many as "
        "needed.",
    ),
    "consents": Place("consents", "app", "Consent pages for customers."),
    "sandbox": Place(
        "service", "sandbox", "Run Microsoft 365 in a box, on 127.0.0.1, until Ctrl-C."
    ),
    "send": Place("send", "send", "Send one alert e-mail."),
    "enqueue": Place("enqueue", "enqueue", "Enqueue many alerts from JSON lines."),
    "cancel": Place(
        "deliveries", "cancel",
        "Take deliveries back that wait in their lane: by id, or all that a filter matches.",
    ),
    "report": Place(
        "report", "report",
        "Report what was accepted, waits, died and expired, and how long it took.",
    ),
    "doctor": Place(
        "doctor", "doctor",
        "Look at everything that a mail needs, and say what is wrong and what mends it.",
    ),
}  # fmt: skip
"""In the order of ``--help``."""

LISTINGS = {
    ("tenants", "list"): "tenants_list",
    ("mailboxes", "list"): "mailboxes_list",
    ("mailboxes", "consents"): "consents_list",
    ("apps", "list"): "apps_list",
    ("deliveries", "list"): "deliveries_list",
}
"""Verbs with a file of their own: a listing need not wait for what it does not use."""


def load(name: str, verb: str | None = None) -> typer.Typer | Callable[..., Any]:
    """Load one: a group of verbs, or a verb; of a group no more than the verb needs."""
    place = COMMANDS[name]
    alone = LISTINGS.get((name, verb or ""))
    module = import_module(f"{__name__}.{alone or place.module}")
    found: typer.Typer | Callable[..., Any] = getattr(module, "app" if alone else place.attribute)
    return found
