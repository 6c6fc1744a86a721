"""Tenants: a seal over the addresses that secrets and tokens go to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("tenant", sa.Column("route_encrypted", sa.LargeBinary(), nullable=True))
