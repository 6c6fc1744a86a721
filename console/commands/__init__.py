"""
The verbs, a file for each group.

They are loaded by name: all of them together take two seconds, of which most commands need a third.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer

COMMANDS = {
    "status": "status:status",
    "tenants": "tenants:app",
    "mailboxes": "mailboxes:app",
    "apps": "apps:app",
    "expiries": "expiries:expiries",
    "warnings": "warnings:warnings",
    "deliveries": "deliveries:app",
    "dead": "dead:app",
    "suppressions": "suppressions:app",
    "audit": "audit:app",
    "db": "db:app",
    "keys": "keys:app",
    "demo": "demo:demo",
    "up": "service:up",
    "worker": "service:worker",
    "consents": "consents:app",
    "sandbox": "service:sandbox",
    "send": "send:send",
    "enqueue": "enqueue:enqueue",
    "cancel": "deliveries:cancel",
    "report": "report:report",
    "doctor": "doctor:doctor",
}
"""Where each stands, in the order of ``--help``."""


def load(name: str) -> typer.Typer | Callable[..., Any]:
    """Load one: a group of verbs, or a verb."""
    module, _, attribute = COMMANDS[name].partition(":")
    found: typer.Typer | Callable[..., Any] = getattr(
        import_module(f"{__name__}.{module}"), attribute
    )
    return found
