"""What the pages say. Pure: values in, HTML out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from urllib.parse import urlsplit

from console.consent_pages.layout import page
from console.consent_pages.refusals import of_check, of_verdict, still_held
from console.verbs_consents import AdminReturned, Away, Dead, Invitation, Refused
from console.verbs_mailboxes import Connected
from models.consent_links import Standing
from models.lookups import BY_HAND
from models.senders import Sender
from models.settings import ConsentsSettings
from models.sign_ins import Unusable

_NOTHING_CHANGED = "Nothing was changed."
_ALLOWED = (
    "<p class='small'>An administrator has allowed the app for your organisation already: only "
    "this mailbox is left.</p>"
)


@dataclass(frozen=True, slots=True)
class Page:
    """
    An answer.

    Attributes:
        status: Of HTTP.
        html: The whole page.
    """

    status: int
    html: str


class Pages:
    """
    Makes the pages of one service provider.

    Args:
        settings: Its name, and whom to ask.
    """

    def __init__(self, settings: ConsentsSettings) -> None:
        self._who = settings.provider or "Your service provider"
        self._brand = settings.provider
        self._contact = settings.contact

    def invitation(self, asked: Invitation) -> Page:
        """Show who asks for what, with the one button."""
        sender, link = asked.sender, asked.link
        address, user = escape(sender.address), escape(sender.auth_user)
        tenant, where = escape(asked.tenant_name), escape(_host(sender))
        note = f"<blockquote><p>{escape(link.note)}</p></blockquote>" if link.note else ""
        theirs = "Microsoft’s own sign-in page" if sender.authority_url else "the sign-in page"
        body = f"""<p><strong>{escape(self._who)}</strong> asks {tenant} for the permission to send
alert e-mails as <strong>{address}</strong>, from your own Microsoft 365.</p>{note}
<h2>What you allow</h2><ul>{_permissions(sender)}</ul>
<h2>How it goes</h2>
<ol><li>The button leads to {theirs}, <code>{where}</code>; your password is typed there only.</li>
<li>Sign in <strong>as {user}</strong>, not as yourself (a private window helps), and accept.</li>
<li>You come back here and read what became of it.</li></ol>
<form method="post"><button type="submit">Go on to sign in</button></form>
{_ALLOWED if asked.allowed else _admin_offer(asked.admin_address)}
<h2>For your records</h2>
<dl><dt>Mailbox</dt><dd>{address}</dd><dt>Signs in as</dt><dd>{user}</dd>
<dt>Organisation</dt><dd>{tenant}</dd>
<dt>Directory (tenant) ID</dt><dd><code>{escape(sender.directory_id)}</code></dd>
<dt>Application (client) ID</dt><dd><code>{escape(sender.client_id)}</code></dd></dl>
<footer class="small"><p>This link holds until {_moment(link.expires_at)}. You can take the
permission back at any time: Entra admin center → Enterprise applications.</p>
<p>You did not expect this? Close the page: nothing happens unless you press the button and sign
in.{self._ask()}</p></footer>"""
        return self._page(200, f"Allow alert e-mails from {sender.address}", body)

    def connected(self, done: Connected) -> Page:
        """Say that it is done."""
        first = (
            f"<p><strong>{escape(done.address)}</strong> may send alert e-mails now, by the "
            f"consent of {escape(done.account)}. You may close this window.</p>"
        )
        parts = [first]
        if done.resumed:
            parts.append("<p>Alerts that waited for this are on their way.</p>")
        if done.doubt:
            parts.append(
                '<p class="small">The sign-in service did not say whose account it was. If it was '
                f"another one than that of {escape(done.address)}, tell {self._whom()}.</p>"
            )
        parked = done.still_parked
        if parked is not None and parked.park_reason and parked.park_reason != BY_HAND:
            words = still_held(parked.park_reason, whom=self._whom())
            parts.append(f"<h2>Alerts do not go out yet</h2><p>{words}</p>")
        return self._page(200, "Connected", "".join(parts), mood="good")

    def refused(self, refused: Refused) -> Page:
        """Say why it was not connected."""
        # Entra's code and our words for the operator stand in the audit trail.
        words = self._why(refused)
        body = (
            f"<p>{words[:1].upper()}{words[1:].rstrip('.')}.</p>{_admin_offer(refused.admin_address)}"
            f"<p>{_NOTHING_CHANGED} Your link is still good:</p>"
            f'<p><a class="button" href="{escape(refused.again)}">Try again</a></p>'
        )
        return self._page(403, f"{refused.entry.address} is not connected", body, mood="bad")

    def away(self, away: Away) -> Page:
        """Say that the sign-in service does not answer."""
        body = (
            "<p>The sign-in service does not answer at this moment. "
            f"{_NOTHING_CHANGED} Your link is still good; try again in some minutes.</p>"
            f'<p><a class="button" href="{escape(away.again)}">Try again</a></p>'
        )
        return self._page(503, "Not now", body, mood="bad")

    def dead(self, dead: Dead) -> Page:
        """Say why a link is worth nothing."""
        address = escape(dead.entry.address) if dead.entry is not None else "this mailbox"
        match dead.standing:
            case Standing.CONNECTED:
                text = f"Nothing is left to do: {address} was connected already."
                return self._page(410, "This link has served", f"<p>{text}</p>", mood="good")
            case Standing.WITHDRAWN:
                text = f"This link for {address} was replaced by a newer one, or withdrawn."
            case Standing.ENDED:
                text = f"The time of this link for {address} is over."
            case _:
                text = "The mailbox that this link was for is no longer known here."
        body = f"<p>{text}</p><p>Ask {self._whom()} for a new link.</p>"
        return self._page(410, "This link is no longer good", body, mood="bad")

    def unknown_link(self) -> Page:
        """Say that an address is none of ours."""
        body = (
            "<p>This link was not made here. Copy the whole of it from the message that "
            f"brought it: mail programs break long lines. Else ask {self._whom()}.</p>"
        )
        return self._page(404, "Nothing here", body, mood="bad")

    def unusable(self, why: Unusable) -> Page:
        """Say why what came back from a sign-in is worth nothing."""
        text = {
            Unusable.USED: "This sign-in was finished before; each one counts once.",
            Unusable.ENDED: "This sign-in took longer than ten minutes.",
            Unusable.UNKNOWN: "This answer belongs to no sign-in that was begun here.",
        }[why]
        body = (
            f"<p>{text} {_NOTHING_CHANGED}</p><p>Open the link that you were sent once more: it "
            "shows whether the mailbox is connected, and begins a new sign-in if not.</p>"
        )
        status = {Unusable.USED: 409, Unusable.ENDED: 410, Unusable.UNKNOWN: 400}[why]
        return self._page(status, "Not this sign-in", body, mood="bad")

    def admin_returned(self, done: AdminReturned) -> Page:
        """Say what an administrator's consent for the whole directory came to."""
        tenant = escape(done.tenant_name)
        again = (
            f'<p><a class="button" href="{escape(done.again)}">Go on to the mailbox</a></p>'
            if done.again
            else "<p>What is left is the mailbox itself: open the link for it, or ask "
            f"{self._whom()}.</p>"
        )
        if done.refusal:
            # As for the sign-in above: the operator's words are in the audit trail.
            words = (
                "The app was allowed for another organisation. Sign in as an administrator of "
                f"{tenant}."
                if done.verdict is None
                else of_verdict(done.verdict, whom=self._whom())
            )
            body = f"<p>{words}</p><p>{_NOTHING_CHANGED}</p>{again}"
            return self._page(403, "The app is not allowed yet", body, mood="bad")
        body = f"<p>Microsoft says that the app is allowed in the directory of {tenant}.</p>{again}"
        return self._page(200, "The app is allowed", body, mood="good")

    def too_often(self) -> Page:
        """Ask for a minute."""
        body = "<p>This link was used too often within a minute. Wait a minute, then try again.</p>"
        return self._page(429, "One moment", body, mood="bad")

    def trouble(self, status: int) -> Page:
        """Say that it is our fault, and nothing else."""
        body = (
            "<p>Something is wrong on our side, and it was written down. Try again in some "
            f"minutes; if that does not help, tell {self._whom()}.</p>"
        )
        return self._page(status, "Not now", body, mood="bad")

    def wrong_request(self, status: int) -> Page:
        """Turn away what no browser sends."""
        return self._page(status, "Not understood", "<p>This request is not understood.</p>")

    def front(self) -> Page:
        """Answer whoever opens the address without a link."""
        text = f"Open the link that you were sent; without it there is nothing to see.{self._ask()}"
        return self._page(404, "Nothing here", f"<p>{text}</p>")

    def _page(self, status: int, title: str, body: str, *, mood: str = "") -> Page:
        return Page(status, page(title, body, who=self._brand, mood=mood))

    def _why(self, refused: Refused) -> str:
        if refused.verdict is not None:
            return of_verdict(refused.verdict, whom=self._whom())
        user = escape(refused.entry.auth_user or refused.entry.address)
        return of_check(refused.error, words=escape(refused.words), user=user, whom=self._whom())

    def _whom(self) -> str:
        whom = escape(self._brand or "whoever sent it")
        return f"{whom} ({escape(self._contact)})" if self._contact else whom

    def _ask(self) -> str:
        return f" Questions: {escape(self._contact)}." if self._contact else ""


def _permissions(sender: Sender) -> str:
    told = "".join(
        f"<li>{_words(scope, escape(sender.address))} <code>{escape(scope)}</code></li>"
        for scope in sender.scopes
    )
    return told + (
        "<li>This lasts while nobody is signed in, until you take it back. <code>offline_access"
        "</code></li><li>Who signed in is read once, to see that it is the right account. "
        "<code>openid profile</code></li>"
    )


def _words(scope: str, address: str) -> str:
    if scope.rpartition("/")[2] == "SMTP.Send":
        return (
            f"Mail may be sent as {address}, over SMTP. It gives no right to read mail, calendars "
            "or contacts."
        )
    return "This permission:"


def _admin_offer(address: str | None) -> str:
    if address is None:
        return ""
    return (
        "<p class='small'>Does the sign-in page ask for an administrator’s approval? An "
        f'administrator can <a href="{escape(address)}">allow the app for the whole '
        "directory</a> first, and then come back to this link.</p>"
    )


def _host(sender: Sender) -> str:
    return urlsplit(sender.authority_url or sender.oidc_authority or "").netloc


def _moment(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
