"""A mailbox' own links: consent, token, slot, AUTH, MAIL FROM, and a mail where one is wanted."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from shlex import quote

import redis.asyncio

from console import dialogue
from console.access_tokens import Access, AccessTokens
from console.borrowed_slot import MustWait, borrowed, redis_client
from console.context import Context
from console.dialogue_lines import Line, untold
from console.doctor import access_meaning as meaning
from console.doctor import app_scope, forms_meaning
from console.doctor.checks import Chain, Finding, skipped
from console.doctor.claims import judge_claims
from console.shared_forms import Tried, has_forms, keep, try_form
from console.token_claims import read_claims
from console.verbs_mailboxes import Account, note
from models.auth_forms import AuthForm
from models.database import write
from models.errors import AlertpostError, SubmissionFailed
from models.stages import Stage
from workers.pacing import PacingUnavailable

_SERVER = ("smtp_dns", "smtp_connect", "smtp_tls", "smtp_features")
_SIGN_IN = ("sign_in_dns", "sign_in_connect", "sign_in_tls", "discovery")


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What somebody wants besides the checks that change nothing.

    Attributes:
        actor: Who asked for it, for the audit trail.
        to: Who gets a test mail; None: none is sent.
        out_of_scope: A mailbox that an app-only grant should not reach; None: not looked at.
        fresh: Entra is asked for a new token, though one is good.
    """

    actor: str
    to: str | None = None
    out_of_scope: str | None = None
    fresh: bool = False


async def examine(context: Context, who: Account, chain: Chain, *, wish: Wish) -> None:
    """
    Look at a mailbox.

    Args:
        context: Open resources.
        who: The mailbox.
        chain: Where findings go; it knows what was found of the tenant before.
        wish: What is wanted besides.
    """
    async with redis_client(context) as client:
        tokens = AccessTokens(context, who, client)
        try:
            access = None
            if chain.add("grant", meaning.grant(who.entry)):
                access = await _token(
                    chain, who, tokens, shared=client is not None, fresh=wish.fresh
                )
            else:
                chain.skip(("token", "token_claims"), because="grant")
            who = await _submission(
                context, who, chain, client=client, tokens=tokens, access=access, wish=wish
            )
            if wish.out_of_scope is not None:
                chain.add(
                    "app_scope", await _app_scope(context, who, chain, tokens, wish, client=client)
                )
            chain.add("standing", meaning.standing(who.entry))
            if wish.to is not None:
                chain.add("test_mail", await _test_mail(context, who, chain, tokens, wish))
        finally:
            await tokens.close()


async def _token(
    chain: Chain, who: Account, tokens: AccessTokens, *, shared: bool, fresh: bool
) -> Access | None:
    """Get a token as a worker does: the shared one where it is good, else or on wish a new one."""
    away = chain.missing(*_SIGN_IN)
    if away is not None and (fresh or not shared):
        chain.skip(("token", "token_claims"), because=away)
        return None
    try:
        access = await tokens.get()
        if fresh and not access.fresh:
            access = await tokens.get(access.token)
    except AlertpostError as error:
        chain.add("token", meaning.no_token(error, who.entry))
        chain.skip(["token_claims"], because="token")
        return None
    seen = dialogue.origin(access)
    chain.add("token", meaning.token(fresh=access.fresh or tokens.fresh, seen=seen, shared=shared))
    chain.add("token_claims", judge_claims(who.sender, read_claims(access.token)))
    return access


async def _submission(
    context: Context,
    who: Account,
    chain: Chain,
    *,
    client: redis.asyncio.Redis | None,
    tokens: AccessTokens,
    access: Access | None,
    wish: Wish,
) -> Account:
    """Sign in and name the sender, within the mailbox's slots; gives the way to go on."""
    lacking = chain.missing("grant", "token", "token_claims", *_SERVER)
    if lacking is not None or access is None:
        chain.skip(("slot", "smtp_auth", "sender"), because=lacking or "token")
        return who
    try:
        async with borrowed(context, client, who.sender, untold):
            chain.add("slot", meaning.slot(asked=client is not None))
            if has_forms(who.sender):
                who = await _shared(context, who, chain, tokens, access, actor=wish.actor)
            else:
                await _sign_in(context, who, chain, tokens, access)
    except (MustWait, PacingUnavailable) as waiting:
        if not any(check.check == "slot" for check in chain.checks):
            chain.add("slot", meaning.no_slot(str(waiting)))
            chain.skip(("smtp_auth", "sender"), because="slot")
    return who


async def _shared(
    context: Context,
    who: Account,
    chain: Chain,
    tokens: AccessTokens,
    access: Access,
    *,
    actor: str,
) -> Account:
    """Try both ways to sign in for a shared mailbox; then go on the way that is kept."""
    name_sender = who.entry.park_reason not in meaning.parked_over_a_mail()

    async def both() -> list[Tried]:
        return [
            await try_form(context, who.sender, access, form, name_sender=name_sender)
            for form in AuthForm
        ]

    tries = await both()
    if not access.fresh and all(tried.worked is False for tried in tries):
        # It may be the token's fault, and not that of both ways.
        with suppress(AlertpostError):
            access = await tokens.get(access.token)
            tries = await both()
    done = keep(context, who, tries, first=AuthForm.DELEGATE, actor=actor)
    if done.chosen is not None:
        who = replace(who, sender=replace(who.sender, auth_form=done.chosen))
    await _sign_in(context, who, chain, tokens, access)
    chain.add("auth_form", forms_meaning.forms(who, done))
    return who


async def _app_scope(
    context: Context,
    who: Account,
    chain: Chain,
    tokens: AccessTokens,
    wish: Wish,
    *,
    client: redis.asyncio.Redis | None,
) -> Finding:
    lacking = chain.missing("grant", "token", "token_claims", *_SERVER, "slot", "smtp_auth")
    if lacking is not None or wish.out_of_scope is None:
        # Where the app is refused everywhere, a refusal there says nothing.
        return skipped(lacking or "smtp_auth")
    access = await tokens.get()
    return await app_scope.examine(context, who, access, wish.out_of_scope, client=client)


async def _sign_in(
    context: Context, who: Account, chain: Chain, tokens: AccessTokens, access: Access
) -> None:
    told: list[Line] = []
    try:
        session = await dialogue.signed_in(context, who.sender, tokens, told.append, access=access)
    except SubmissionFailed as failure:
        chain.add("smtp_auth", meaning.not_signed_in(failure, who, fresh=tokens.fresh))
        chain.skip(["sender"], because="smtp_auth")
        return
    except AlertpostError as error:
        # The token was refused, and there is no other.
        chain.add("smtp_auth", meaning.no_token(error, who.entry))
        chain.skip(["sender"], because="smtp_auth")
        return
    tries = [line for line in told if line.stage == Stage.AUTH]
    try:
        chain.add("smtp_auth", meaning.signed_in(who, tokens=len(tries), reply=tries[-1].received))
        if who.entry.park_reason in meaning.parked_over_a_mail():
            chain.add("sender", meaning.sender_left_alone(who.entry))
            return
        try:
            reply = await session.offer_sender(who.sender.address)
        except SubmissionFailed as failure:
            chain.add("sender", meaning.sender_refused(failure, who))
        else:
            chain.add("sender", meaning.sender_taken(who, f"{reply.code} {reply.text}"))
    finally:
        await session.leave()


async def _test_mail(
    context: Context, who: Account, chain: Chain, tokens: AccessTokens, wish: Wish
) -> Finding:
    lacking = chain.missing("grant", "token", "token_claims", *_SERVER, "slot", "smtp_auth")
    tried = next((check for check in chain.checks if check.check == "sender"), None)
    if lacking is None and tried is not None and tried.because != "standing":
        lacking = chain.missing("sender")
    if lacking is not None or wish.to is None:
        # A mail that is known to fail would only add to what Exchange counts against it.
        return skipped(lacking or "limits")
    command = f"alertpost doctor {quote(who.sender.address)} --to {quote(wish.to)}"
    alert = dialogue.alert_for_test(who.sender, wish.to, command=command)
    try:
        ending = await dialogue.send_test(context, who, alert, tell=untold, tokens=tokens)
    except (MustWait, PacingUnavailable) as waiting:
        return meaning.no_slot(str(waiting))
    with write(context.engine) as conn:
        rule = ending.verdict.rule if ending.verdict else "accepted"
        note(conn, wish.actor, "mailbox-test", who.entry.address, rule=rule)
    return meaning.mail_sent(ending, who, wish.to)
