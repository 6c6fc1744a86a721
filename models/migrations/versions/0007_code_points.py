"""Texts compare and sort by code points, not in the order of the database's language."""

from __future__ import annotations

from alembic import op

from models.migrations.code_points import order_by_code_points

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

TABLES = [
    "app_credential", "app_registration", "attempt", "audit_entry", "consent_link", "delivery",
    "grant", "mailbox", "recipient_count", "sign_in", "tenant", "told_warning",
]  # fmt: skip


def upgrade() -> None:
    order_by_code_points(op.get_bind(), TABLES)
