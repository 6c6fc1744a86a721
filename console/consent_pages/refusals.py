"""What a refusal means to the customer who reads it; operators have other words. Pure."""

from __future__ import annotations

from workers.verdict import Remedy, Verdict


def for_customers(  # noqa: PLR0911 - one line a kind
    verdict: Verdict | None, words: str, *, whom: str
) -> str:
    """
    Say in a customer's words why nothing came of a sign-in, and what to do.

    Args:
        verdict: What the refusal was taken for; None where one of our own checks refused.
        words: What that check said, which is for people already.
        whom: Whom to ask.
    """
    if verdict is None:
        return words
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
