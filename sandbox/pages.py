"""The HTML pages that a person sees: sign-in, approval, consent, errors, the way back by POST."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_STYLE = """
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:#eef1f5;color:#1b1f24;
 font:16px/1.5 system-ui,sans-serif}
main{background:#fff;width:min(28rem,94vw);padding:2rem 2.25rem;border-radius:6px;
 box-shadow:0 2px 12px rgba(0,0,0,.14)}
h1{font-size:1.35rem;margin:.25rem 0 1rem}
.brand{color:#57606a;font-size:.85rem;margin:0}
label{display:block;font-size:.9rem;margin-top:.75rem}
input[type=text],input[type=password]{width:100%;padding:.5rem;border:1px solid #8c959f;
 border-radius:4px;font:inherit}
ul{padding-left:1.2rem}
li small,.note{color:#57606a}
.note{font-size:.85rem;border-top:1px solid #d8dee4;margin-top:1.5rem;padding-top:.75rem}
.error{background:#ffebe9;border:1px solid #ff8182;padding:.5rem .75rem;border-radius:4px}
.buttons{display:flex;gap:.75rem;justify-content:flex-end;margin-top:1.5rem}
button{font:inherit;padding:.45rem 1.4rem;border:1px solid #8c959f;border-radius:4px;
 background:#f6f8fa;cursor:pointer}
button.main{background:#0b5cad;border-color:#0b5cad;color:#fff}
code{overflow-wrap:anywhere}
""".strip()

_WORDS = {
    "SMTP.Send": ("Send mail as you over SMTP", "The app can send mail from your mailbox."),
    "SMTP.SendAsApp": ("Send mail over SMTP", "The app can send without a signed-in user."),
    "Mail.Send": ("Send mail as you", "The app can send mail from your mailbox."),
    "offline_access": (
        "Maintain access to data you have given it access to",
        "The app keeps this access while you are away.",
    ),
    "openid": ("Sign you in", "The app learns who you are."),
    "profile": ("View your basic profile", "The app sees your name and address."),
    "email": ("View your email address", "The app sees your address."),
}


def sign_in_page(
    *,
    action: str,
    transaction: str,
    app_name: str,
    account: str = "",
    error: str = "",
    accounts: Sequence[tuple[str, str]] = (),
) -> str:
    """
    Ask for account and password.

    Args:
        action: Where the form goes.
        transaction: Ties the form to the authorization request.
        app_name: The app that the person signs in to.
        account: Filled in already, from ``login_hint`` or the last try.
        error: What was wrong with the last try.
        accounts: Accounts of the sandbox with their passwords, shown to whoever tries it out.
    """
    focus_account, focus_password = ("", " autofocus") if account else (" autofocus", "")
    return _page(
        "Sign in",
        f"""{_error(error)}<form method="post" action="{escape(action)}">
<input type="hidden" name="transaction" value="{escape(transaction)}">
<p>to continue to <strong>{escape(app_name)}</strong></p>
<label for="account">Account</label>
<input type="text" id="account" name="account" value="{escape(account)}" autocomplete="username"
 required{focus_account}>
<label for="password">Password</label>
<input type="password" id="password" name="password" autocomplete="current-password"
 required{focus_password}>
<div class="buttons"><button class="main" type="submit">Sign in</button></div>
</form>{_accounts(accounts)}""",
    )


def approval_page(*, action: str, transaction: str, account: str) -> str:
    """Stand in for the second factor: the telephone that asks whether it was you."""
    return _page(
        "Approve sign in request",
        f"""<form method="post" action="{escape(action)}">
<input type="hidden" name="transaction" value="{escape(transaction)}">
<p>A telephone would now ask whether <strong>{escape(account)}</strong> is signing in.</p>
<div class="buttons"><button class="main" name="approved" value="yes">Approve</button></div>
</form>""",
    )


def consent_page(
    *,
    action: str,
    transaction: str,
    app_name: str,
    account: str,
    permissions: Iterable[str],
    for_tenant: str = "",
) -> str:
    """
    List what the app asks for, with Accept and Cancel.

    Args:
        action: Where the form goes.
        transaction: Ties the form to the authorization request.
        app_name: The app that asks.
        account: Who is asked.
        permissions: Names with or without their resource.
        for_tenant: The organisation's name if consent is for all of its users.
    """
    items = "\n".join(_permission(permission) for permission in permissions)
    whom = f" on behalf of <strong>{escape(for_tenant)}</strong>" if for_tenant else ""
    return _page(
        "Permissions requested",
        f"""<p class="brand">{escape(account)}</p>
<p><strong>{escape(app_name)}</strong> would like to{whom}:</p>
<ul>{items}</ul>
<form method="post" action="{escape(action)}">
<input type="hidden" name="transaction" value="{escape(transaction)}">
<div class="buttons"><button name="decision" value="cancel">Cancel</button>
<button class="main" name="decision" value="accept">Accept</button></div>
</form>""",
    )


def error_page(*, code: int, text: str, facts: Mapping[str, str]) -> str:
    """Say on a page of Entra's own why the request cannot go back to the app."""
    rows = "".join(f"<li>{escape(k)}: <code>{escape(v)}</code></li>" for k, v in facts.items())
    return _page(
        "Sorry, but we're having trouble signing you in.",
        f'<p class="error">AADSTS{code}: {escape(text)}</p><ul>{rows}</ul>',
    )


def note_page(title: str, text: str) -> str:
    """Say one thing."""
    return _page(title, f"<p>{escape(text)}</p>")


def posting_page(*, redirect_uri: str, fields: Mapping[str, str]) -> str:
    """Carry the answer to the app by POST (OAuth 2.0 Form Post Response Mode)."""
    hidden = "\n".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    return _page(
        "One moment",
        f"""<form method="post" action="{escape(redirect_uri)}" id="answer">{hidden}
<noscript><p>Press the button to go back to the app.</p></noscript>
<div class="buttons"><button class="main" type="submit">Continue</button></div></form>
<script>document.getElementById("answer").submit()</script>""",
    )


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots"
 content="noindex"><style>{_STYLE}</style></head>
<body><main><p class="brand">Sandbox directory</p><h1>{escape(title)}</h1>
{body}
</main></body></html>"""


def _error(text: str) -> str:
    return f'<p class="error" role="alert">{escape(text)}</p>' if text else ""


def _accounts(accounts: Sequence[tuple[str, str]]) -> str:
    if not accounts:
        return ""
    items = "".join(
        f"<li><code>{escape(address)}</code> with <code>{escape(password)}</code></li>"
        for address, password in accounts
    )
    return (
        f'<div class="note">Nobody real lives here. Accounts of this sandbox:<ul>{items}</ul></div>'
    )


def _permission(permission: str) -> str:
    name = permission.rpartition("/")[2]
    title, meaning = _WORDS.get(name, (name, ""))
    return (
        f"<li>{escape(title)} <small><code>{escape(permission)}</code><br>"
        f"{escape(meaning)}</small></li>"
    )
