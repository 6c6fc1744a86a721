"""
Prometheus Alertmanager webhooks (body version 4) as alert e-mails.

One body is one group of alerts and becomes one mail for each tenant in it. All mails of a group
share a thread, so that "resolved" answers "firing".

Retries and repeats
    Alertmanager posts a notification again after a time-out, with the very same body. It also
    posts a reminder after ``repeat_interval``, and the body of that one differs in nothing either.
    A retry must make no second mail, a reminder must make one. Nothing but time tells them apart,
    and a key that contains a rounded time fails for the retry that crosses the rounding border.

    So the key is made in two steps. ``alerts_from_webhook`` is pure and knows no clock: it gives
    each mail a *base key* from the tenant, the group key, the group's status and the set of
    (fingerprint, status, startsAt, and for resolved alerts endsAt). The texts have no part in it:
    measured values in annotations change between two looks at the same alerts. endsAt of a firing
    alert is left out because some senders put a moving guess there. The external URL is left out
    because each peer of a cluster has its own while all of them post the same notification.

    The caller then looks up the newest mail with that base key (itself, or itself with a
    generation behind it) and asks ``current_key``: while that mail is younger than the window, its
    own key is returned, so that the usual rule "one key, one mail" recognises the retry; after the
    window the next generation is returned. Age counts from the last mail, so there is no border to
    slip across, and two retries at the same moment compute the same key, of which the
    unique index lets one through.

    The window has to exceed ``group_interval`` (5 minutes by default): a flush that failed as a
    whole, time-out after time-out, is tried anew at the next one. It should stay below
    ``repeat_interval`` (4 hours by default); where it does not, reminders become rarer, nothing
    else. 15 minutes is three times the one and a sixteenth of the other.

Source:
    https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from models.alert import AlertEmail
from models.errors import InvalidAlert
from models.severity import Severity

RETRY_WINDOW = timedelta(minutes=15)
"""How long the same notification counts as a retry; see the module's text."""

SEVERITIES: Mapping[str, Severity] = MappingProxyType(
    {
        "critical": Severity.CRITICAL,
        "emergency": Severity.CRITICAL,
        "disaster": Severity.CRITICAL,
        "error": Severity.ELEVATED,
        "elevated": Severity.ELEVATED,
        "high": Severity.ELEVATED,
        "major": Severity.ELEVATED,
        "page": Severity.ELEVATED,
        "warning": Severity.NORMAL,
        "normal": Severity.NORMAL,
        "minor": Severity.NORMAL,
        "info": Severity.LOW,
        "none": Severity.LOW,
        "low": Severity.LOW,
    },
)
"""What the label ``severity`` means to us; what is not listed is normal."""

Recipients = Callable[[str, Severity], Sequence[str]]

_MAX_SHOWN = 25
_MAX_LABELS = 30
_MAX_TEXT = 1_500
_MAX_VALUE = 300
_MAX_SUBJECT = 255
_MAX_URL = 2_000
_NEVER = ("", "0001-01-01T00:00:00Z")
_HIDDEN_LABELS = frozenset({"alertname", "severity"})
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BLANK = re.compile(r"\s+")
_PORT = re.compile(r":\d{1,5}$")
_GENERATION = re.compile(r"(?P<base>.*)\+(?P<number>\d+)")
_LINKS = (
    ("runbook", "runbook_url"),
    ("dashboard", "dashboard_url"),
    ("dashboard", "dashboardURL"),
)


@dataclass(frozen=True, slots=True)
class LatestMail:
    """
    The newest mail of a notification that was accepted before.

    Attributes:
        idempotency_key: The key it was accepted under.
        accepted_at: When, aware.
    """

    idempotency_key: str
    accepted_at: datetime


def current_key(
    base_key: str,
    latest: LatestMail | None,
    *,
    now: datetime,
    window: timedelta = RETRY_WINDOW,
) -> str:
    """
    Decide whether a notification is a retry (key of the latest mail) or due again (a new key).

    Args:
        base_key: ``idempotency_key`` of a mail from ``alerts_from_webhook``.
        latest: The newest mail whose key is ``base_key`` or begins with ``base_key`` and ``+``.
        now: From the clock that stamped ``latest``.
        window: See the module's text.
    """
    if latest is None:
        return base_key
    if now - latest.accepted_at < window:
        return latest.idempotency_key
    generation = _GENERATION.fullmatch(latest.idempotency_key)
    return f"{base_key}+{int(generation['number']) + 1 if generation else 1}"


@dataclass(frozen=True, slots=True)
class _Alert:
    """One alert of a body, cleaned of what has no place in a mail."""

    firing: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: str
    ends_at: str
    url: str
    fingerprint: str

    @property
    def name(self) -> str:
        return self.labels.get("alertname") or "Alert"

    @property
    def place(self) -> str:
        return _PORT.sub("", self.labels.get("instance") or self.labels.get("host") or "")

    @property
    def summary(self) -> str:
        return (
            self.annotations.get("summary")
            or self.annotations.get("message")
            or self.annotations.get("title")
            or self.name
        )

    @property
    def links(self) -> list[tuple[str, str]]:
        found = [(word, self.annotations.get(key, "")) for word, key in _LINKS]
        found.append(("source", self.url))
        return [(word, url) for word, url in found if _is_web_link(url)]


@dataclass(frozen=True, slots=True)
class _Group:
    """What one mail is about: the alerts of one tenant in one body."""

    tenant: str
    key: str
    firing: bool
    alerts: tuple[_Alert, ...]
    truncated: int
    url: str


def alerts_from_webhook(
    body: Mapping[str, Any],
    *,
    recipients: Recipients,
    tenant_label: str = "tenant",
    default_tenant: str | None = None,
    severities: Mapping[str, Severity] = SEVERITIES,
) -> list[AlertEmail]:
    """
    Turn a webhook body into one mail for each tenant in it.

    Args:
        body: The JSON object as posted, version "4".
        recipients: Who is told, by tenant and severity.
        tenant_label: Label whose value is the tenant's slug; looked for in each alert, then in
            ``groupLabels`` and ``commonLabels``.
        default_tenant: Whom an alert without that label belongs to; None refuses it.
        severities: Meaning of the label ``severity``, by lower-case word.

    Returns:
        Mails in the order in which their tenants appear. Their ``idempotency_key`` is a base key;
        see ``current_key``.

    Raises:
        InvalidAlert: The body is no such body, or a mail cannot be made of it; names the field.
    """
    groups = _groups(body, tenant_label=tenant_label, default_tenant=default_tenant)
    return [_mail(group, recipients=recipients, severities=severities) for group in groups]


# -- reading the body ----------------------------------------------------------------------------


def _groups(
    body: Mapping[str, Any], *, tenant_label: str, default_tenant: str | None
) -> list[_Group]:
    if not isinstance(body, Mapping):
        raise InvalidAlert("body", "is not a JSON object as Alertmanager posts it")
    if body.get("version") != "4":
        raise InvalidAlert("version", 'is not "4"; other webhook formats are not read here')
    status = body.get("status")
    if status not in ("firing", "resolved"):
        raise InvalidAlert("status", "is neither firing nor resolved")
    key = body.get("groupKey")
    if not isinstance(key, str) or not key:
        raise InvalidAlert("groupKey", "is missing or no text")
    entries = body.get("alerts")
    if not isinstance(entries, list) or not entries:
        raise InvalidAlert("alerts", "is missing, empty or no list")
    truncated = body.get("truncatedAlerts", 0)
    if not isinstance(truncated, int) or truncated < 0:
        raise InvalidAlert("truncatedAlerts", "is not a count")
    shared = {
        **_texts(body.get("commonLabels", {}), "commonLabels"),
        **_texts(body.get("groupLabels", {}), "groupLabels"),
    }
    by_tenant: dict[str, list[_Alert]] = {}
    for index, entry in enumerate(entries):
        alert = _alert(entry, f"alerts[{index}]")
        label = alert.labels.get(tenant_label) or shared.get(tenant_label) or ""
        tenant = label.strip().lower() or default_tenant
        if not tenant:
            raise InvalidAlert(
                f"alerts[{index}].labels.{tenant_label}"[:100],
                "is missing; the label names the customer",
            )
        by_tenant.setdefault(tenant, []).append(alert)
    return [
        _Group(
            tenant=tenant,
            key=key,
            # A part of a firing group may be resolved altogether.
            firing=status == "firing" and any(alert.firing for alert in alerts),
            alerts=tuple(sorted(alerts, key=lambda alert: not alert.firing)),
            truncated=truncated,
            url=_optional_text(body, "externalURL", "externalURL"),
        )
        for tenant, alerts in by_tenant.items()
    ]


def _alert(entry: object, path: str) -> _Alert:
    if not isinstance(entry, Mapping):
        raise InvalidAlert(path, "is not an object")
    status = entry.get("status")
    if status not in ("firing", "resolved"):
        raise InvalidAlert(f"{path}.status", "is neither firing nor resolved")
    labels = _texts(entry.get("labels"), f"{path}.labels")
    return _Alert(
        firing=status == "firing",
        labels=labels,
        annotations=_texts(entry.get("annotations", {}), f"{path}.annotations"),
        starts_at=_optional_text(entry, "startsAt", f"{path}.startsAt"),
        ends_at=_optional_text(entry, "endsAt", f"{path}.endsAt"),
        url=_optional_text(entry, "generatorURL", f"{path}.generatorURL"),
        fingerprint=_optional_text(entry, "fingerprint", f"{path}.fingerprint")
        or _digest(sorted(labels.items())),
    )


def _texts(value: object, path: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidAlert(path, "is not an object of texts")
    if not all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()):
        raise InvalidAlert(path, "holds something else than texts")
    return {_clean(key): _clean(text) for key, text in value.items()}


def _optional_text(value: Mapping[str, Any], key: str, path: str) -> str:
    text = value.get(key, "")
    if not isinstance(text, str):
        raise InvalidAlert(path, "is not a text")
    return _clean(text)


def _clean(text: str) -> str:
    """
    Make a text fit for a mail.

    It comes from the monitored machines, which nobody can send back to do better: what is
    refused elsewhere is replaced here.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "replace").decode().replace("\r\n", "\n")
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


# -- deciding ------------------------------------------------------------------------------------


def _mail(
    group: _Group, *, recipients: Recipients, severities: Mapping[str, Severity]
) -> AlertEmail:
    worst, word = _severity(group, severities)
    severity = worst if group.firing else max(worst, Severity.NORMAL)
    to = list(recipients(group.tenant, severity))
    if not to:
        raise InvalidAlert("to", "has nobody: no recipients are set up for this tenant")
    return AlertEmail.parse(
        {
            "tenant": group.tenant,
            "to": to,
            "subject": _subject(group, word),
            "text": _text(group, word),
            "html": _html(group, word),
            "severity": severity,
            "alert_id": f"am-{_digest([group.tenant, group.key])}",
            "idempotency_key": _base_key(group),
            "metadata": {
                "source": "alertmanager",
                "status": "firing" if group.firing else "resolved",
                "alertname": _shorten(group.alerts[0].name, _MAX_VALUE),
            },
        },
    )


def _severity(group: _Group, severities: Mapping[str, Severity]) -> tuple[Severity, str]:
    """
    Return the most severe of what fires, and the sender's own word for it.

    Where nothing fires the resolved ones decide the word; ``_mail`` then caps the severity at
    normal, since good news has no call to overtake anything.
    """
    relevant = [alert for alert in group.alerts if alert.firing] or group.alerts
    rated = []
    for alert in relevant:
        word = _one_line(alert.labels.get("severity", ""), 40)
        rated.append((severities.get(word.lower(), Severity.NORMAL), word))
    worst, word = min(rated, key=lambda pair: pair[0])
    return worst, word or worst.label


def _base_key(group: _Group) -> str:
    alerts = sorted(
        [
            alert.fingerprint,
            "firing" if alert.firing else "resolved",
            alert.starts_at,
            "" if alert.firing else alert.ends_at,
        ]
        for alert in group.alerts
    )
    status = "firing" if group.firing else "resolved"
    return f"am-{_digest([group.tenant, group.key, status, alerts])}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()[:40]


# -- writing -------------------------------------------------------------------------------------


def _subject(group: _Group, word: str) -> str:
    told = [alert for alert in group.alerts if alert.firing == group.firing]
    # How many of the left out ones fire, and for whom, the body does not say.
    count = f"{len(told)}{'+' if group.truncated else ''}"
    names = list(dict.fromkeys(_one_line(alert.name, 120) for alert in told))
    places = list(dict.fromkeys(_one_line(alert.place, 80) for alert in told if alert.place))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    where = f" on {places[0]}" if places else ""
    others = f" and {len(places) - 1} more" if len(places) > 1 else ""
    state = "FIRING" if group.firing else "RESOLVED"
    return _shorten(f"[{state}:{count}] {word} {names[0]}{more}{where}{others}", _MAX_SUBJECT)


def _headline(group: _Group, word: str) -> str:
    firing = sum(alert.firing for alert in group.alerts)
    resolved = len(group.alerts) - firing
    counts = [f"{n} {state}" for n, state in ((firing, "firing"), (resolved, "resolved")) if n]
    return f"{', '.join(counts)} ({word}), customer {group.tenant}"


def _remainder(group: _Group) -> str:
    """Say what the mail does not show; empty where it shows everything."""
    notes = []
    if (hidden := len(group.alerts) - _MAX_SHOWN) > 0:
        notes.append(f"and {hidden} more in this notification")
    if group.truncated:
        notes.append(f"Alertmanager left out {group.truncated} further alerts (max_alerts)")
    return "; ".join(notes)


def _facts(alert: _Alert) -> list[tuple[str, str]]:
    facts = [("Started", alert.starts_at)] if alert.starts_at not in _NEVER else []
    if not alert.firing and alert.ends_at not in _NEVER:
        facts.append(("Ended", alert.ends_at))
    labels = [(k, v) for k, v in sorted(alert.labels.items()) if k not in _HIDDEN_LABELS]
    facts.extend((_shorten(key, 80), _one_line(text, _MAX_VALUE)) for key, text in labels)
    if len(facts) > _MAX_LABELS:
        return [*facts[:_MAX_LABELS], ("…", f"and {len(facts) - _MAX_LABELS} more labels")]
    return facts


def _text(group: _Group, word: str) -> str:
    lines = [_headline(group, word), ""]
    for alert in group.alerts[:_MAX_SHOWN]:
        state = "FIRING" if alert.firing else "RESOLVED"
        lines.append(f"{state}  {_one_line(alert.summary, _MAX_VALUE)}")
        if description := _description(alert):
            lines.extend(f"  {line}" for line in description.split("\n"))
        lines.extend(f"  {key}: {value}" for key, value in _facts(alert))
        lines.extend(f"  {target}: {url}" for target, url in alert.links)
        lines.append("")
    if remainder := _remainder(group):
        lines.append(remainder)
    if _is_web_link(group.url):
        lines.append(f"Alertmanager: {group.url}")
    return "\n".join(lines)


def _html(group: _Group, word: str) -> str:
    """
    Write the HTML part: tables and inline styles, all that Outlook's renderer follows.

    Every text is escaped, quotes included; links are those that ``_is_web_link`` let pass.
    """
    rows = [_html_alert(alert) for alert in group.alerts[:_MAX_SHOWN]]
    foot = [escape(remainder)] if (remainder := _remainder(group)) else []
    if _is_web_link(group.url):
        foot.append(_html_link("Alertmanager", group.url))
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head>\n'
        '<body style="margin:0;padding:16px;font-family:Segoe UI,Arial,sans-serif;'
        'font-size:14px;color:#1b1b1b">\n'
        f'<p style="margin:0 0 12px 0;font-size:16px"><b>{escape(_headline(group, word))}</b></p>\n'
        '<table role="presentation" width="640" cellpadding="0" cellspacing="0" border="0">\n'
        f"{''.join(rows)}</table>\n"
        f'<p style="margin:12px 0 0 0;color:#5f5f5f">{"<br>".join(foot)}</p>\n'
        "</body></html>\n"
    )


def _html_alert(alert: _Alert) -> str:
    colour, state = ("#b3261e", "FIRING") if alert.firing else ("#1e7d34", "RESOLVED")
    description = escape(_description(alert)).replace("\n", "<br>")
    facts = "".join(
        f'<tr><td valign="top" style="padding:1px 12px 1px 0;color:#5f5f5f">{escape(key)}</td>'
        f'<td style="padding:1px 0">{escape(value)}</td></tr>\n'
        for key, value in _facts(alert)
    )
    links = " &middot; ".join(_html_link(target, url) for target, url in alert.links)
    return (
        f'<tr><td width="6" bgcolor="{colour}" style="font-size:1px">&nbsp;</td>'
        '<td style="padding:8px 12px;border-bottom:1px solid #e0e0e0">\n'
        f'<b style="color:{colour}">{state}</b>&nbsp; '
        f"<b>{escape(_one_line(alert.summary, _MAX_VALUE))}</b><br>\n"
        f'{description}\n<table role="presentation" cellpadding="0" cellspacing="0" border="0" '
        f'style="font-size:13px;margin-top:6px">\n{facts}</table>\n{links}</td></tr>\n'
    )


def _html_link(word: str, url: str) -> str:
    return f'<a href="{escape(url)}">{escape(word)}</a>'


def _description(alert: _Alert) -> str:
    text = alert.annotations.get("description") or ""
    return "" if text == alert.summary else _shorten(text.strip(), _MAX_TEXT)


def _is_web_link(url: str) -> bool:
    """Whether a reader may click on it: http or https with a host, and one word."""
    if not url or len(url) > _MAX_URL or _BLANK.search(url) or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _one_line(text: str, limit: int) -> str:
    return _shorten(_BLANK.sub(" ", text).strip(), limit)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
