"""What outlives a restart of the sandbox, as values."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from sandbox import state
from sandbox.apps import AppCertificate, AppRegistration
from sandbox.entra_errors import EntraError
from sandbox.grants import CodeRequest, GrantStore
from sandbox.limits import Limits
from sandbox.world import World
from sandbox.worldfile import (
    AppSpec,
    MailboxSpec,
    TenantSpec,
    UserSpec,
    add_app,
    add_mailbox,
    add_tenant,
    add_user,
    add_what_is_new,
    build_world,
    client_id_of,
    contoso_and_friends,
)
from tests.sandbox.entra_setting import ADMIN, ALERTS, Clock, certificate

REQUEST = CodeRequest(
    tenant_id="t",
    client_id="a",
    object_id="u",
    redirect_uri="http://localhost",
    oidc=frozenset({"openid", "offline_access"}),
    permissions=("https://outlook.office.com/SMTP.Send",),
)


def again(world, signer):
    """Give the world that the file of another one makes."""
    other = World(signer=signer, clock=world._clock)
    state.restore(other, state.read(state.written(state.state_of(world, described="d"))))
    return other


def everything(world):
    """Give all that is kept, as plain values in which sets have an order."""
    raw = json.loads(state.written(state.state_of(world, described="d")))

    def ordered(value):
        if isinstance(value, dict):
            return {name: ordered(part) for name, part in value.items()}
        if isinstance(value, list):
            parts = [ordered(part) for part in value]
            return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
        return value

    return ordered(raw)


@pytest.fixture
def world(signer):
    """A world in which everything that can be changed was changed."""
    world = build_world(contoso_and_friends(["contoso", "fabrikam"]), signer=signer, clock=Clock())
    contoso = world.directory_named("contoso")
    app = next(iter(world.apps.values()))
    store = world.mailboxes
    contoso.access_token_seconds = (5, 7)
    contoso.strict_rotation = True
    contoso.user_consent_allowed = False
    store.organisation(contoso.tenant_id).smtp_auth = False
    store.organisation(contoso.tenant_id).conditional_access = True
    _, user = world.account(ALERTS)
    user.enabled, user.password, user.mfa, user.recalls = False, "other", True, 3
    del contoso.users[ADMIN]
    tailspin = add_tenant(world, TenantSpec(slug="tailspin"))
    add_user(world, tailspin, UserSpec(address="ops@tailspin.example", admin=True))
    add_mailbox(world, tailspin, MailboxSpec(address="shared@tailspin.example", used_bytes=7))
    pem, _ = certificate()
    other = add_app(world, AppSpec(name="Mine", home_tenant="tailspin", certificates=(pem,)))
    app.add_secret(ends_at=1.0, value="further")
    app.redirect_uris.append("https://alerts.example/callback")
    world.give_grant("ops@tailspin.example", app.client_id)
    presence = tailspin.admit(other.client_id)
    presence.consent(["https://outlook.office.com/SMTP.Send"])
    presence.enabled, presence.withdrawn = False, True
    presence.roles.add("https://outlook.office365.com/SMTP.SendAsApp")
    presence.mailboxes.add("shared@tailspin.example")
    presence.scope.add("shared@tailspin.example")
    store.limits = replace(Limits(), connections=9)
    mailbox = store.get("shared@tailspin.example")
    mailbox.limits = Limits.open()
    mailbox.smtp_auth, mailbox.licensed, mailbox.conditional_access = False, False, True
    mailbox.send_as, mailbox.quota_bytes = {"a@tailspin.example"}, 10_000
    mailbox.full_access = {"ops@tailspin.example"}
    world.advance(86_400)
    return world


def test_all_that_was_set_up_comes_back(world, signer):
    """A world that was written and read is the same in every value that is kept."""
    other = again(world, signer)

    assert everything(other) == everything(world)
    assert other.clock() == world.clock()
    assert other.apps == world.apps
    assert list(other.directories.values()) == list(world.directories.values())
    assert other.home_of("x@tailspin.example") is other.directory_named("tailspin")


def test_each_field_of_an_app_and_a_mailbox_is_kept(world):
    """Whoever adds a field to a registration or a mailbox must say what a restart does to it."""
    mailbox = world.mailboxes.get(ALERTS)
    public = {name for name in vars(mailbox) if not name.startswith("_")}
    books = {"outbox", "violations", "max_sent_in_window", "max_connections"} | {
        "max_recipients_in_day"
    }

    assert {f.name for f in fields(state.KeptApp)} == {f.name for f in fields(AppRegistration)}
    assert {f.name for f in fields(state.KeptMailbox)} == (
        public - books - {"organisation"} | {"tenant_id"}
    )


def test_books_are_not_kept(world, signer):
    """What was counted and what was on its way is forgotten."""
    world.ledger.count(grant_type="refresh_token", result="ok", user=ALERTS)
    world.mailboxes.token_refusals["expired"] += 1
    code = world.grants.issue_code(REQUEST)
    other = again(world, signer)

    assert other.ledger.as_json()["token_requests"] == 0
    assert not other.mailboxes.token_refusals
    assert other.grants.code_request(code) is None


def test_certificates_come_back():
    """A certificate that was written as PEM is the one that was uploaded."""
    pem, _ = certificate()
    uploaded = AppCertificate.from_pem(pem)

    assert AppCertificate.from_pem(uploaded.as_pem()) == uploaded


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"version":1', id="half"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"[]", id="another shape"),
        pytest.param(b'{"version":2}', id="another version"),
        pytest.param(b'{"version":1,"tenants":[]}', id="fields missing"),
    ],
)
def test_damage_is_noticed(raw):
    """What is no whole state of this version is refused."""
    with pytest.raises(ValueError, match="validation error"):
        state.read(raw)


@pytest.mark.parametrize("part", ["tenants", "apps", "mailboxes"])
def test_a_state_that_contradicts_itself(world, signer, part):
    """What is there twice is refused like any other damage."""
    given = state.state_of(world, described="d")
    items = getattr(given, part)

    with pytest.raises(ValueError, match="exists"):
        state.restore(World(signer=signer), replace(given, **{part: [*items, items[0]]}))


# Grants


def kept_over_a_restart(grants, clock, **how):
    """Give a store that goes on with what another one kept."""
    other = GrantStore(clock)
    other.take_back(grants.kept(**how))
    return other


def code_of(grants, token, *, strict=False):
    """Redeem a refresh token; 0 or the code of its refusal."""
    try:
        grants.redeem_refresh_token(token, client_id="a", strict=strict)
    except EntraError as error:
        return error.refusal.code
    return 0


def test_refresh_tokens_go_on_as_they_were():
    """Used, unused, revoked and idle refresh tokens are after a restart what they were before."""
    clock = Clock()
    grants = GrantStore(clock)
    grant, revoked = grants.begin(REQUEST), grants.begin(replace(REQUEST, object_id="v"))
    idle = grants.issue_refresh_token(grant)
    clock.now += 90 * 86_400
    used, fresh = (grants.issue_refresh_token(grant) for _ in range(2))
    gone = grants.issue_refresh_token(revoked)
    assert code_of(grants, used, strict=True) == 0
    grants.revoke(tenant_id="t", object_id="v")
    other = kept_over_a_restart(grants, clock)

    assert code_of(other, idle) == 700082
    assert code_of(other, gone) == 50173
    assert code_of(other, fresh, strict=True) == 0
    assert other.grant_of(used) is other.grant_of(fresh)
    assert code_of(other, used, strict=True) == 50173
    assert other.revoke(tenant_id="t") == 0


def test_each_grant_keeps_what_it_used_last():
    """With too many tokens every grant keeps its newest, and an old one that is still in use."""
    clock = Clock()
    grants = GrantStore(clock)
    busy, quiet = grants.begin(REQUEST), grants.begin(replace(REQUEST, object_id="v"))
    only = grants.issue_refresh_token(quiet)
    many = [grants.issue_refresh_token(busy) for _ in range(10)]
    grants.redeem_refresh_token(many[0], client_id="a", strict=False)
    other = kept_over_a_restart(grants, clock, at_most=6)

    assert other.grant_of(only) == quiet
    assert [token for token in many if other.grant_of(token)] == [many[0], many[8], many[9]]
    assert [len(each.tokens) for each in grants.kept(at_most=1)] == [2, 1]


# Descriptions that change


def test_what_is_new_in_a_description_is_added(world):
    """Tenants and apps that a description names for the first time are added, the rest stays."""
    before = [asdict(directory) for directory in world.directories.values()]
    known = list(world.apps)
    spec = contoso_and_friends(["contoso", "tailspin", "wingtip"], app_per_tenant=True)
    add_what_is_new(world, spec)
    add_what_is_new(world, spec)

    assert [asdict(directory) for directory in world.directories.values()][:-1] == before
    assert list(world.directories.values())[-1].slug == "wingtip"
    assert list(world.apps) == [*known, *(client_id_of(app) for app in spec.apps)]
