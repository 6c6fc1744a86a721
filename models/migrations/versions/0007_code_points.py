"""Texts compare and sort by code points; what ended unsent is found by an index."""

from __future__ import annotations

import sqlalchemy as sa
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
    op.create_index(
        "ix_delivery_unsent",
        "delivery",
        ["settled_at"],
        sqlite_where=sa.text("state IN ('cancelled', 'expired')"),
        postgresql_where=sa.text("state IN ('cancelled', 'expired')"),
    )
