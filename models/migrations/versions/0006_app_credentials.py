"""Credentials of app registrations: rows of their own, so that two can stand side by side."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "app_credential",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("app_registration_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("client_secret_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("private_key_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("certificate_pem", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("worked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refused_rule", sa.String(length=100), nullable=True),
        sa.Column("refused_answer", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["app_registration_id"], ["app_registration.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("app_registration_id", "number"),
    )
    # A sealed value opens only for the id that it was sealed for, and no key is at hand here: so
    # what was the app's only credential keeps the app's id as its own.
    op.execute(
        """
        INSERT INTO app_credential (
            id, app_registration_id, number, client_secret_encrypted, private_key_encrypted,
            certificate_pem, expires_at, added_at
        )
        SELECT id, id, 1, client_secret_encrypted, private_key_encrypted,
            certificate_pem, credential_expires_at, created_at
        FROM app_registration
        WHERE client_secret_encrypted IS NOT NULL OR private_key_encrypted IS NOT NULL
        """
    )
    for column in (
        "client_secret_encrypted", "private_key_encrypted", "certificate_pem",
        "credential_expires_at",
    ):  # fmt: skip
        op.drop_column("app_registration", column)
