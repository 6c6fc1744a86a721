"""What is seen of the two ways to sign in for a shared mailbox, and what it means. Pure."""

from __future__ import annotations

from shlex import quote

from console.doctor.checks import Finding, failed, ok, warning
from console.exchange_powershell import full_access, send_as
from console.shared_forms import FormsTried
from console.verbs_mailboxes import Account
from models.auth_forms import AuthForm
from workers.reply_rules_mail import SEND_AS_DENIED


def forms(who: Account, done: FormsTried) -> Finding:
    """Judge which ways work, and which one is kept."""
    address, user = who.sender.address, who.sender.auth_user
    seen = "; ".join(f"as {tried.user}: {tried.reply}" for tried in done.tries)
    prove = f"`alertpost doctor {quote(address)} --to ADDRESS`"
    if any(tried.worked is None for tried in done.tries):
        return warning(
            seen,
            "Not both ways were answered, so what is kept stays as it was.",
            "run it again in a minute",
        )
    if done.chosen is None:
        return failed(
            seen,
            f"With the token of {user} neither way is open.",
            f"in Exchange Online PowerShell {full_access(address, user)} or "
            f"{send_as(address, user)}; then `alertpost mailboxes "
            f"connect {quote(address)}`, signing in as {user}",
        )
    kept = "is kept from now on" if done.changed else "is kept"
    if done.chosen is AuthForm.MAILBOX:
        resume = ""
        if who.entry.park_reason == SEND_AS_DENIED.rule:
            resume = f" `alertpost mailboxes resume {quote(address)}` lets it send that way."
        return ok(seen, f"Signing in as {address} with the token of {user} {kept}.{resume}")
    return ok(
        seen,
        f"Signing in as {user} {kept}. Whether {user} may send as {address} shows with a mail: "
        f"{prove}.",
    )
