"""Shared mailboxes: in which name their user signs in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("mailbox", sa.Column("auth_form", sa.String(length=10), nullable=True))
