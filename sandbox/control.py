"""
The sandbox's own door: look at everything, change anything. JSON only.

It asks nobody who they are, so the sandbox must not listen where strangers are.

    GET    /                                  the routes
    GET    /world                             tenants, apps with their secrets, mailboxes, limits
    GET    /counters                          token requests, refreshes, AADSTS answers
    GET    /mailboxes                         what each mailbox did: taken, violations, peaks
    GET    /mailboxes/{address}               the same of one
    PATCH  /mailboxes/{address}               smtp_auth (true, false, null = as the tenant),
                                              licensed, conditional_access, send_as, full_access,
                                              quota_bytes, used_bytes, limits
    POST   /mailboxes/{address}/unlock        end a lock-out
    GET    /violations?mailbox=               times that a limit was broken, one JSON line each
    GET    /outbox?mailbox=&after=&limit=     mails taken, one JSON line each, oldest first;
                                              after is a sequence number
    GET    /outbox/{sequence}                 a mail as it came, if it was kept
    POST   /tenants                           add one; see worldfile.TenantSpec
    PATCH  /tenants/{tenant}                  smtp_auth, conditional_access, strict_rotation,
                                              access_token_seconds, user_consent_allowed
    POST   /tenants/{tenant}/users            add an account and mailbox; see worldfile.UserSpec
    POST   /tenants/{tenant}/mailboxes        add a mailbox; see worldfile.MailboxSpec
    POST   /tenants/{tenant}/consent          client_id; action: grant, withdraw, restore, remove,
                                              disable or enable; for grant also permissions,
                                              roles, mailboxes, scope
    PATCH  /users/{address}                   enabled, password, admin, mfa
    DELETE /users/{address}                   delete the account; its mailbox stays
    POST   /users/{address}/revoke            revoke its grants; recall_access_tokens
    POST   /users/{address}/grant             client_id; consent and give a refresh token
                                              without a browser
    POST   /apps                              add one; see worldfile.AppSpec
    POST   /apps/{client_id}/secrets          a further secret: value, ends_in_days
    POST   /apps/{client_id}/secrets/expire   value or secret_id; without, all of them
    DELETE /apps/{client_id}/secrets/{id}     delete one
    POST   /apps/{client_id}/certificates     pem
    PATCH  /limits                            limits of all mailboxes; see limits.Limits
    GET    /faults                            those in force
    POST   /faults/entra                      see entra_faults.EntraFault
    POST   /faults/exchange                   see faults.Fault; or preset, and what narrows it
    DELETE /faults/{side}?name=               one (id or name) or all of entra or exchange
    POST   /clock                             advance_seconds: tokens and secrets age
    POST   /reset                             forget counts, outboxes, violations, faults;
                                              grants: true forgets the grants too

All stand below ``/_sandbox``. `tenant` is an id, a domain or a slug. What is unknown gets 404, bad
input 400, both as ``{"error": …}``.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, fields, replace
from functools import wraps
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import anyio.lowlevel
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sandbox.apps import AppCertificate
from sandbox.entra_errors import EntraError
from sandbox.entra_faults import EntraFault
from sandbox.faults import PRESETS, Fault
from sandbox.limits import Limits
from sandbox.web import BodyTooLarge, read_body
from sandbox.world import SMTP_PERMISSION
from sandbox.worldfile import (
    Address,
    AppSpec,
    Guid,
    MailboxSpec,
    SecretSpec,
    TenantSpec,
    UserSpec,
    add_app,
    add_mailbox,
    add_tenant,
    add_user,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from sandbox.apps import AppRegistration
    from sandbox.directory import Directory, User
    from sandbox.mailboxes import Mailbox
    from sandbox.outbox import MailRecord
    from sandbox.world import World

_BODY_LIMIT = 16 * 1024 * 1024
_LINES_AT_ONCE = 500
_Handler = Callable[["Request"], Awaitable[Response]]


class BadInput(Exception):  # noqa: N818 - reads as what it is
    """What was sent cannot be used; the text says why."""


class Unknown(Exception):  # noqa: N818 - reads as what it is
    """The path names nothing."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantChange(_Body):
    """Changes to a tenant; what is not given stays."""

    smtp_auth: bool | None = None
    conditional_access: bool | None = None
    strict_rotation: bool | None = None
    user_consent_allowed: bool | None = None
    access_token_seconds: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = (
        None
    )


class MailboxChange(_Body):
    """Changes to a mailbox; what is not given stays, and null means something for two of them."""

    smtp_auth: bool | None = None
    licensed: bool = True
    conditional_access: bool = False
    send_as: tuple[Address, ...] = ()
    full_access: tuple[Address, ...] = ()
    quota_bytes: Annotated[int, Field(ge=0)] | None = None
    used_bytes: int = Field(default=0, ge=0)
    limits: dict[str, Any] = Field(default_factory=dict)


class UserChange(_Body):
    """Changes to an account; what is not given stays."""

    enabled: bool = True
    password: str = ""
    admin: bool = False
    mfa: bool = False


class ConsentChange(_Body):
    """What happens to an app in a tenant."""

    client_id: Guid
    action: Literal["grant", "withdraw", "restore", "remove", "disable", "enable"]
    permissions: tuple[str, ...] = (SMTP_PERMISSION,)
    roles: tuple[str, ...] = ()
    mailboxes: tuple[Address, ...] = ()
    scope: tuple[str, ...] = ()


class Revocation(_Body):
    """How a user's sessions are revoked."""

    recall_access_tokens: bool = False


class GrantWanted(_Body):
    """A grant without a browser."""

    client_id: Guid
    permissions: tuple[str, ...] = (SMTP_PERMISSION,)


class SecretNamed(_Body):
    """Which secret is meant; none given means all."""

    value: str = ""
    secret_id: str = ""


class CertificateGiven(_Body):
    """A certificate to upload."""

    pem: str


class ClockChange(_Body):
    """A jump of the sandbox's clock."""

    advance_seconds: float = Field(ge=0)


class ResetWanted(_Body):
    """What to forget besides the books."""

    grants: bool = False


_BodyT = TypeVar("_BodyT", bound=BaseModel)
_LIMITS: TypeAdapter[Limits] = TypeAdapter(Limits)
_ENTRA_FAULT: TypeAdapter[EntraFault] = TypeAdapter(EntraFault)
_SEQUENCE = attrgetter("sequence")


def control_routes(world: World) -> list[Route]:
    """Give the routes of the control API for a world."""
    control = _Control(world)
    table: tuple[tuple[str, str, _Handler], ...] = (
        ("GET", "/world", control.world),
        ("GET", "/counters", control.counters),
        ("GET", "/mailboxes", control.mailboxes),
        ("GET", "/mailboxes/{address}", control.mailbox),
        ("PATCH", "/mailboxes/{address}", control.change_mailbox),
        ("POST", "/mailboxes/{address}/unlock", control.unlock),
        ("GET", "/violations", control.violations),
        ("GET", "/outbox", control.outbox),
        ("GET", "/outbox/{sequence:int}", control.mail),
        ("POST", "/tenants", control.add_tenant),
        ("PATCH", "/tenants/{tenant}", control.change_tenant),
        ("POST", "/tenants/{tenant}/users", control.add_user),
        ("POST", "/tenants/{tenant}/mailboxes", control.add_mailbox),
        ("POST", "/tenants/{tenant}/consent", control.change_consent),
        ("PATCH", "/users/{address}", control.change_user),
        ("DELETE", "/users/{address}", control.delete_user),
        ("POST", "/users/{address}/revoke", control.revoke),
        ("POST", "/users/{address}/grant", control.give_grant),
        ("POST", "/apps", control.add_app),
        ("POST", "/apps/{client_id}/secrets", control.add_secret),
        ("POST", "/apps/{client_id}/secrets/expire", control.expire_secrets),
        ("DELETE", "/apps/{client_id}/secrets/{secret_id}", control.delete_secret),
        ("POST", "/apps/{client_id}/certificates", control.add_certificate),
        ("PATCH", "/limits", control.change_limits),
        ("GET", "/faults", control.faults),
        ("POST", "/faults/entra", control.add_entra_fault),
        ("POST", "/faults/exchange", control.add_exchange_fault),
        ("DELETE", "/faults/{side}", control.clear_faults),
        ("POST", "/clock", control.change_clock),
        ("POST", "/reset", control.reset),
    )

    async def index(_request: Request) -> Response:
        return JSONResponse({"routes": [f"{method} /_sandbox{path}" for method, path, _ in table]})

    return [
        Route("/_sandbox/", index),
        *(
            Route(f"/_sandbox{path}", _guarded(handler), methods=[method])
            for method, path, handler in table
        ),
    ]


def _guarded(handler: _Handler) -> _Handler:
    """Turn what a handler raises about its input into answers."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Unknown as error:
            return JSONResponse({"error": str(error)}, status_code=404)
        except BodyTooLarge:
            return JSONResponse({"error": "the body is too large"}, status_code=413)
        except ValidationError as error:
            return JSONResponse({"error": _explained(error)}, status_code=400)
        except (BadInput, ValueError, EntraError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return answer


class _Control:
    def __init__(self, world: World) -> None:
        self._world = world

    # Looking

    async def world(self, _request: Request) -> Response:
        """Give tenants, apps and mailboxes."""
        world = self._world
        return JSONResponse(
            {
                "now": world.clock(),
                "tenants": [
                    directory.as_json() | self._switches(directory)
                    for directory in world.directories.values()
                ],
                "apps": [app.as_json() for app in world.apps.values()],
                "mailboxes": [mailbox.address for mailbox in world.mailboxes],
                "limits": asdict(world.mailboxes.limits),
            }
        )

    def _switches(self, directory: Directory) -> dict[str, bool]:
        organisation = self._world.mailboxes.organisation(directory.tenant_id)
        return {
            "smtp_auth": organisation.smtp_auth,
            "conditional_access": organisation.conditional_access,
        }

    async def counters(self, _request: Request) -> Response:
        """Give what the token endpoint counted."""
        return JSONResponse(self._world.ledger.as_json())

    async def mailboxes(self, _request: Request) -> Response:
        """Give what happened in all mailboxes."""
        return JSONResponse(self._world.mailboxes.snapshot())

    async def mailbox(self, request: Request) -> Response:
        """Give what happened in one mailbox."""
        return JSONResponse(self._mailbox(request).snapshot())

    async def violations(self, request: Request) -> Response:
        """Give the times that a limit was not respected."""
        only = request.query_params.get("mailbox", "").lower()
        chosen = [v for v in self._world.mailboxes.violations if only in {"", v.mailbox}]
        return _json_lines(violation._asdict() for violation in chosen)

    async def outbox(self, request: Request) -> Response:
        """Give the mails that were taken."""
        after = _whole_number(request, "after", 0)
        limit = _whole_number(request, "limit", None)
        address = request.query_params.get("mailbox", "")
        boxes: Iterable[Mailbox] = self._world.mailboxes
        if address:
            boxes = [self._mailbox_at(address)]
        # Copies, because mail goes on arriving while the lines are written.
        shelves = [_newer(box, after or 0) for box in boxes]
        mails: Iterable[MailRecord] = heapq.merge(*shelves, key=_SEQUENCE)
        return _json_lines(_mail_line(mail) for mail in islice(mails, limit))

    async def mail(self, request: Request) -> Response:
        """Give a mail as it came."""
        content = self._world.mailboxes.shelf.get(request.path_params["sequence"])
        if content is None:
            raise Unknown("this mail was not kept or never came")
        return Response(content, media_type="message/rfc822")

    # Mailboxes and tenants

    async def change_mailbox(self, request: Request) -> Response:
        """Change a mailbox."""
        mailbox = self._mailbox(request)
        change = await _read(request, MailboxChange)
        if "limits" in change.model_fields_set:
            mailbox.limits = _changed_limits(mailbox.limits, change.limits)
        for name in change.model_fields_set - {"limits"}:
            value = getattr(change, name)
            setattr(mailbox, name, set(value) if isinstance(value, tuple) else value)
        return JSONResponse(mailbox.snapshot())

    async def unlock(self, request: Request) -> Response:
        """End a lock-out."""
        mailbox = self._mailbox(request)
        mailbox.unlock()
        return JSONResponse(mailbox.snapshot())

    async def change_limits(self, request: Request) -> Response:
        """Change the limits of all mailboxes."""
        change = await _read_object(request)
        store = self._world.mailboxes
        store.limits = _changed_limits(store.limits, change)
        for mailbox in store:
            mailbox.limits = _changed_limits(mailbox.limits, change)
        return JSONResponse(asdict(store.limits))

    async def add_tenant(self, request: Request) -> Response:
        """Add a tenant."""
        directory = add_tenant(self._world, await _read(request, TenantSpec))
        return JSONResponse(directory.as_json(), status_code=201)

    async def change_tenant(self, request: Request) -> Response:
        """Change a tenant."""
        directory = self._directory(request)
        change = (await _read(request, TenantChange)).model_dump(exclude_none=True)
        organisation = self._world.mailboxes.organisation(directory.tenant_id)
        least, most = change.get("access_token_seconds", (1, 1))
        if least > most:
            raise BadInput("access_token_seconds: the smaller number comes first")
        for name, value in change.items():
            owner = organisation if hasattr(organisation, name) else directory
            setattr(owner, name, value)
        return JSONResponse(directory.as_json() | self._switches(directory))

    async def add_mailbox(self, request: Request) -> Response:
        """Add a mailbox."""
        directory = self._directory(request)
        spec = await _read(request, MailboxSpec)
        add_mailbox(self._world, directory, spec)
        return JSONResponse(self._mailbox_at(spec.address).snapshot(), status_code=201)

    async def add_user(self, request: Request) -> Response:
        """Add an account."""
        user = add_user(self._world, self._directory(request), await _read(request, UserSpec))
        return JSONResponse(asdict(user), status_code=201)

    async def change_user(self, request: Request) -> Response:
        """Change an account."""
        _, user = self._account(request)
        change = await _read(request, UserChange)
        for name in change.model_fields_set:
            setattr(user, name, getattr(change, name))
        return JSONResponse(asdict(user))

    async def delete_user(self, request: Request) -> Response:
        """Delete an account."""
        directory, user = self._account(request)
        del directory.users[user.address.casefold()]
        return JSONResponse({"deleted": user.address})

    # Consent, grants, credentials

    async def change_consent(self, request: Request) -> Response:
        """Do to an app in a tenant what an administrator can do."""
        directory = self._directory(request)
        change = await _read(request, ConsentChange)
        if change.client_id not in self._world.apps:
            raise Unknown(f"there is no app {change.client_id}")
        if change.action == "grant":
            presence = directory.admit(change.client_id)
            presence.consent(change.permissions)
            presence.roles |= set(change.roles)
            presence.mailboxes |= set(change.mailboxes)
            presence.scope |= set(change.scope)
            return JSONResponse(directory.as_json())
        held = directory.enterprise_apps.get(change.client_id)
        if held is None:
            raise Unknown(f"app {change.client_id} is not in tenant {directory.slug}")
        if change.action == "remove":
            del directory.enterprise_apps[change.client_id]
        elif change.action in {"enable", "disable"}:
            held.enabled = change.action == "enable"
        else:
            held.withdrawn = change.action == "withdraw"
        return JSONResponse(directory.as_json())

    async def revoke(self, request: Request) -> Response:
        """Revoke a user's grants."""
        _, user = self._account(request)
        how = await _read(request, Revocation)
        number = self._world.revoke_grants(
            user.address, recall_access_tokens=how.recall_access_tokens
        )
        return JSONResponse({"revoked": number})

    async def give_grant(self, request: Request) -> Response:
        """Give a refresh token without a browser."""
        directory, user = self._account(request)
        wanted = await _read(request, GrantWanted)
        token = self._world.give_grant(
            user.address, wanted.client_id, permissions=wanted.permissions
        )
        return JSONResponse({"tenant_id": directory.tenant_id, "refresh_token": token})

    async def add_app(self, request: Request) -> Response:
        """Add an app registration."""
        app = add_app(self._world, await _read(request, AppSpec))
        return JSONResponse(app.as_json(), status_code=201)

    async def add_secret(self, request: Request) -> Response:
        """Add a secret to an app."""
        app = self._app(request)
        spec = await _read(request, SecretSpec)
        ends_at = self._world.clock() + spec.ends_in_days * 86400
        secret = app.add_secret(ends_at=ends_at, value=spec.value)
        return JSONResponse(
            {"secret_id": secret.secret_id, "value": secret.value, "ends_at": secret.ends_at},
            status_code=201,
        )

    async def expire_secrets(self, request: Request) -> Response:
        """Let secrets of an app end now."""
        app = self._app(request)
        named = await _read(request, SecretNamed)
        struck = [
            secret
            for secret in app.client_secrets
            if named.value in {"", secret.value} and named.secret_id in {"", secret.secret_id}
        ]
        for secret in struck:
            secret.ends_at = min(secret.ends_at, self._world.clock())
        return JSONResponse({"expired": len(struck)})

    async def delete_secret(self, request: Request) -> Response:
        """Delete a secret of an app."""
        app = self._app(request)
        secret_id = request.path_params["secret_id"]
        kept = [secret for secret in app.client_secrets if secret.secret_id != secret_id]
        if len(kept) == len(app.client_secrets):
            raise Unknown(f"app {app.client_id} has no secret {secret_id}")
        app.client_secrets = kept
        return JSONResponse({"deleted": secret_id})

    async def add_certificate(self, request: Request) -> Response:
        """Upload a certificate to an app."""
        app = self._app(request)
        certificate = AppCertificate.from_pem((await _read(request, CertificateGiven)).pem)
        app.certificates.append(certificate)
        return JSONResponse({"thumbprints": sorted(certificate.thumbprints)}, status_code=201)

    # Faults, clock, reset

    async def faults(self, _request: Request) -> Response:
        """Give the faults in force."""
        return JSONResponse(self._faults())

    async def add_entra_fault(self, request: Request) -> Response:
        """Put a fault of Entra in force."""
        given = await _read_object(request)
        _only_known(given, EntraFault)
        fault = _ENTRA_FAULT.validate_python(given)
        if fault.tenant_id:
            fault.tenant_id = self._directory_named(fault.tenant_id).tenant_id
        return JSONResponse({"id": self._world.entra_faults.add(fault)}, status_code=201)

    async def add_exchange_fault(self, request: Request) -> Response:
        """Put a fault of Exchange in force."""
        given = await _read_object(request)
        preset = given.pop("preset", None)
        if preset is None:
            fault = Fault.from_mapping(given)
        elif preset in PRESETS:
            fault = Fault.from_mapping(PRESETS[preset].as_mapping() | given)
        else:
            raise BadInput(f"preset: {preset!r} is none of {', '.join(PRESETS)}")
        self._world.exchange_faults.add(fault)
        return JSONResponse({"name": fault.name}, status_code=201)

    async def clear_faults(self, request: Request) -> Response:
        """Take one fault or all of a side back."""
        sides: Mapping[str, Callable[[str], int]] = {
            "entra": self._world.entra_faults.clear,
            "exchange": self._world.exchange_faults.clear,
        }
        side = request.path_params["side"]
        if side not in sides:
            raise Unknown("side must be entra or exchange")
        return JSONResponse({"cleared": sides[side](request.query_params.get("name", ""))})

    def _faults(self) -> dict[str, Any]:
        plan = self._world.exchange_faults
        return {
            "entra": self._world.entra_faults.as_json(),
            "exchange": plan.as_json(),
            "exchange_struck": dict(plan.struck),
            "exchange_presets": list(PRESETS),
        }

    async def change_clock(self, request: Request) -> Response:
        """Let time jump ahead."""
        change = await _read(request, ClockChange)
        ahead = self._world.advance(change.advance_seconds)
        return JSONResponse({"ahead_seconds": ahead, "now": self._world.clock()})

    async def reset(self, request: Request) -> Response:
        """Forget what happened."""
        wanted = await _read(request, ResetWanted)
        self._world.clear_books()
        if wanted.grants:
            self._world.grants.clear()
        return JSONResponse({"reset": True})

    # Finding what a path names

    def _mailbox(self, request: Request) -> Mailbox:
        return self._mailbox_at(request.path_params["address"])

    def _mailbox_at(self, address: str) -> Mailbox:
        mailbox = self._world.mailboxes.get(address)
        if mailbox is None:
            raise Unknown(f"there is no mailbox {address}")
        return mailbox

    def _account(self, request: Request) -> tuple[Directory, User]:
        address = request.path_params["address"]
        try:
            return self._world.account(address)
        except KeyError:
            raise Unknown(f"there is no account {address}") from None

    def _directory(self, request: Request) -> Directory:
        return self._directory_named(request.path_params["tenant"])

    def _directory_named(self, name: str) -> Directory:
        directory = self._world.directory_named(name)
        if directory is None:
            raise Unknown(f"there is no tenant {name}")
        return directory

    def _app(self, request: Request) -> AppRegistration:
        client_id = request.path_params["client_id"].lower()
        app = self._world.apps.get(client_id)
        if app is None:
            raise Unknown(f"there is no app {client_id}")
        return app


class MailLine(NamedTuple):
    """One line of the outbox's export."""

    sequence: int
    time: float
    mailbox: str
    message_id: str
    alert_id: str
    size: int
    sender: str
    recipients: tuple[str, ...]
    subject: str
    delivered_at: float
    answered: bool


def _mail_line(mail: MailRecord) -> dict[str, object]:
    return MailLine(
        sequence=mail.sequence,
        time=mail.time,
        mailbox=mail.mailbox,
        message_id=mail.message_id,
        alert_id=mail.alert_id,
        size=mail.size,
        sender=mail.sender,
        recipients=mail.recipients,
        subject=mail.subject,
        delivered_at=mail.delivered_at,
        answered=mail.answered,
    )._asdict()


def _newer(mailbox: Mailbox, after: int) -> list[MailRecord]:
    """Copy what came after a sequence number, looking at little else: pages ask from the end."""
    newer: list[MailRecord] = []
    for mail in reversed(mailbox.outbox.mails):
        if mail.sequence <= after:
            break
        newer.append(mail)
    newer.reverse()
    return newer


def _json_lines(objects: Iterable[dict[str, Any]]) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        remaining = iter(objects)
        while chunk := [json.dumps(each) + "\n" for each in islice(remaining, _LINES_AT_ONCE)]:
            yield "".join(chunk).encode()
            # Mail that is being submitted meanwhile must not wait for the whole export.
            await anyio.lowlevel.checkpoint()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def _read_object(request: Request) -> dict[str, Any]:
    body = await read_body(request, limit=_BODY_LIMIT)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != "application/json":
        raise BadInput("the body must be application/json")
    try:
        given = json.loads(body or b"{}")
    except ValueError as error:
        raise BadInput(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadInput("the body must be a JSON object")
    return given


async def _read(request: Request, kind: type[_BodyT]) -> _BodyT:
    return kind.model_validate_json(json.dumps(await _read_object(request)))


def _explained(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}"
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _only_known(given: Mapping[str, Any], kind: type[Any]) -> None:
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            raise BadInput(f"{name}: unknown; there are {', '.join(known)}")


def _changed_limits(limits: Limits, change: Mapping[str, Any]) -> Limits:
    _only_known(change, Limits)
    return replace(_LIMITS.validate_python(asdict(limits) | dict(change)))


def _whole_number(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise BadInput(f"{name}: must be a whole number")
    return int(text)
