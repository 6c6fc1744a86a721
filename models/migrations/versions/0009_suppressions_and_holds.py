"""Addresses that are not used again, hosts that may not send, and recipients of one mail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from models.migrations.code_points import order_by_code_points

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "suppression",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(length=320), nullable=False),
        sa.Column("rule", sa.String(length=100), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("suppressed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
        sa.PrimaryKeyConstraint("tenant_id", "address"),
    )
    op.create_table(
        "host_hold",
        sa.Column("smtp_host", sa.String(length=255), nullable=False),
        sa.Column("sends_from", sa.String(length=100), nullable=False),
        sa.Column("rule", sa.String(length=100), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("probe_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("smtp_host", "sends_from"),
    )
    op.add_column("mailbox", sa.Column("max_recipients", sa.Integer(), nullable=True))
    op.add_column(
        "mailbox", sa.Column("recipients_learned_at", sa.DateTime(timezone=True), nullable=True)
    )
    order_by_code_points(op.get_bind(), ["host_hold", "suppression"])
