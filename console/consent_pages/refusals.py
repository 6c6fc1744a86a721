"""What is in the way, to the customer who reads it; operators have other words. Pure."""

from __future__ import annotations

from workers.reasons import meaning_of
from workers.verdict import Remedy, Verdict

_OURS = {
    "wrong_tenant": "You signed in with an account of another organisation, or a personal one. "
    "Sign in as {user} (a private window helps).",
    "invalid_tenant": "The sign-in service does not know your organisation as we ask for it. This "
    "is not your fault: tell {whom}.",
    "no_refresh_token": "The permission would have ended within the hour, because the app is not "
    "set up for more. This is not your fault: tell {whom}.",
}
_AGAIN = (
    "What came back does not belong to this sign-in. Try again; if it happens again, tell {whom}."
)


def of_verdict(verdict: Verdict, *, whom: str) -> str:
    """
    Say in a customer's words what a refusal of Microsoft's means, and what to do.

    Args:
        verdict: What the refusal was taken for.
        whom: Whom to ask.
    """
    if verdict.rule == "consent-declined":
        return f"You pressed Cancel. Try again, or ask {whom}."
    match verdict.remedy:
        case Remedy.ADMIN_CONSENT:
            return "An administrator of your organisation has to approve the app first."
        case Remedy.ADMIN_SETTING:
            return (
                "A setting of your organisation does not allow this sign-in. Show this page to "
                f"your administrator, or ask {whom}."
            )
        case Remedy.SIGN_IN_AGAIN:
            return f"Microsoft asks for a new sign-in. Try again, or ask {whom}."
        case Remedy.WAIT:
            return "Microsoft cannot answer at this moment. Try again in some minutes."
        case _:
            return f"This is not your fault: something has to be set right first. Ask {whom}."


def of_check(error: str, *, words: str, user: str, whom: str) -> str:
    """
    Say in a customer's words why one of our own checks refused a sign-in.

    Args:
        error: The check's name.
        words: What it says of two accounts, which customers need as much as operators.
        user: Who has to sign in.
        whom: Whom to ask.
    """
    if error == "wrong_account":
        return words
    return _OURS.get(error, _AGAIN).format(user=user, whom=whom)


def still_held(reason: str, *, whom: str) -> str:
    """
    Say that alerts wait for something else than the sign-in that has just succeeded.

    Args:
        reason: The rule under which they wait.
        whom: Who sees it too.
    """
    meaning = meaning_of(reason)
    if meaning is not None and meaning.remedy is Remedy.ADMIN_SETTING:
        return (
            "A setting of your organisation’s Microsoft 365 still holds them back. Tell your "
            f"administrator that {whom} knows which one it is."
        )
    return f"They are still held back for another reason. You need not do anything: {whom} sees it."
