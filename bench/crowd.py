"""
Hundreds and thousands of connected mailboxes in seconds.

Consent through the browser's pages takes tens of milliseconds for each; a crowd is written straight
into the tables, and its tokens are signed with the box's own key and put where workers share them.
From there on everything is as in production: the box checks each token as it checks any other.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import func, insert, select

from console.stage import Stage
from models import app_registrations, mailboxes
from models.database import read, write
from models.grants import DELEGATED
from models.ids import uuid7
from models.redis_keys import RedisKeys
from models.tables import METADATA
from models.vault import token_context
from sandbox.tokens import DELEGATED_SMTP, TokenSigner, access_claims
from sandbox.worldfile import derived_id
from workers.lease_board import Published

TOKEN_SECONDS = 24 * 3600
CHUNK = 1000

_D = METADATA.tables["delivery"].c


@contextmanager
def crowd(
    size: int,
    *,
    limits: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    database_url: str = "",
    with_tokens: int | None = None,
) -> Iterator[Stage]:
    """
    Set a stage with so many tenants, one connected mailbox each.

    Args:
        size: Tenants ``tenant0`` to ``tenant<size - 1>``.
        limits: Of the box's mailboxes, over its own.
        settings: Of the workers, over their defaults.
        database_url: Empty: SQLite.
        with_tokens: Only the first so many share a token; for the others none was needed yet.
    """
    slugs = [f"tenant{number}" for number in range(size)]
    with (
        tempfile.TemporaryDirectory(prefix="alertpost-bench-") as directory,
        Stage(
            Path(directory), slugs, limits=limits, database_url=database_url, settings=settings
        ) as given,
    ):
        _fill(
            given,
            Path(directory) / "sandbox" / "signing.key",
            size if with_tokens is None else with_tokens,
        )
        yield given


def _fill(given: Stage, signing_key: Path, with_tokens: int) -> None:
    """Add tenants, mailboxes and grants in bulk, and share a token of each."""
    facts, now = given.sandbox.facts, datetime.now(UTC)
    app = facts["apps"][0]
    directories = {tenant["slug"]: tenant["tenant_id"] for tenant in facts["tenants"]}
    keys = {slug: (uuid7(), uuid7(), uuid7()) for slug in given.slugs}
    with write(given.engine) as connection:
        app_registrations.add_app(
            connection,
            given.vault,
            name="bench",
            client_id=app["client_id"],
            credential=app_registrations.Credential.secret(app["secrets"][0]),
        )
        app_id = connection.execute(select(METADATA.tables["app_registration"].c.id)).scalar_one()
        rows: dict[str, list[dict[str, Any]]] = {"tenant": [], "mailbox": [], "grant": []}
        for slug, (tenant, mailbox, grant) in keys.items():
            rows["tenant"].append({
                "id": tenant, "slug": slug, "directory_id": directories[slug],
                "app_registration_id": app_id, "authority": facts["entra_url"],
                "smtp_host": facts["smtp_host"], "smtp_port": facts["smtp_port"],
                "ca_file": facts["ca_file"], "created_at": now,
            })  # fmt: skip
            rows["mailbox"].append({
                "id": mailbox, "tenant_id": tenant, "address": address(slug), "is_default": True,
                "connected_at": now, "created_at": now,
            })  # fmt: skip
            rows["grant"].append({
                "id": grant, "mailbox_id": mailbox, "kind": DELEGATED, "granted_at": now,
            })  # fmt: skip
        for table, those in rows.items():
            for start in range(0, len(those), CHUNK):
                connection.execute(insert(METADATA.tables[table]), those[start : start + CHUNK])
    wanted = {slug: keys[slug] for slug in given.slugs[:with_tokens]}
    _share_tokens(given, TokenSigner.kept_in(signing_key), wanted, directories, app["client_id"])


def _share_tokens(
    given: Stage,
    signer: TokenSigner,
    keys: Mapping[str, tuple[UUID, UUID, UUID]],
    directories: Mapping[str, str],
    client_id: str,
) -> None:
    names = RedisKeys(given.settings.redis_prefix)
    with redis.Redis.from_url(given.settings.redis_url) as client:
        pipeline = client.pipeline(transaction=False)
        for slug, (_, mailbox, grant) in keys.items():
            claims = access_claims(
                issuer=f"{given.sandbox.facts['entra_url']}/{directories[slug]}/v2.0",
                audience="https://outlook.office.com",
                tenant_id=directories[slug],
                client_id=client_id,
                object_id=derived_id("user", address(slug)),
                issued_at=time.time(),
                lifetime_seconds=TOKEN_SECONDS,
                address=address(slug),
                scopes=(DELEGATED_SMTP,),
            )
            token = Published(signer.sign(claims), TOKEN_SECONDS, str(grant), 1)
            sealed = given.vault.seal(
                json.dumps(asdict(token)).encode(), context=token_context(mailbox)
            )
            pipeline.set(names.token(mailbox), sealed, px=TOKEN_SECONDS * 1000)
        pipeline.execute()


def address(slug: str) -> str:
    """Name a tenant's mailbox."""
    return f"alerts@{slug}.example"


def mailbox_ids(given: Stage) -> dict[str, UUID]:
    """Map each slug to its mailbox."""
    with read(given.engine) as connection:
        return {
            entry.address.removeprefix("alerts@").removesuffix(".example"): entry.id
            for entry in mailboxes.list_mailboxes(connection)
        }


def count(given: Stage, *states: str) -> int:
    """Count the deliveries in these states."""
    with read(given.engine) as connection:
        found = select(func.count()).where(_D.state.in_(states))
        return int(connection.execute(found).scalar_one())


def settled_at(given: Stage, ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Tell when each of these deliveries was accepted, by the database's clock; else leave out."""
    found: dict[UUID, datetime] = {}
    with read(given.engine) as connection:
        for start in range(0, len(ids), 500):
            chosen = select(_D.id, _D.settled_at).where(
                _D.id.in_(ids[start : start + 500]), _D.state == "accepted"
            )
            found.update({row.id: row.settled_at for row in connection.execute(chosen)})
    return found
