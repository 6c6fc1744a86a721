"""``alertpost suppressions``: addresses that are not used again, because servers refuse them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from console.actor import As, actor
from console.context import opened
from console.options import Limit, Tenant, Why
from console.output import Json, out, print_json, print_table
from models import audit, suppressions
from models.database import read, write

app = typer.Typer(no_args_is_help=True, help="Addresses that are not used again.")

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The recipient.")]


@app.command("list")
def list_(tenant: Tenant = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List the addresses that are suppressed, with the refusal that did it."""
    with opened() as context, read(context.engine) as conn:
        found = suppressions.list_suppressions(conn, tenant_slug=tenant, limit=limit)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    print_table(
        ("Address", "Tenant", "Since", "Refusals", "Reason", "Answer"),
        [
            (one.address, one.tenant, one.suppressed_at, f"{one.refusals:,}", one.rule, one.answer)
            for one in found
        ],
        right=("Refusals",),
        alike=("Tenant",),
        spare=("Refusals", "Tenant"),
        empty="No address is suppressed.",
    )


@app.command("remove")
def remove(address: Address, tenant: Tenant = None, why: Why = None, who: As = None) -> None:
    """Let an address be used again; dead letters to it are replayed apart from that."""
    with opened() as context, write(context.engine) as conn:
        removed = suppressions.remove(conn, address, tenant_slug=tenant)
        for one in removed:
            audit.write(
                conn,
                audit.Entry(
                    actor=actor(who),
                    action="suppression-remove",
                    subject_kind="recipient",
                    subject=one.address,
                    reason=why,
                    detail={"tenant": one.tenant, "rule": one.rule, "refusals": one.refusals},
                ),
            )
    for one in removed:
        out.print(f"{one.address} of tenant {one.tenant} is used again.", markup=False)
    out.print(
        "Mails that died of it: `alertpost dead replay --tenant "
        f"{removed[0].tenant} --reason {suppressions.RECIPIENT_SUPPRESSED}`.",
        markup=False,
        soft_wrap=True,
    )
