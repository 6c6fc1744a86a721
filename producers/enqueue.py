"""
The Python door: an alert e-mail in, a committed delivery out, then a wake-up.

    from producers import enqueue
    receipt = enqueue(AlertEmail(tenant="contoso", to=["ops@contoso.example"], …))

When the call returns, the alert is committed: no crash of any process loses it, nor does the loss
of Redis. Where SQL is away, or refuses for any reason, it raises ``StoreUnavailable`` and nothing
was accepted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, and_, or_, select

from models import contents, database, intake, intake_checks, routes
from models.alert import AlertEmail
from models.database import create_engine_from, missing_file
from models.errors import (
    AlertpostError,
    ConfigurationError,
    InvalidAlert,
    NotFound,
    RouteGone,
    StoreUnavailable,
)
from models.intake import NewDelivery, Receipt
from models.moves import DELIVERY
from models.new_delivery import new_delivery
from models.outages import wholly_translated
from models.producing import read, write
from models.redis_keys import RedisKeys
from models.settings import Settings
from models.severity import Severity
from models.vault import Vault
from models.waker import Waker
from producers.alertmanager import (
    LatestMail,
    Recipients,
    alerts_from_webhook,
    current_key,
)

_LOOKS = 5
"""How often mailboxes may be removed under our hands before we give up."""


_Store = Callable[[list[NewDelivery], frozenset[UUID]], list[Receipt]]
"""Stores deliveries, of some of which the large contents are stored already."""


class Producer:
    """
    Accepts alert e-mails. Safe to share between threads.

    Args:
        engine: Where deliveries are committed.
        vault: Seals what is stored.
        waker: Tells the workers; None where nobody listens yet, the sweep will find the work.
    """

    def __init__(self, engine: Engine, vault: Vault, waker: Waker | None) -> None:
        self._engine = engine
        self._vault = vault
        self._waker = waker

    @classmethod
    def from_settings(cls, settings: Settings) -> Producer:
        """
        Build a producer from settings; connections are opened when they are needed.

        Raises:
            ConfigurationError: A setting is wrong, or there is no SQLite file; none is made.
        """
        missing = missing_file(settings.sqlalchemy_url)
        if missing is not None:
            raise ConfigurationError(
                f"there is no database at {missing}; set ALERTPOST_DATA_DIR or "
                "ALERTPOST_DATABASE_URL to that of the installation, or run `alertpost init`"
            )
        waker = None
        if settings.redis_url:
            waker = Waker(settings.redis_url, RedisKeys(settings.redis_prefix))
        return cls(
            create_engine_from(settings.sqlalchemy_url),
            Vault([key.get_secret_value() for key in settings.secret_keys]),
            waker,
        )

    def enqueue(self, alert: AlertEmail) -> Receipt:
        """
        Accept one alert e-mail.

        Returns:
            The delivery. ``created`` is False where the tenant used the idempotency key before;
            ``same_content`` then says whether it was for the same alert.

        Raises:
            InvalidAlert: Its deadline is past.
            NotFound: The tenant or the mailbox is unknown.
            StoreUnavailable: SQL is away; nothing was accepted.
        """
        return self.enqueue_many([alert])[0]

    def enqueue_many(self, alerts: Sequence[AlertEmail]) -> list[Receipt]:
        """
        Accept many alert e-mails in one transaction: all of them or none.

        Returns:
            One receipt each, in order.

        Raises:
            PastDeadline: The deadlines of some are past; says which. Nothing was accepted.
            NotFound: A tenant or mailbox is unknown; names it. Nothing was accepted.
            StoreUnavailable: SQL is away; nothing was accepted.
        """

        def store(deliveries: list[NewDelivery], stored: frozenset[UUID]) -> list[Receipt]:
            rows = intake.bind(self._engine.dialect, deliveries)
            with write(self._engine) as connection:
                intake_checks.check(connection, deliveries)
                return intake.insert(connection, deliveries, rows=rows, stored=stored)

        return self._accept(alerts, store)

    def enqueue_notifications(self, alerts: Sequence[AlertEmail]) -> list[Receipt]:
        """
        Accept mails whose idempotency keys are base keys of ``producers.alertmanager``.

        A notification that was posted again after a time-out makes no second mail; one that is
        repeated after the repeat interval does.
        """

        def store(deliveries: list[NewDelivery], stored: frozenset[UUID]) -> list[Receipt]:
            with write(self._engine) as connection:
                now = database.now(connection)
                keyed = [_with_key(one, _current(connection, one, now)) for one in deliveries]
                intake_checks.check(connection, keyed)
                return intake.insert(connection, keyed, stored=stored)

        return self._accept(alerts, store)

    def enqueue_webhook(
        self, body: Mapping[str, Any], *, tenant_label: str = "tenant"
    ) -> list[Receipt]:
        """
        Accept what Prometheus Alertmanager posted.

        Raises:
            InvalidAlert: The body is no webhook of version 4, or nobody is to be told.
            NotFound: The tenant is unknown.
            StoreUnavailable: SQL is away; nothing was accepted, Alertmanager will post it again.
        """
        return self.enqueue_notifications(
            alerts_from_webhook(body, recipients=self.recipients(), tenant_label=tenant_label)
        )

    def recipients(self) -> Recipients:
        """Give the tenants' notification lists as they are now."""
        with read(self._engine) as connection:
            known = routes.routes(connection)
        return NotificationLists(known)

    def close(self) -> None:
        """Close connections."""
        self._engine.dispose()
        if self._waker is not None:
            self._waker.close()

    def _accept(self, alerts: Sequence[AlertEmail], store: _Store) -> list[Receipt]:
        """Look up, seal, store and wake; look up again where a mailbox was removed meanwhile."""
        if not alerts:
            return []
        for last in (*[False] * (_LOOKS - 1), True):
            with read(self._engine) as connection:
                known = routes.routes(connection, slugs={alert.tenant for alert in alerts})
            # Sealing thousands of bodies takes its time: not while holding the one writer.
            deliveries = [self._delivery(alert, known) for alert in alerts]
            try:
                receipts = self._store(deliveries, store)
            except RouteGone:
                if last:
                    raise
            else:
                break
        self._wake(receipts)
        return receipts

    def _delivery(self, alert: AlertEmail, known: routes.Routes) -> NewDelivery:
        route = self._route(alert, known)
        return new_delivery(
            alert,
            self._vault,
            tenant_id=route.tenant_id,
            mailbox_id=route.mailbox_id,
            address=route.address,
        )

    def _store(self, deliveries: list[NewDelivery], store: _Store) -> list[Receipt]:
        """Store large contents ahead, then the rest; remove again what was in vain."""
        large = [new.large for new in deliveries if new.large is not None]
        with wholly_translated():
            stored = contents.store_ahead(self._engine, large)
        try:
            receipts = store(deliveries, stored)
        except StoreUnavailable:
            # Perhaps it was committed all the same; if not, the workers remove it one day.
            raise
        except AlertpostError:
            self._forget(stored)
            raise
        self._forget(stored - {receipt.delivery_id for receipt in receipts if receipt.created})
        return receipts

    def _forget(self, delivery_ids: frozenset[UUID]) -> None:
        # What was decided stands: if SQL is away by now, the workers remove it one day.
        with suppress(StoreUnavailable), wholly_translated():
            contents.forget(self._engine, delivery_ids)

    def _route(self, alert: AlertEmail, known: routes.Routes) -> routes.Route:
        try:
            return known.find(alert.tenant, alert.mailbox)
        except NotFound:
            # Only now is it worth a query to tell the nearest name.
            with read(self._engine) as connection:
                return routes.find_route(
                    connection, tenant_slug=alert.tenant, mailbox_address=alert.mailbox
                )

    def _wake(self, receipts: Iterable[Receipt]) -> None:
        """Wake after the commit; what is due later is found by the sweep."""
        if self._waker is not None:
            self._waker.wake(
                {
                    (receipt.mailbox_id, receipt.severity == Severity.CRITICAL): None
                    for receipt in receipts
                    if receipt.created
                }
            )


class NotificationLists:
    """Who is told, by tenant and severity: the severity's own list, else the default one."""

    def __init__(self, known: routes.Routes) -> None:
        self._known = known

    def __call__(self, tenant: str, severity: Severity) -> Sequence[str]:
        """
        Give the addresses.

        Raises:
            InvalidAlert: The tenant is unknown or has no mailbox.
        """
        try:
            notify = self._known.find(tenant).notify
        except NotFound as error:
            raise InvalidAlert("tenant", str(error)) from error
        return notify.get(severity.label) or notify.get("default") or ()


def _current(connection: Connection, delivery: NewDelivery, now: Any) -> str | None:
    """Find the key under which this notification counts now."""
    base = delivery.idempotency_key
    if base is None:
        return None
    columns = DELIVERY.c
    key = columns.idempotency_key
    latest = connection.execute(
        select(key, columns.enqueued_at)
        .where(
            columns.tenant_id == delivery.tenant_id,
            # Generations are base+1, base+2, …; a comma follows the plus sign by code points,
            # in which the column sorts on both databases.
            or_(key == base, and_(key >= f"{base}+", key < f"{base},")),
        )
        .order_by(columns.enqueued_at.desc())
        .limit(1)
    ).one_or_none()
    return current_key(
        base,
        LatestMail(latest.idempotency_key, latest.enqueued_at) if latest else None,
        now=now,
    )


def _with_key(delivery: NewDelivery, key: str | None) -> NewDelivery:
    return delivery if key == delivery.idempotency_key else replace(delivery, idempotency_key=key)


_default: Producer | None = None
_default_lock = threading.Lock()


def default_producer() -> Producer:
    """
    Give the process' producer, built from the environment on first use.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """
    global _default  # noqa: PLW0603 - one producer a process is the point
    with _default_lock:
        if _default is None:
            _default = Producer.from_settings(Settings.load())
        return _default


def enqueue(alert: AlertEmail) -> Receipt:
    """Accept one alert e-mail; see ``Producer.enqueue``."""
    return default_producer().enqueue(alert)


def enqueue_many(alerts: Collection[AlertEmail]) -> list[Receipt]:
    """Accept many alert e-mails, all or none; see ``Producer.enqueue_many``."""
    return default_producer().enqueue_many(list(alerts))
