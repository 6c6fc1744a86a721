"""From an alert e-mail to the row that it becomes: its content sealed for that very row."""

from __future__ import annotations

from uuid import UUID

from models.alert import AlertEmail
from models.alert_lock import look_again
from models.ids import uuid7
from models.intake import NewDelivery
from models.large_content import fingerprint as fingerprint_of
from models.large_content import is_large, take_apart
from models.message_ids import new_message_id
from models.vault import Vault, delivery_context


def new_delivery(
    alert: AlertEmail,
    vault: Vault,
    *,
    tenant_id: UUID,
    mailbox_id: UUID,
    address: str,
    delivery_id: UUID | None = None,
    given: AlertEmail | None = None,
) -> NewDelivery:
    """
    Seal an alert e-mail, a large one as far as it stands in the row; nothing is stored yet.

    Args:
        alert: What was handed in.
        vault: Seals its content.
        tenant_id: On whose behalf it goes out.
        mailbox_id: From where.
        address: Of that mailbox.
        delivery_id: The row's key, where the caller has to know it beforehand.
        given: As it was handed in, where recipients were put in since. It is what a second one of
            the same key is compared with: a list that was changed makes no other alert.

    Raises:
        InvalidAlert: It was changed behind the back of its validation, see ``alert_lock``.
    """
    look_again(alert)
    key = delivery_id or uuid7()
    large = None
    if is_large(alert):
        (content, large), fingerprint = take_apart(alert, vault, key), fingerprint_of(alert)
    else:
        content, fingerprint = alert.dump_and_fingerprint()
    if given is not None and given is not alert:
        fingerprint = fingerprint_of(given)
    return NewDelivery(
        id=key,
        tenant_id=tenant_id,
        mailbox_id=mailbox_id,
        severity=int(alert.severity),
        fingerprint=fingerprint,
        subject=alert.subject,
        recipients=alert.envelope_recipients,
        payload_encrypted=vault.seal(content, context=delivery_context(key)),
        message_id=new_message_id(key, address.rpartition("@")[2]),
        idempotency_key=alert.idempotency_key,
        alert_id=alert.alert_id,
        not_before=alert.not_before,
        expires_at=alert.expires_at,
        large=large,
    )
