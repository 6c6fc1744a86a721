"""Says what goes on, and no more than is known: that it sends shows the next mail only."""

from __future__ import annotations

from collections.abc import Sequence

from console.output import out


def tell_resumed(addresses: Sequence[str], *, proven: bool = False) -> None:
    """
    Say which mailboxes go on.

    Args:
        addresses: Connected mailboxes that were parked; nothing is said where there are none.
        proven: Microsoft has just accepted a mail from them.
    """
    if not addresses:
        return
    named = ", ".join(addresses)
    if proven:
        out.print(f"Sends again: {named}.", markup=False)
        return
    out.print(
        "Resumed; the next mail shows whether the cause is gone. "
        f"{'Mailbox' if len(addresses) == 1 else 'Mailboxes'}: {named}.",
        markup=False,
    )
