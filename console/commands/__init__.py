"""The verbs, a file for each group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from console.commands import apps, audit, dead, deliveries, mailboxes, tenants
from console.commands.deliveries import cancel
from console.commands.demo import demo
from console.commands.enqueue import enqueue
from console.commands.report import report
from console.commands.send import send

GROUPS: dict[str, typer.Typer] = {
    "tenants": tenants.app,
    "mailboxes": mailboxes.app,
    "apps": apps.app,
    "deliveries": deliveries.app,
    "dead": dead.app,
    "audit": audit.app,
}
VERBS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "send": send,
    "enqueue": enqueue,
    "cancel": cancel,
    "report": report,
}
