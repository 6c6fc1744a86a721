from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidAlert
from models.severity import Severity
from producers.alertmanager import RETRY_WINDOW, LatestMail, alerts_from_webhook, current_key

SAMPLES = Path(__file__).parents[2] / "console" / "demo_data" / "alertmanager-webhooks.jsonl"
NOW = datetime(2026, 11, 23, 14, tzinfo=UTC)


def recipients(tenant: str, severity: Severity) -> list[str]:
    return [f"{severity.label}@{tenant}.example"]


def alert(**changes: object) -> dict[str, object]:
    return {
        "status": "firing",
        "labels": {
            "alertname": "DiskFull", "instance": "ws-1.contoso.example:9182",
            "severity": "critical", "tenant": "contoso",
        },
        "annotations": {"summary": "Disk full (ws-1)", "description": "C: is full\n  VALUE = 93"},
        "startsAt": "2026-11-23T14:06:04.85445Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph?a=1&b=2",
        "fingerprint": "bd245039bea58bd6",
        **changes,
    }  # fmt: skip


def labelled(**labels: str) -> dict[str, object]:
    entry = alert()
    return alert(labels={**entry["labels"], **labels}, fingerprint=json.dumps(labels))  # type: ignore[dict-item]


def body(*alerts: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        "version": "4",
        "status": "firing",
        "groupKey": '{}:{alertname="DiskFull"}',
        "alerts": list(alerts) or [alert()],
        "groupLabels": {"alertname": "DiskFull"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "truncatedAlerts": 0,
        "receiver": "hook",
        **changes,
    }


def mail(*alerts: dict[str, object], **changes: object):
    (only,) = alerts_from_webhook(body(*alerts, **changes), recipients=recipients)
    return only


def resolved(entry: dict[str, object] | None = None) -> dict[str, object]:
    return {**(entry or alert()), "status": "resolved", "endsAt": "2026-11-23T15:00:00Z"}


def test_every_sample_is_read() -> None:
    """Every recorded body becomes one mail to its tenant, resolved ones at most normal."""
    for line in SAMPLES.read_bytes().splitlines():
        recorded = json.loads(line)
        (made,) = alerts_from_webhook(recorded, recipients=recipients)

        assert made.tenant == recorded["commonLabels"]["tenant"]
        assert made.subject.startswith(f"[{recorded['status'].upper()}:1] ")
        assert recorded["commonLabels"]["alertname"] in made.subject
        assert recorded["commonAnnotations"]["summary"] in (made.text or "")
        assert recorded["status"] == "firing" or made.severity >= Severity.NORMAL
        assert recorded["commonLabels"]["instance"] in (made.html or "")


def test_samples_share_keys_only_with_their_repeats() -> None:
    """Recorded bodies have equal base keys exactly where the bodies themselves are equal."""
    by_key: dict[str, set[bytes]] = {}
    lines = SAMPLES.read_bytes().splitlines()
    for line in lines:
        (made,) = alerts_from_webhook(json.loads(line), recipients=recipients)
        by_key.setdefault(made.idempotency_key or "", set()).add(line)

    assert all(len(bodies) == 1 for bodies in by_key.values())
    assert len(by_key) == len(set(lines)) < len(lines)


SUBJECTS = [
    pytest.param([alert()], "[FIRING:1] critical DiskFull on ws-1.contoso.example", id="one"),
    pytest.param(
        [labelled(instance="a:1"), labelled(instance="b:1"), labelled(instance="c:1")],
        "[FIRING:3] critical DiskFull on a and 2 more",
        id="places",
    ),
    pytest.param(
        [labelled(alertname="A"), labelled(alertname="B")],
        "[FIRING:2] critical A and 1 more on ws-1.contoso.example",
        id="names",
    ),
    pytest.param(
        [labelled(severity="info"), labelled(severity="Page")],
        "[FIRING:2] Page DiskFull on ws-1.contoso.example",
        id="worst",
    ),
    pytest.param(
        [resolved(labelled(severity="critical")), labelled(severity="warning")],
        "[FIRING:1] warning DiskFull on ws-1.contoso.example",
        id="mixed",
    ),
    pytest.param([labelled(instance="", severity="")], "[FIRING:1] normal DiskFull", id="bare"),
    pytest.param(
        [labelled(alertname="a\r\nBcc: x\u2028\x00\ud800")],
        "[FIRING:1] critical a Bcc: x\ufffd\ufffd? on ws-1.contoso.example",
        id="dirty",
    ),
]


@pytest.mark.parametrize(("alerts", "subject"), SUBJECTS)
def test_subject(alerts: list[dict[str, object]], subject: str) -> None:
    """The subject says state, count, severity, name and place in one line."""
    assert mail(*alerts).subject == subject


def test_resolved_answers_firing() -> None:
    """Both mails of a group share a thread, and neither is taken for the other."""
    firing, answer = mail(), mail(resolved(), status="resolved")

    assert answer.subject == "[RESOLVED:1] critical DiskFull on ws-1.contoso.example"
    assert answer.alert_id == firing.alert_id
    assert answer.idempotency_key != firing.idempotency_key
    assert "Ended: 2026-11-23T15:00:00Z" in (answer.text or "")


SEVERITIES = [
    ("critical", Severity.CRITICAL, Severity.NORMAL),
    ("page", Severity.ELEVATED, Severity.NORMAL),
    ("Error", Severity.ELEVATED, Severity.NORMAL),
    ("warning", Severity.NORMAL, Severity.NORMAL),
    ("info", Severity.LOW, Severity.LOW),
    ("none", Severity.LOW, Severity.LOW),
    ("sev-17", Severity.NORMAL, Severity.NORMAL),
    ("", Severity.NORMAL, Severity.NORMAL),
]


@pytest.mark.parametrize(("word", "firing", "good_news"), SEVERITIES)
def test_severity(word: str, firing: Severity, good_news: Severity) -> None:
    """The label decides; good news is never more than normal."""
    entry = labelled(severity=word)

    assert mail(entry).severity is firing
    assert mail(resolved(entry), status="resolved").severity is good_news


def test_severity_mapping_can_be_given() -> None:
    """An operator's own words are understood."""
    (made,) = alerts_from_webhook(
        body(labelled(severity="P1")),
        recipients=recipients,
        severities={"p1": Severity.CRITICAL},
    )

    assert made.severity is Severity.CRITICAL
    assert made.envelope_recipients == ("critical@contoso.example",)


def test_one_mail_for_each_tenant() -> None:
    """No customer reads another customer's alerts."""
    made = alerts_from_webhook(
        body(
            alert(),
            labelled(tenant="fabrikam", instance="fab-1"),
            resolved(labelled(tenant="adatum")),
        ),
        recipients=recipients,
    )

    assert [(m.tenant, m.subject[:10]) for m in made] == [
        ("contoso", "[FIRING:1]"),
        ("fabrikam", "[FIRING:1]"),
        ("adatum", "[RESOLVED:"),
    ]
    assert len({m.idempotency_key for m in made}) == len({m.alert_id for m in made}) == 3
    assert "fab-1" not in (made[0].text or "") + (made[0].html or "")


@pytest.mark.parametrize("shared", ["groupLabels", "commonLabels"])
def test_tenant_from_shared_labels(shared: str) -> None:
    """The tenant may stand in the labels of the group, under any label name, in any case."""
    (made,) = alerts_from_webhook(
        body(**{shared: {"customer": "Fabrikam"}}), recipients=recipients, tenant_label="customer"
    )

    assert made.tenant == "fabrikam"


def test_default_tenant() -> None:
    """Where one is set up, alerts without a label have a home."""
    (made,) = alerts_from_webhook(
        body(), recipients=recipients, tenant_label="customer", default_tenant="own"
    )

    assert made.tenant == "own"


class Reader(HTMLParser):
    """Collects what a mail program would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.shown: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name == "href"]
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def read_html(document: str | None) -> Reader:
    reader = Reader()
    reader.feed(document or "")
    return reader


TAGS = {"html", "head", "meta", "body", "p", "b", "br", "table", "tr", "td", "a"}


@given(
    st.text(max_size=80)
    | st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x onerror=y>', "javascript:alert(1)"]
    )
)
def test_html_holds_no_foreign_markup(text: str) -> None:
    """Whatever a monitored machine writes is text to the reader, and no link but http and https."""
    made = mail(
        alert(
            labels={"alertname": text, "tenant": "contoso", "x": text},
            annotations={"summary": text, "description": text, "runbook_url": text},
            generatorURL=text,
            startsAt=text,
        ),
        externalURL=text,
    )
    reader = read_html(made.html)

    assert reader.tags <= TAGS
    assert all(link.startswith(("http://", "https://")) for link in reader.links if link)


LINKS = [
    ("https://wiki.example/run?a=1&b=2", True),
    ("http://wiki.example", True),
    ("javascript:alert(1)", False),
    ("data:text/html,x", False),
    ("//wiki.example", False),
    ("http://", False),
    ("http://[", False),
    ("http://wiki.example/a b", False),
    ("http://wiki.example/" + "a" * 2000, False),
    ("", False),
]


@pytest.mark.parametrize(("url", "shown"), LINKS)
def test_links(url: str, shown: bool) -> None:
    """Only what is safe to click becomes a link."""
    entry = alert(
        annotations={"summary": "s", "runbook_url": url, "dashboardURL": "https://d.example"}
    )
    made = mail(entry)

    assert (url in read_html(made.html).links) is shown
    assert (f"runbook: {url}" in (made.text or "")) is shown
    assert "https://d.example" in read_html(made.html).links


def test_texts_tell_everything() -> None:
    """Summary, description, labels, times and links stand in both parts."""
    made = mail()

    for part in (made.text, "".join(read_html(made.html).shown)):
        for piece in (
            "Disk full (ws-1)",
            "C: is full",
            "VALUE = 93",
            "ws-1.contoso.example:9182",
            "2026-11-23T14:06:04",
            "1 firing (critical), customer contoso",
        ):
            assert piece in (part or "")
    assert read_html(made.html).links == [
        "http://prometheus.example/graph?a=1&b=2",
        "http://alertmanager.example:9093",
    ]


@pytest.mark.parametrize("key", ["message", "title"])
def test_summary_has_substitutes(key: str) -> None:
    """Rules without a summary are told by what they have."""
    assert "FIRING  It broke\n" in (mail(alert(annotations={key: "It broke"})).text or "")
    assert "FIRING  DiskFull\n" in (mail(alert(annotations={})).text or "")


def test_huge_group_is_bounded() -> None:
    """A mail about thousands of alerts stays readable and says what it leaves out."""
    many = [
        labelled(instance=f"ws-{n}", **{f"l{k}": "x" * 999 for k in range(99)}) for n in range(500)
    ]
    made = mail(*many, alert(annotations={"description": "d" * 10**6}), truncatedAlerts=7)

    assert made.subject == "[FIRING:501+] critical DiskFull on ws-0 and 500 more"
    for part in (made.text or "", made.html or ""):
        assert "and 476 more in this notification" in part
        assert "Alertmanager left out 7 further alerts" in part
        assert "more labels" in part
        assert len(part) < 1_000_000


def test_firing_alerts_come_first() -> None:
    """What still fires is never among those left out."""
    made = mail(*[resolved(labelled(instance=f"r{n}")) for n in range(100)], alert())

    assert (made.text or "").index("FIRING") < (made.text or "").index("RESOLVED")


BAD = [
    ("version", {"version": "3"}),
    ("version", {"version": 4}),
    ("status", {"status": "unknown"}),
    ("groupKey", {"groupKey": ""}),
    ("groupKey", {"groupKey": 1}),
    ("alerts", {"alerts": []}),
    ("alerts", {"alerts": {}}),
    ("truncatedAlerts", {"truncatedAlerts": "1"}),
    ("truncatedAlerts", {"truncatedAlerts": -1}),
    ("commonLabels", {"commonLabels": []}),
    ("groupLabels", {"groupLabels": {"a": 1}}),
    ("externalURL", {"externalURL": 1}),
    ("alerts[0]", {"alerts": [1]}),
    ("alerts[1].labels", {"alerts": [alert(), alert(labels=None)]}),
    ("alerts[0].labels", {"alerts": [alert(labels={"a": None})]}),
    ("alerts[0].labels.tenant", {"alerts": [alert(labels={"alertname": "x"})]}),
    ("alerts[0].annotations", {"alerts": [alert(annotations="x")]}),
    ("alerts[0].status", {"alerts": [alert(status=None)]}),
    ("alerts[0].startsAt", {"alerts": [alert(startsAt=1)]}),
    ("alerts[0].endsAt", {"alerts": [alert(endsAt=1)]}),
    ("alerts[0].generatorURL", {"alerts": [alert(generatorURL=1)]}),
    ("alerts[0].fingerprint", {"alerts": [alert(fingerprint=1)]}),
    ("tenant", {"alerts": [alert(labels={"tenant": "No Slug"})]}),
]


@pytest.mark.parametrize(("field", "changes"), BAD, ids=lambda value: ascii(value)[:60])
def test_bad_body_is_refused(field: str, changes: dict[str, object]) -> None:
    """A body that is none is refused with the name of the field."""
    with pytest.raises(InvalidAlert) as caught:
        alerts_from_webhook({**body(), **changes}, recipients=recipients)

    assert caught.value.field == field


def test_body_of_another_shape_is_refused() -> None:
    """JSON that is no object is no webhook body."""
    with pytest.raises(InvalidAlert, match=r"^body: "):
        alerts_from_webhook([], recipients=recipients)  # type: ignore[arg-type]


def test_tenant_without_recipients_is_refused() -> None:
    """A mail that would reach nobody is refused rather than lost."""
    with pytest.raises(InvalidAlert, match=r"^to: .*no recipients are set up"):
        alerts_from_webhook(body(), recipients=lambda _tenant, _severity: [])


SAME = [
    pytest.param({"externalURL": "http://peer-2.example"}, {}, id="another-peer"),
    pytest.param({}, {"annotations": {"summary": "VALUE = 94"}}, id="another-value"),
    pytest.param({}, {"endsAt": "2026-11-23T18:00:00Z"}, id="moving-end-of-a-firing-alert"),
]


@pytest.mark.parametrize(("changes", "entry"), SAME)
def test_same_notification_has_the_same_base_key(changes: dict, entry: dict) -> None:
    """What differs between two posts of one notification has no part in its key."""
    assert mail(alert(**entry), **changes).idempotency_key == mail().idempotency_key


OTHER = [
    pytest.param({"groupKey": "other"}, {}, id="another-group"),
    pytest.param({}, {"fingerprint": "other"}, id="another-alert"),
    pytest.param({}, {"startsAt": "2026-11-23T18:00:00Z"}, id="fired-again"),
    pytest.param({"status": "resolved"}, {"status": "resolved"}, id="resolved"),
]


@pytest.mark.parametrize(("changes", "entry"), OTHER)
def test_other_notification_has_another_base_key(changes: dict, entry: dict) -> None:
    """Whatever is news has a key of its own."""
    assert mail(alert(**entry), **changes).idempotency_key != mail().idempotency_key


def test_order_of_alerts_has_no_part_in_the_key() -> None:
    """Alertmanager promises no order, so none is relied upon."""
    pair = [labelled(instance="a"), labelled(instance="b")]

    assert mail(*pair).idempotency_key == mail(*reversed(pair)).idempotency_key


def test_fingerprint_may_be_missing() -> None:
    """Senders that give none are told apart by their labels."""
    first, second = labelled(instance="a"), labelled(instance="b")
    del first["fingerprint"], second["fingerprint"]

    assert mail(first).idempotency_key != mail(second).idempotency_key
    assert mail(first).idempotency_key == mail(copy.deepcopy(first)).idempotency_key


def post_all(minutes: list[float], window: timedelta = RETRY_WINDOW) -> list[float]:
    """Play posts of one notification against a store with a unique key; return those mailed."""
    stored: dict[str, datetime] = {}
    mailed = []
    base = mail().idempotency_key or ""
    for minute in minutes:
        now = NOW + timedelta(minutes=minute)
        latest = max(stored.items(), key=lambda item: item[1], default=None)
        key = current_key(base, LatestMail(*latest) if latest else None, now=now, window=window)
        if key not in stored:
            stored[key] = now
            mailed.append(minute)
    return mailed


def test_retries_and_reminders() -> None:
    """Retries within minutes make no second mail, reminders after hours make one each."""
    assert post_all([0, 0.2, 1, 5.1, 14.9, 240, 240.5, 480, 494, 720]) == [0, 240, 480, 720]


@given(st.lists(st.floats(0, 500), min_size=1, max_size=30))
def test_no_border_to_slip_across(minutes: list[float]) -> None:
    """Mails of one notification are a window apart, and every post lies within one of a mail."""
    posts = sorted(minutes)
    mailed = post_all(posts)

    assert all(later - earlier >= 14.999 for earlier, later in pairwise(mailed))
    assert all(any(0 <= post - sent < 15.001 for sent in mailed) for post in posts)


def test_keys_fit() -> None:
    """A key has room for its generation within the 200 characters that a key may have."""
    base = mail(groupKey="x" * 5000).idempotency_key or ""
    latest = LatestMail(f"{base}+99999999", NOW)

    assert current_key(base, latest, now=NOW + timedelta(days=1)) == f"{base}+100000000"
    assert re.fullmatch(r"am-[0-9a-f]{40}", base)
