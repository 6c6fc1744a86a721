"""The verbs, a file for each group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from console.commands import apps, audit, db, dead, deliveries, keys, mailboxes, tenants
from console.commands.deliveries import cancel
from console.commands.demo import demo
from console.commands.enqueue import enqueue
from console.commands.report import report
from console.commands.send import send
from console.commands.service import sandbox, up, worker

GROUPS: dict[str, typer.Typer] = {
    "tenants": tenants.app,
    "mailboxes": mailboxes.app,
    "apps": apps.app,
    "deliveries": deliveries.app,
    "dead": dead.app,
    "audit": audit.app,
    "db": db.app,
    "keys": keys.app,
}
VERBS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "up": up,
    "worker": worker,
    "sandbox": sandbox,
    "send": send,
    "enqueue": enqueue,
    "cancel": cancel,
    "report": report,
}
