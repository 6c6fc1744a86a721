"""The file that a sandbox finds itself in again, with real processes where they are killed."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import msal
import pytest
import requests
from starlette.responses import Response

from sandbox.__main__ import read_options
from sandbox.keeper import FILE, open_world
from sandbox.person import Person
from sandbox.state import read
from sandbox.web import CutLine
from sandbox.worldfile import contoso_and_friends
from tests.sandbox.entra_setting import ALERTS, CALLBACK, SCOPE

SPEC = contoso_and_friends(["contoso"])


@pytest.fixture
def said():
    """What the keeper told."""
    return []


@pytest.fixture
def opened(tmp_path, signer, said):
    """Open the world of a file in the test's folder, as often as wanted."""

    def open_it(spec=SPEC, **how):
        return open_world(spec, tmp_path / FILE, signer=signer, say=said.append, **how)

    return open_it


async def ask(app, method="POST"):
    """Send a request through an application; give the messages of its answer."""
    answer = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        answer.append(message)

    await app({"type": "http", "method": method, "extensions": {}}, receive, send)
    return answer


async def test_the_world_of_the_last_time_is_found(opened, said):
    """What changed is there when the world is opened again; nothing is said about it."""
    world, keeper = opened()
    token = world.give_grant(ALERTS, next(iter(world.apps)))
    await keeper.save()

    assert opened()[0].grants.grant_of(token) == world.grants.grant_of(token)
    assert said == []


async def test_only_the_owner_may_read_it(opened, tmp_path):
    """The file holds secrets, so others cannot read it, and no draft stays behind."""
    (tmp_path / f".{FILE}.draft").write_text("of a run that was killed")
    await opened()[1].save()

    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


async def test_an_answer_waits_for_the_file(opened, tmp_path):
    """When the first byte of an answer leaves, the file holds what the request changed."""
    world, keeper = opened()
    tokens, seen = [], []

    async def app(scope, receive, send):
        tokens.append(world.give_grant(ALERTS, next(iter(world.apps))))
        await Response()(scope, receive, watched(send))

    def watched(send):
        async def sent(message):
            await send(message)
            state = read((tmp_path / FILE).read_bytes())
            seen.append(state.grants[0].tokens[0][0])

        return sent

    answer = await ask(keeper.around(app))

    assert [message["type"] for message in answer] == ["http.response.start", "http.response.body"]
    assert seen == tokens * 2


async def test_what_only_looks_writes_nothing(opened, tmp_path):
    """Reading through the control API costs no write."""
    await ask(opened()[1].around(Response()), method="GET")

    assert not (tmp_path / FILE).exists()


async def test_a_change_without_an_answer_is_kept(opened):
    """A fault that cuts the line after the change loses the answer, not the change."""
    world, keeper = opened()

    class Transport:
        def abort(self):
            world.advance(60)

    async def app(scope, receive, send):
        scope["extensions"]["sandbox.transport"] = Transport()
        await CutLine()(scope, receive, send)

    assert await ask(keeper.around(app)) == []
    assert opened()[0].ahead_seconds == 60


async def test_changes_at_once_share_writes(opened, tmp_path):
    """However many ask together, the file is written a few times, and holds the last change."""
    world, keeper = opened()

    async def change():
        ahead = world.advance(1)
        await keeper.save()
        assert read((tmp_path / FILE).read_bytes()).ahead_seconds >= ahead

    await asyncio.gather(*(change() for _ in range(100)))
    assert keeper.writes <= 3
    assert opened()[0].ahead_seconds == 100


async def test_nothing_new_is_not_written(opened):
    """A request that changed nothing, such as one that was refused, costs no write."""
    _, keeper = opened()
    for _ in range(3):
        await keeper.save()

    assert keeper.writes == 1


async def test_a_file_that_cannot_be_written_is_told_once(opened, said, tmp_path):
    """A full or missing disk is one line, requests go on, and the file follows once it can."""
    folder = tmp_path / FILE
    folder.mkdir()
    (folder / "x").touch()
    world, keeper = opened(forget=True)
    for _ in range(3):
        world.advance(1)
        await keeper.save()

    assert len(said) == 1
    assert "cannot be written, a restart will forget changes" in said[0]
    (folder / "x").unlink()
    folder.rmdir()
    await keeper.save()
    assert opened()[0].ahead_seconds == 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[: len(raw) // 2], id="half"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda raw: raw.replace(b'"apps":[', b'"apps":[7,'), id="rubbish"),
        pytest.param(
            lambda raw: json.dumps(
                json.loads(raw) | {"tenants": json.loads(raw)["tenants"] * 2}
            ).encode(),
            id="twice",
        ),
    ],
)
async def test_a_damaged_file_is_put_aside(opened, said, tmp_path, damage):
    """Damage is told in one line, the file stays to be looked at, and the world is a fresh one."""
    world, keeper = opened()
    world.advance(60)
    await keeper.save()
    file = tmp_path / FILE
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)

    assert opened()[0].ahead_seconds == 0
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == damaged
    assert not file.exists()
    assert len(said) == 1
    assert "\n" not in said[0]
    assert f"was damaged and is {FILE}.damaged now" in said[0]


async def test_forgetting_starts_afresh(opened, said):
    """Who asks for it begins anew, and so does the start after that."""
    world, keeper = opened()
    world.advance(60)
    await keeper.save()
    world, keeper = opened(forget=True)
    await keeper.save()

    assert world.ahead_seconds == 0
    assert opened()[0].ahead_seconds == 0
    assert said == []


async def test_another_description_is_told(opened, said):
    """A tenant that is new in the description is added, and that the rest was kept is said."""
    world, keeper = opened()
    world.advance(60)
    await keeper.save()
    world, keeper = opened(contoso_and_friends(["contoso", "fabrikam"]))
    await keeper.save()

    assert [directory.slug for directory in world.directories.values()] == ["contoso", "fabrikam"]
    assert world.ahead_seconds == 60
    assert len(said) == 1
    assert "--forget" in said[0]
    opened(contoso_and_friends(["contoso", "fabrikam"]))
    assert len(said) == 1


# Processes


class Box:
    """A sandbox that runs as a process, and a client before it that has nothing cached."""

    def __init__(self, process, facts, http):
        self.process = process
        self.facts = facts
        self.http = http

    @property
    def client(self):
        app, tenant = self.facts["apps"][0], self.facts["tenants"][0]
        return msal.ConfidentialClientApplication(
            app["client_id"],
            client_credential=app["secrets"][0],
            authority=tenant["authority"],
            instance_discovery=False,
            http_client=self.http,
        )

    def connect(self):
        """Consent on the pages; give the refresh token."""
        client = self.client
        flow = client.initiate_auth_code_flow(
            [SCOPE], redirect_uri=CALLBACK, response_mode="form_post"
        )
        back = Person(ALERTS, self.facts["ca_file"]).go_through(flow["auth_uri"])
        return client.acquire_token_by_auth_code_flow(flow, back)["refresh_token"]

    def refresh(self, token):
        return self.client.acquire_token_by_refresh_token(token, [SCOPE])

    def control(self, method, path, body):
        url = f"{self.facts['control_url']}{path}"
        answer = self.http.request(method, url, json=body, timeout=20)
        assert answer.ok, answer.text

    def end(self, number):
        self.process.send_signal(number)
        return self.process.communicate(timeout=20)


@contextmanager
def running(directory, *more):
    """Run ``python -m sandbox`` until the block ends."""
    ready = directory.with_suffix(".ready")
    command = [sys.executable, "-m", "sandbox", "--dir", str(directory), "--tenants", "contoso"]
    with subprocess.Popen(
        [*command, "--ready-file", str(ready), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while "Ctrl-C" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
            facts = json.loads(ready.read_text())
            with requests.Session() as http:
                http.trust_env = False
                http.verify = facts["ca_file"]
                yield Box(process, facts, http)
        finally:
            process.kill()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_refresh_works_after_a_restart(tmp_path, ending):
    """Whether it was killed or stopped, a sandbox that is started again knows its grants."""
    keys = tmp_path / "keys"
    with running(keys) as box:
        box.control("PATCH", "/tenants/contoso", {"strict_rotation": True})
        box.control("PATCH", f"/mailboxes/{ALERTS}", {"smtp_auth": False})
        box.control("PATCH", "/users/admin@contoso.example", {"password": "other"})
        first = box.connect()
        second = box.refresh(first)["refresh_token"]
        box.end(ending)
    with running(keys) as box:
        third = box.refresh(second)["refresh_token"]
        kept = read((keys / FILE).read_bytes())

        assert third != second
        # Rotation is as strict as before, and what was used before the restart counts as used.
        assert box.refresh(first)["error_codes"] == [50173]
        assert box.refresh(third)["error_codes"] == [50173]
        assert box.end(signal.SIGTERM)[1] == ""
        mailbox = next(each for each in kept.mailboxes if each.address == ALERTS)
        assert mailbox.smtp_auth is False
        users = kept.tenants[0].directory.users
        assert users["admin@contoso.example"].password == "other"


async def test_a_program_that_forgets(tmp_path, signer):
    """With --forget, and with a damaged file, it starts afresh; about damage it says one line."""
    keys = tmp_path / "keys"
    keys.mkdir()
    world, keeper = open_world(SPEC, keys / FILE, signer=signer, say=pytest.fail)
    token = world.give_grant(ALERTS, next(iter(world.apps)))
    await keeper.save()
    with running(keys, "--forget") as box:
        assert box.refresh(token)["error_codes"] == [70000]
        assert box.end(signal.SIGKILL)[1] == ""
    (keys / FILE).write_text("rubbish")
    with running(keys) as box:
        _, errors = box.end(signal.SIGTERM)
    assert errors.count("\n") == 1
    assert errors.startswith("sandbox: ")
    assert "was damaged" in errors


def test_forget_is_an_option():
    """It has to be asked for."""
    assert read_options(["--forget"]).forget
    assert not read_options([]).forget
