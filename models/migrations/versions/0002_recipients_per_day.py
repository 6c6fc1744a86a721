"""Recipients a day: what was sent, and what a tenant's limit follows from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "recipient_count",
        sa.Column("subject", sa.String(length=330), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("writer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recipients", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "ends_at", "writer"),
    )
    op.create_index("ix_recipient_count_ends_at", "recipient_count", ["ends_at"], unique=False)
    op.add_column("tenant", sa.Column("licences", sa.Integer(), nullable=True))
    op.add_column(
        "tenant", sa.Column("trial", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("tenant", sa.Column("accepted_domains", sa.JSON(), nullable=True))
    # Recipients are counted by account, whose case Exchange does not tell apart.
    op.execute("UPDATE mailbox SET auth_user = lower(auth_user)")
    op.create_index(op.f("ix_mailbox_auth_user"), "mailbox", ["auth_user"], unique=False)
    in_hand = sa.text("state = 'sending'")
    op.create_index(
        "ix_delivery_in_hand",
        "delivery",
        ["mailbox_id"],
        unique=False,
        sqlite_where=in_hand,
        postgresql_where=in_hand,
    )
