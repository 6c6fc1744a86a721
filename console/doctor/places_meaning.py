"""What is seen of hosts, and what it means. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from console.dialogue import reply_of
from console.doctor.checks import Finding, failed, ok, skipped
from console.doctor.places import Greeting, Place, Seen
from models.proxies import DIRECT, SETTING, Proxy
from models.stages import Stage
from workers import conclusion
from workers.smtp_session import Step


@dataclass(frozen=True, slots=True)
class Role:
    """
    What a place is there for, and how a tenant is led elsewhere.

    Attributes:
        what: For people.
        elsewhere: Options of ``alertpost tenants edit``.
    """

    what: str
    elsewhere: str


SIGN_IN = Role("sign-in service", "--cloud NAME` or `--authority URL")
SMTP = Role("submission server", "--smtp-host HOST --smtp-port 587")

_CERTIFICATE_WORDS = (
    ("hostname mismatch", "it is for another name than the one that was asked for"),
    ("ip address mismatch", "it is for another address than the one that was asked for"),
    ("not valid for", "it is for another name than the one that was asked for"),
    ("self-signed", "it was signed by an authority that the CA file does not hold"),
    ("self signed", "it was signed by an authority that the CA file does not hold"),
    ("unable to get", "it was signed by an authority that the CA file does not hold"),
    ("has expired", "its time is over, or this machine's clock is ahead"),
    ("not yet valid", "its time has not begun, or this machine's clock is behind"),
)


def names(place: Place, role: Role, tenant: str, seen: Seen) -> Finding:
    """Judge whether the host's name has an address."""
    if not seen.error:
        return ok(f"{place.host}: {seen.text}")
    return failed(
        f"{place.host}: {seen.error}",
        f"The name of the {role.what} cannot be resolved: it is misspelt, or this machine has no "
        "working DNS.",
        f"`getent hosts {place.host}` on this machine; if the name is wrong: "
        f"`{_edit(tenant, role)}`",
    )


def connection(place: Place, role: Role, tenant: str, seen: Seen) -> Finding:
    """Judge whether the port can be reached."""
    return ok(seen.text) if not seen.error else _unreachable(place, role, tenant, seen)


def handshake(place: Place, tenant: str, ca_file: str, seen: Seen) -> Finding:
    """Judge TLS and the certificate."""
    if not seen.error:
        return ok(f"{seen.text}; trusted by {ca_file}")
    if seen.kind == "ca-file":
        return failed(
            seen.error,
            "Without it no server can be trusted, so nothing is sent.",
            f"`alertpost tenants edit {tenant} --ca-file FILE`, or ALERTPOST_CA_FILE",
        )
    if seen.kind == "certificate":
        return _untrusted(place, tenant, ca_file, seen.error)
    return failed(
        f"{place}: {seen.error}",
        "TLS 1.2 or newer could not be agreed upon: no TLS speaks at this port, or a device on "
        "the way breaks it.",
        f"`openssl s_client -connect {place}` on this machine shows who answers",
    )


def proxy_unusable(proxy: Proxy) -> Finding:
    """Judge a proxy that is written in a way that leads nowhere."""
    return failed(
        f"proxy {proxy}: {proxy.trouble}",
        "The sign-in service is to be asked through it, so no token can be fetched.",
        f"correct {proxy.source}, or set {SETTING} (`{DIRECT}`: no proxy)",
    )


def proxy_names(proxy: Proxy, place: Place, seen: Seen) -> Finding:
    """Judge whether the proxy's name has an address; the name behind it is the proxy's business."""
    if not seen.error:
        return ok(f"{place.host} is resolved by the proxy {proxy}, which is at {seen.text}")
    return failed(
        f"proxy {proxy}: {seen.error}",
        f"The name of the proxy by which {place.host} is asked cannot be resolved.",
        f"correct {proxy.source}, or set {SETTING} (`{DIRECT}`: no proxy)",
    )


def proxy_connection(proxy: Proxy, there: Place, seen: Seen) -> Finding:
    """Judge whether the proxy can be reached."""
    if not seen.error:
        return ok(f"proxy {proxy}: {seen.text}")
    return failed(
        f"proxy {proxy}: {seen.error}",
        "The sign-in service is asked through it, and it cannot be reached.",
        f"start it, allow outgoing TCP to {there}, or correct {proxy.source}",
    )


def within_tls(proxy: Proxy) -> Finding:
    """Say that the handshake is not looked at by itself."""
    return ok(f"within the TLS of the proxy {proxy}: see the next check")


def proxy_refusal(proxy: Proxy, place: Place, seen: Seen) -> Finding:
    """Judge a proxy that does not hand us through."""
    if re.search(r"\b407\b", seen.error):
        return failed(
            f"proxy {proxy}: {seen.error}",
            "The proxy demands a sign-in, or does not take the one that is given.",
            f"give the right user and password in {proxy.source}: http://user:PASSWORD@host:port",
        )
    return failed(
        f"proxy {proxy}: {seen.error}",
        f"The proxy does not connect us to {place}.",
        f"allow CONNECT to {place} there; or take the host out with NO_PROXY",
    )


def greeted(place: Place, tenant: str, greeting: Greeting) -> Finding:
    """Judge connection and banner of the submission server."""
    failure = greeting.failure
    steps = _at(greeting, Stage.CONNECT)
    if not steps:
        return skipped("smtp_tls")
    if failure is None or not _first_half(greeting):
        return ok(f"{place}: {_line(steps[0].received)}")
    answered = failure.reply_code is not None or failure.failure == "garbage"
    if not answered and failure.stage == Stage.CONNECT:
        seen = Seen(error=failure.reply_text, kind=str(failure.failure))
        return _unreachable(place, SMTP, tenant, seen)
    verdict = conclusion.judge(failure, fresh_token=False)
    return failed(
        f"{place}: {reply_of(failure)}",
        f"{verdict.meaning} ({verdict.rule})",
        f"{verdict.next_step} If it is the wrong server: `{_edit(tenant, SMTP)}`",
    )


def secured(place: Place, tenant: str, ca_file: str, greeting: Greeting) -> Finding:
    """Judge STARTTLS and the certificate behind it."""
    failure = greeting.failure
    if failure is None or failure.stage != Stage.STARTTLS:
        return ok(f"{_at(greeting, Stage.STARTTLS)[0].detail}; trusted by {ca_file}")
    if failure.failure == "certificate":
        return _untrusted(place, tenant, ca_file, failure.reply_text)
    verdict = conclusion.judge(failure, fresh_token=False)
    if failure.failure == "no-starttls":
        return failed(
            failure.reply_text,
            "Without encryption the token would be read by others, so nothing is sent. Exchange "
            "Online always offers it: this is another server, or a device on the way takes it out.",
            f"`openssl s_client -starttls smtp -connect {place}` on this machine; switch off the "
            f"inspection of SMTP in the firewall, or `{_edit(tenant, SMTP)}`",
        )
    return failed(
        f"{place}: {reply_of(failure)}",
        f"{verdict.meaning} ({verdict.rule})",
        f"`openssl s_client -starttls smtp -connect {place}` on this machine shows who answers",
    )


def offered(place: Place, tenant: str, greeting: Greeting) -> Finding:
    """Judge what the server offers once it is secured."""
    if greeting.offered is None:
        failure = greeting.failure
        seen = reply_of(failure) if failure is not None else ""
        return failed(
            f"{place}: {seen}",
            "The server ends the dialogue after STARTTLS, before anybody has signed in.",
            f"check that it is the right server: `{_edit(tenant, SMTP)}`",
        )
    features = greeting.offered.features
    parts = [f"AUTH {' '.join(method.upper() for method in greeting.offered.auth_methods)}"]
    parts += [
        name
        for name, there in (
            ("PIPELINING", features.pipelining),
            ("8BITMIME", features.eight_bit),
            ("SMTPUTF8", features.smtputf8),
        )
        if there
    ]
    if features.size_limit:
        parts.append(f"SIZE {features.size_limit}")
    if "xoauth2" in greeting.offered.auth_methods:
        return ok(", ".join(parts))
    return failed(
        ", ".join(parts),
        "Without AUTH XOAUTH2 no token can be shown: this is not Exchange Online's submission "
        "server.",
        f"`{_edit(tenant, SMTP)}` (worldwide: smtp.office365.com)",
    )


def after_greeting(greeting: Greeting) -> tuple[bool, bool]:
    """Say whether STARTTLS, and what follows it, was reached."""
    failure = greeting.failure
    reached = failure is None or not _first_half(greeting)
    return reached, reached and (failure is None or failure.stage != Stage.STARTTLS)


def _first_half(greeting: Greeting) -> bool:
    """Tell whether it failed before STARTTLS."""
    stage = greeting.failure.stage if greeting.failure is not None else ""
    early = stage == Stage.EHLO and not _at(greeting, Stage.STARTTLS)
    return early or stage == Stage.CONNECT


def _at(greeting: Greeting, stage: Stage) -> list[Step]:
    return [step for step in greeting.steps if step.stage is stage]


def _line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _unreachable(place: Place, role: Role, tenant: str, seen: Seen) -> Finding:
    meaning = {
        "refused": "Nothing listens at this port, or a firewall refuses it.",
        "timeout": "Nothing answers: a firewall on the way drops it, or the host is down.",
        "dns": f"The name of the {role.what} cannot be resolved.",
    }.get(seen.kind, f"The {role.what} cannot be reached.")
    return failed(
        f"{place}: {seen.error}",
        meaning,
        f"allow outgoing TCP to {place} in the firewall; if that is the wrong place: "
        f"`{_edit(tenant, role)}`",
    )


def _untrusted(place: Place, tenant: str, ca_file: str, reason: str) -> Finding:
    lower = reason.lower()
    words = next((text for word, text in _CERTIFICATE_WORDS if word in lower), "it is not trusted")
    return failed(
        f"{place}: {reason}; CA file {ca_file}",
        f"The server's certificate does not pass: {words}. Nothing is sent without a certificate "
        "that does; where it is Microsoft's host, somebody on the way intercepts TLS.",
        f"except {place.host} from TLS inspection; or trust its authority: "
        f"`alertpost tenants edit {tenant} --ca-file FILE`, or ALERTPOST_CA_FILE",
    )


def _edit(tenant: str, role: Role) -> str:
    return f"alertpost tenants edit {tenant} {role.elsewhere}"
