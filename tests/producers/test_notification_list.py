"""An alert that names nobody goes to its tenant's list, by every door."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.alert import AlertEmail
from models.errors import InvalidAlert
from models.ids import uuid7
from models.new_delivery import new_delivery
from models.recipients import with_recipients
from models.routes import Route
from tests.models.directory_parts import VAULT

ROUTE = Route(
    uuid7(), uuid7(), "contoso", "alerts@contoso.example", None,
    {"default": ["ops@contoso.example"], "critical": ["noc@contoso.example"]}, None,
)  # fmt: skip


def _alert(**more: object) -> AlertEmail:
    return AlertEmail.parse({"tenant": "contoso", "subject": "s", "text": "t", **more})


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "ops@contoso.example"),
        ({"to": []}, "ops@contoso.example"),
        ({"severity": "critical"}, "noc@contoso.example"),
        ({"cc": "x@contoso.example"}, "x@contoso.example"),
        ({"to": "y@contoso.example", "severity": "critical"}, "y@contoso.example"),
    ],
)
def test_the_list_of_its_severity_is_told(more: dict[str, object], told: str) -> None:
    """Who is named, gets it alone; where nobody is, the list does."""
    assert with_recipients(_alert(**more), ROUTE).envelope_recipients == (told,)


def test_without_a_list_it_is_refused_and_says_how_to_set_one() -> None:
    """A mail that would reach nobody is not accepted."""
    with pytest.raises(InvalidAlert, match="tenants edit contoso --notify ADDRESS") as refused:
        with_recipients(_alert(), replace(ROUTE, notify={}))

    assert refused.value.field == "to"


def test_a_list_that_was_changed_makes_no_other_alert() -> None:
    """The same key with the same words is the same alert, whoever is on the list by now."""
    alert = _alert(idempotency_key="k")
    known = {
        new_delivery(
            with_recipients(alert, replace(ROUTE, notify={"default": [told]})), VAULT,
            tenant_id=ROUTE.tenant_id, mailbox_id=ROUTE.mailbox_id, address=ROUTE.address,
            given=alert,
        ).fingerprint
        for told in ("a@contoso.example", "b@contoso.example")
    }  # fmt: skip

    assert len(known) == 1
