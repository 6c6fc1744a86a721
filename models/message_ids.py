"""Message-IDs: one a delivery keeps over all its attempts, and one that a thread refers to."""

from __future__ import annotations

import hashlib
from uuid import UUID

MAX_MESSAGE_ID = 255
"""Characters with angle brackets; what the column holds and every server takes."""


def new_message_id(delivery_id: UUID, domain: str) -> str:
    """
    Return the Message-ID that a delivery keeps over all its attempts.

    Args:
        delivery_id: The delivery.
        domain: The sender's domain in A-labels; shortened from the left where it would not fit.
    """
    return _bracketed(f"alert-{delivery_id.hex}", domain)


def thread_root_id(tenant: str, alert_id: str, domain: str) -> str:
    """
    Return the Message-ID that all mails of one alert refer to.

    Nobody ever sends that mail. Clients thread by common references, so each mail of an alert
    joins the others without anyone looking up which was the first.
    """
    # Slugs hold no line feed, so two pairs cannot hash alike by where they are joined.
    digest = hashlib.sha256(f"{tenant}\n{alert_id}".encode()).hexdigest()[:32]
    return _bracketed(f"alert-{digest}.thread", domain)


def _bracketed(left: str, domain: str) -> str:
    while len(left) + len(domain) + 3 > MAX_MESSAGE_ID:
        domain = domain.partition(".")[2]
    return f"<{left}@{domain}>"
