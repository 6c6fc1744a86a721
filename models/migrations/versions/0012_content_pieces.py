"""Large contents in pieces of their own, so that a row that changes does not carry them along."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Contents that stand in their deliveries' rows stay there: no key is at hand here to seal
    # them anew, and workers read both.
    op.create_table(
        "content_piece",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("octets_encrypted", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_content_piece_delivery_id", "content_piece", ["delivery_id"])
