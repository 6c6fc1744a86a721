"""How the pages look: one column that reads well on a telephone, and no script."""

from __future__ import annotations

import base64
import hashlib
from html import escape

_STYLE = """
:root{color-scheme:light dark;--ground:#f3f5f8;--card:#fff;--ink:#1c2430;--soft:#5a6675;
 --line:#dde3ea;--main:#1257b0;--on-main:#fff;--good:#1a7f45;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--card:#1b212a;--ink:#e8ecf1;
 --soft:#a3afbd;--line:#323b47;--main:#7fb2f5;--on-main:#0d1b2e;--good:#6fd197;--bad:#ff9d94}}
*{box-sizing:border-box}
body{margin:0;padding:4vh 1rem;background:var(--ground);color:var(--ink);
 font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:40rem;margin:0 auto;background:var(--card);border:1px solid var(--line);
 border-radius:10px;padding:1.75rem clamp(1.1rem,5vw,2.25rem)}
h1{font-size:clamp(1.2rem,5vw,1.45rem);line-height:1.25;margin:.2rem 0 .9rem;
 overflow-wrap:break-word;text-wrap:balance}
h2{font-size:1.02rem;margin:1.7rem 0 .4rem}
p{margin:.55rem 0}
.who{color:var(--soft);margin:0}
.good h1{color:var(--good)}
.bad h1{color:var(--bad)}
dl{margin:.4rem 0;display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.2rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:32rem){dl{display:block}dd{margin:0 0 .55rem}}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
ul,ol{margin:.4rem 0;padding-left:1.3rem}
li{margin:.35rem 0}
blockquote{margin:.9rem 0;padding:.1rem 1rem;border-left:4px solid var(--line)}
form{margin:1.5rem 0 .5rem}
button,.button{display:inline-block;font:inherit;font-weight:600;padding:.7rem 1.5rem;border:0;
 border-radius:7px;background:var(--main);color:var(--on-main);cursor:pointer;text-decoration:none}
button:focus-visible,a:focus-visible{outline:3px solid var(--ink);outline-offset:2px}
a{color:var(--main)}
.small{color:var(--soft);font-size:.9rem}
footer{margin-top:1.7rem;border-top:1px solid var(--line);padding-top:.8rem}
""".strip()

_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'; "
    # Browsers apply it to redirects too, and the sign-in service may lead on to a customer's own.
    "form-action 'self' https:"
)
"""Our one style by its hash, and nothing else; above all no script."""


def page(title: str, body: str, *, who: str = "", mood: str = "") -> str:
    """
    Give a whole page.

    Args:
        title: Plain text.
        body: HTML; whoever made it has escaped what is not ours.
        who: Whose page it is, plain text.
        mood: ``good``, ``bad`` or nothing.
    """
    brand = f'<p class="who">{escape(who)}</p>' if who else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex"><style>{_STYLE}</style></head>
<body><main class="{mood}">{brand}<h1>{escape(title)}</h1>
{body}
</main></body></html>"""
