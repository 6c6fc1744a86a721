import asyncio
import base64
import json
import os
import signal
import smtplib
import socket
import ssl
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes

from sandbox.__main__ import read_options
from sandbox.authority import throwaway_authority
from sandbox.server import PortTaken, SandboxServer
from sandbox.tokens import TokenSigner
from sandbox.world import SMTP_PERMISSION
from sandbox.worldfile import WorldSpec, build_world, contoso_and_friends
from tests.sandbox.entra_setting import ALERTS, certificate

MAIL = (
    f"From: {ALERTS}\r\nTo: ops@customer.test\r\nSubject: Disk\r\n"
    "Message-ID: <{n}@alerts>\r\nX-Alertpost-Id: id-{n}\r\n\r\nFull.\r\n"
)


def submit(server, token, *numbers):
    """Send mails in one session; give the reply to AUTH."""
    initial = base64.b64encode(f"user={ALERTS}\x01auth=Bearer {token}\x01\x01".encode()).decode()
    with smtplib.SMTP(server.smtp_host, server.smtp_port, "client.example", 20) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(server.ca_file)))
        client.ehlo()
        code, _ = client.docmd("AUTH", f"XOAUTH2 {initial}")
        for number in numbers if code == 235 else ():
            client.sendmail(ALERTS, ["ops@customer.com"], MAIL.format(n=number))
    return code


def test_mail_goes_through_both_halves(setting):
    """A token from Entra's side opens Exchange's, and the outbox tells by control what came."""
    token = setting.refresh(setting.grant())["access_token"]
    submit(setting.server, token, 1, 2, 3)
    lines = setting.control("GET", "/outbox?after=1&limit=1").text.splitlines()
    mail = json.loads(lines[0])

    assert len(lines) == 1
    assert mail["sequence"] == 2
    assert mail["message_id"] == "<2@alerts>"
    assert mail["alert_id"] == "id-2"
    assert mail["mailbox"] == ALERTS
    assert mail["recipients"] == ["ops@customer.com"]
    assert len(setting.control("GET", f"/outbox?mailbox={ALERTS}").text.splitlines()) == 3
    assert setting.control("GET", "/outbox/3").text.endswith("Full.\r\n")
    assert setting.control("GET", "/mailboxes").json()["taken"] == 3


@pytest.mark.parametrize(
    "change",
    [
        ("PATCH", "/tenants/contoso", {"smtp_auth": False}),
        ("PATCH", f"/mailboxes/{ALERTS}", {"smtp_auth": False}),
        ("POST", f"/users/{ALERTS}/revoke", {"recall_access_tokens": True}),
        ("POST", "/faults/exchange", {"preset": "tokens_refused"}),
        ("POST", "/clock", {"advance_seconds": 7200}),
    ],
    ids=["tenant switch", "mailbox switch", "recall", "fault", "clock"],
)
def test_control_reaches_smtp(setting, change):
    """What is switched by control shows at the next AUTH."""
    token = setting.world.access_token(ALERTS)
    assert submit(setting.server, token) == 235
    assert setting.control(*change).ok

    assert submit(setting.server, token) == 535


def test_control_reaches_entra(setting):
    """Secrets, consent, accounts and faults are changed by control and show at the next refresh."""
    app = setting.app.client_id
    token = setting.control("POST", f"/users/{ALERTS}/grant", {"client_id": app}).json()[
        "refresh_token"
    ]

    def codes():
        return setting.refresh(token).get("error_codes", [0])[0]

    steps = [
        (("POST", f"/apps/{app}/secrets/expire", {}), 7000222),
        (("POST", f"/apps/{app}/secrets", {"value": setting.app.client_secrets[0].value}), 0),
        (("POST", "/tenants/contoso/consent", {"client_id": app, "action": "withdraw"}), 65001),
        (("POST", "/tenants/contoso/consent", {"client_id": app, "action": "restore"}), 0),
        (("POST", "/tenants/contoso/consent", {"client_id": app, "action": "disable"}), 7000112),
        (("POST", "/tenants/contoso/consent", {"client_id": app, "action": "enable"}), 0),
        (("PATCH", f"/users/{ALERTS}", {"enabled": False}), 50057),
        (("PATCH", f"/users/{ALERTS}", {"enabled": True}), 0),
        (
            ("POST", "/faults/entra", {"kind": "aadsts", "code": 53003, "tenant_id": "contoso"}),
            53003,
        ),
        (("DELETE", "/faults/entra", None), 0),
        (("POST", f"/users/{ALERTS}/revoke", {}), 50173),
    ]
    seen = []
    for step, _ in steps:
        answer = setting.control(*step)
        assert answer.ok, answer.text
        seen.append(codes())

    assert seen == [code for _, code in steps]
    counters = setting.control("GET", "/counters").json()
    assert counters["refreshes"] == counters["refreshed_by_user"][ALERTS] == 5
    assert counters["aadsts_answers"] == 6


def test_an_app_holds_several_credentials(setting):
    """Each of them is good until it is taken away by itself."""
    app, key = setting.app, f"/apps/{setting.app.client_id}"
    pem, _ = certificate(around=setting.world.clock())
    made = setting.control("POST", f"{key}/secrets", {"value": "second~one"}).json()
    given = setting.control("POST", f"{key}/certificates", {"pem": pem}).json()
    token = setting.grant()

    first = app.client_secrets[0].value

    def codes(secret):
        return setting.refresh(token, client=setting.client(credential=secret)).get("error_codes")

    both = [codes(first), codes("second~one")]
    gone = setting.control("DELETE", f"{key}/secrets/{made['secret_id']}")
    after = codes("second~one")
    (uploaded,) = app.certificates
    named = [setting.control("DELETE", f"{key}/certificates/{name}").status_code
             for name in ("nobody", given["thumbprints"][0])]  # fmt: skip
    app.certificates.append(uploaded)
    shown = uploaded.certificate.fingerprint(hashes.SHA1()).hex().upper()
    as_shown = setting.control("DELETE", f"{key}/certificates/{shown}").status_code

    assert both == [None, None]
    assert gone.ok
    assert after == [7000215]
    assert [*named, as_shown] == [404, 200, 200]
    assert app.certificates == []


def test_tenants_and_apps_are_added_while_it_runs(setting):
    """A tenant, a mailbox and an app that came later are as good as the first."""
    tenant = setting.control("POST", "/tenants", {"slug": "tailspin"}).json()
    app = setting.control("POST", "/apps", {"name": "Mine", "home_tenant": "tailspin"}).json()
    user = setting.control(
        "POST", "/tenants/tailspin/users", {"address": "Ops@Tailspin.example"}
    ).json()
    given = setting.control(
        "POST", f"/users/{user['address']}/grant", {"client_id": app["client_id"]}
    )

    assert tenant["domains"] == ["tailspin.example"]
    assert given.json()["tenant_id"] == tenant["tenant_id"]
    assert setting.world.mailboxes.get("ops@tailspin.example") is not None


def test_limits_are_changed_for_all_and_for_one(setting):
    """Limits change while it runs, and a mailbox may have its own."""
    setting.control("PATCH", "/limits", {"messages_per_window": 5})
    setting.control("PATCH", f"/mailboxes/{ALERTS}", {"limits": {"connections": 1}})
    mine = setting.world.mailboxes.get(ALERTS).limits
    other = setting.world.mailboxes.get("admin@contoso.example").limits

    assert (mine.messages_per_window, mine.connections) == (5, 1)
    assert (other.messages_per_window, other.connections) == (5, 3)


def test_reset_forgets_what_happened(setting):
    """After a reset the books are empty and the world is still there."""
    token = setting.grant()
    submit(setting.server, setting.world.access_token(ALERTS), 1)
    setting.control("POST", "/faults/exchange", {"preset": "slow"})
    setting.control("POST", "/reset", {})

    assert setting.control("GET", "/outbox").text == ""
    assert setting.control("GET", "/faults").json()["exchange"] == []
    assert setting.control("GET", "/counters").json()["token_requests"] == 0
    assert "access_token" in setting.refresh(token)
    setting.control("POST", "/reset", {"grants": True})
    assert setting.refresh(token)["error_codes"] == [70000]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/tenants", {"slug": "Not A Slug"}, 400, "slug"),
        ("POST", "/tenants", {"slug": "contoso"}, 400, "exists"),
        ("POST", "/tenants", {"slug": "x", "nonsense": 1}, 400, "nonsense"),
        ("POST", "/tenants", {"slug": "x", "access_token_seconds": [9, 1]}, 400, "access_token"),
        ("POST", "/tenants", [1], 400, "object"),
        ("PATCH", "/tenants/nowhere", {}, 404, "nowhere"),
        ("PATCH", "/tenants/contoso", {"access_token_seconds": [9, 1]}, 400, "access_token"),
        ("POST", "/tenants/contoso/users", {"address": "a@b.test"}, 400, "verified"),
        ("POST", "/tenants/contoso/mailboxes", {"address": ALERTS}, 400, "exists"),
        ("GET", "/mailboxes/no@one.test", None, 404, "no@one.test"),
        ("PATCH", "/limits", {"nonsense": 1}, 400, "nonsense"),
        ("PATCH", "/limits", {"connections": "many"}, 400, "connections"),
        ("POST", "/faults/entra", {"kind": "aadsts", "code": 1}, 400, "AADSTS"),
        ("POST", "/faults/entra", {"kind": "rain"}, 400, "kind"),
        ("POST", "/faults/exchange", {"preset": "rain"}, 400, "rain"),
        (
            "POST",
            "/faults/exchange",
            {"name": "x", "phase": "rain", "behaviour": "close"},
            400,
            "rain",
        ),
        ("DELETE", "/faults/moon", None, 404, "side"),
        ("POST", "/users/nobody@contoso.example/revoke", {}, 404, "nobody"),
        ("POST", "/apps", {"home_tenant": "nowhere"}, 400, "nowhere"),
        ("POST", "/apps", {"certificates": ["rubbish"]}, 400, ""),
        ("GET", "/outbox?after=x", None, 400, "after"),
        ("GET", "/outbox/99", None, 404, "kept"),
        ("POST", "/clock", {"advance_seconds": -1}, 400, "advance_seconds"),
    ],
)
def test_bad_input_is_told(  # noqa: PLR0917 - a row of the table
    shared_setting, method, path, body, status, says
):
    """Control answers bad input with a reason that names the place, and changes nothing."""
    answer = shared_setting.control(method, path, body)

    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_control_takes_json_only(shared_setting):
    """A form is no JSON."""
    answer = shared_setting.http.post(
        f"{shared_setting.server.control_url}/tenants", data={"slug": "x"}
    )
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]


def test_index_lists_every_documented_route(shared_setting):
    """The table in the module's docstring and the routes are the same."""
    import sandbox.control

    listed = shared_setting.control("GET", "/").json()["routes"]
    documented = {
        (words[0], words[1].partition("?")[0].replace("{id}", "{secret_id}"))
        for words in (line.split() for line in sandbox.control.__doc__.splitlines())
        if len(words) > 1 and words[0] in {"GET", "POST", "PATCH", "DELETE"}
    } - {("GET", "/")}
    assert documented == {
        (method, path.removeprefix("/_sandbox").replace(":int", ""))
        for method, path in (entry.split() for entry in listed)
    }


# Certificates


def test_authority_is_kept_and_private(tmp_path):
    """The files of an earlier run are used again; only their owner may read the keys."""
    first = throwaway_authority(tmp_path)
    before = first.ca_file.read_bytes(), first.cert_file.read_bytes()
    again = throwaway_authority(tmp_path)

    assert (again.ca_file.read_bytes(), again.cert_file.read_bytes()) == before
    for key in (tmp_path / "ca.key", again.key_file):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_new_name_gets_a_new_certificate_of_the_same_authority(tmp_path):
    """Clients that trust the authority go on trusting it when the server gets another name."""
    first = throwaway_authority(tmp_path)
    ca, cert = first.ca_file.read_bytes(), first.cert_file.read_bytes()
    again = throwaway_authority(tmp_path, names=["m365.internal", "10.0.0.7"])

    assert again.ca_file.read_bytes() == ca
    assert again.cert_file.read_bytes() != cert


def test_damaged_files_are_made_anew(tmp_path):
    """Half a file is no reason to stop."""
    files = throwaway_authority(tmp_path)
    files.key_file.write_text("rubbish")

    throwaway_authority(tmp_path).server_context()


def test_signing_key_outlives_a_restart(tmp_path):
    """Tokens of an earlier run verify after a restart."""
    token = build_world(
        contoso_and_friends(["contoso"]), signer=TokenSigner.kept_in(tmp_path / "key")
    ).access_token(ALERTS)
    again = build_world(
        contoso_and_friends(["contoso"]), signer=TokenSigner.kept_in(tmp_path / "key")
    )

    assert again.check_token(token, ALERTS).ok


# Running


async def test_starts_and_stops_on_the_callers_loop(tmp_path, signer):
    """In one process with its caller it listens, says where, and lets both ports go."""
    server = SandboxServer(
        build_world(contoso_and_friends(["contoso"]), signer=signer), directory=tmp_path
    )
    await server.start()
    ports = server.smtp_port, int(server.entra_url.rpartition(":")[2])
    await server.stop()

    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("part", ["Entra", "SMTP"])
async def test_taken_port_is_told(tmp_path, signer, part):
    """A taken port names the part and the port, and leaves nothing listening."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        which = {"Entra": "entra_port", "SMTP": "smtp_port"}[part]
        server = SandboxServer(
            build_world(contoso_and_friends(["contoso"]), signer=signer),
            directory=tmp_path,
            **{which: port},
        )
        with pytest.raises(PortTaken, match=f"{part} cannot listen on 127.0.0.1:{port}"):
            await server.start()


def test_answers_wait_for_no_acknowledgement(tmp_path, signer):
    """What Entra says leaves at once: connections that it takes have Nagle's algorithm off."""
    server = SandboxServer(
        build_world(contoso_and_friends(["contoso"]), signer=signer), directory=tmp_path
    )
    with (
        server._listen() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as taken,
    ):
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def started(tmp_path, *arguments):
    command = [sys.executable, "-m", "sandbox", "--dir", str(tmp_path / "keys"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_runs_as_a_program(tmp_path):
    """It says where everything is, serves a world file, writes its ready-file and ends at Ctrl-C."""
    world = tmp_path / "world.json"
    world.write_text(
        contoso_and_friends(["wingtip"], app_per_tenant=True).model_dump_json(exclude_unset=True)
    )
    ready = tmp_path / "ready.json"
    with started(tmp_path, "--world", str(world), "--ready-file", str(ready)) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        said = json.loads(ready.read_text())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)

    assert process.returncode == 0
    assert (rest, errors) == ("", "")
    assert not ready.exists()
    printed = "".join(lines)
    for fact in (
        said["entra_url"],
        f"{said['smtp_host']}:{said['smtp_port']}",
        said["ca_file"],
        said["control_url"],
        said["tenants"][0]["tenant_id"],
        said["apps"][0]["client_id"],
        said["apps"][0]["secrets"][0],
    ):
        assert fact in printed
    assert said["pid"] == process.pid


def test_program_that_cannot_start_says_why(tmp_path):
    """A taken port or a broken world file is one line and exit code 2."""
    broken = tmp_path / "broken.json"
    broken.write_text('{"tenants": [{}]}')
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
        for arguments, says in ((["--entra-port", port], port), (["--world", str(broken)], "slug")):
            with started(tmp_path, *arguments) as process:
                out, errors = process.communicate(timeout=20)
            assert process.returncode == 2
            assert out == ""
            assert errors.startswith("sandbox: ")
            assert says in errors
            assert errors.count(os.linesep) == 1


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"tenants": [{"slug": "a"}, {"slug": "a"}]}, "exists"),
        ({"tenants": [{"slug": "a"}, {"slug": "b", "domains": ["A.example"]}]}, "exists"),
        ({"tenants": [{"slug": "a", "users": [{"address": "x@b.test"}]}]}, "verified"),
        ({"apps": [{"multi_tenant": False}]}, "home_tenant"),
        ({"apps": [{}, {}]}, "exists"),
        ({"limits": {"connections": "many"}}, "connections"),
    ],
)
def test_world_that_contradicts_itself(signer, spec, says):
    """A world file that makes no sense is refused with what is wrong."""
    with pytest.raises(ValueError, match=says):
        build_world(WorldSpec.model_validate(spec), signer=signer)


def test_world_file_says_everything(signer):
    """Users, mailboxes, allowed apps, credentials and limits come from the file."""
    app_id = "11111111-2222-3333-4444-555555555555"
    spec = WorldSpec.model_validate(
        {
            "tenants": [
                {
                    "slug": "contoso",
                    "users": [{"address": ALERTS, "mfa": True}],
                    "mailboxes": [{"address": "Shared@contoso.example", "smtp_auth": False}],
                    "apps": [{"client_id": app_id, "mailboxes": [ALERTS]}],
                    "smtp_auth": False,
                }
            ],
            "apps": [{"client_id": app_id, "secrets": [{"value": "s"}, {"ends_in_days": -1}]}],
            "limits": {"messages_per_window": 7},
        }
    )
    world = build_world(spec, signer=signer)
    directory = world.directory_named("contoso")

    assert directory.user(ALERTS).mfa
    assert directory.enterprise_apps[app_id].covers("", [SMTP_PERMISSION])
    assert world.mailboxes.get("shared@contoso.example").smtp_auth is False
    assert world.mailboxes.get(ALERTS).limits.messages_per_window == 7
    assert not world.mailboxes.organisation(directory.tenant_id).smtp_auth
    assert world.apps[app_id].client_secrets[0].value == "s"
    assert world.apps[app_id].client_secrets[1].ends_at < world.clock()


def test_same_names_make_the_same_world(signer):
    """Started again, a sandbox has the same ids and secrets, so who was configured for it fits."""
    first, second = (
        build_world(contoso_and_friends(["contoso", "fabrikam"]), signer=signer) for _ in range(2)
    )

    assert list(first.directories) == list(second.directories)
    assert [s.value for a in first.apps.values() for s in a.client_secrets] == [
        s.value for a in second.apps.values() for s in a.client_secrets
    ]


def test_command_line_is_read():
    """Every option of the command line reaches the options."""
    options = read_options(
        ["--dir", "d", "--entra-port", "1", "--smtp-port", "2", "--tenants", "a, b", "--name", "m"]
    )

    assert (str(options.directory), options.entra_port, options.smtp_port) == ("d", 1, 2)
    assert options.tenants == ("a", "b")
    with pytest.raises(SystemExit):
        read_options(["--smtp-port", "70000"])


def test_rest_of_control(setting):
    """Deleting, unlocking, adding mailboxes and certificates, and looking at one mailbox."""
    app = setting.app
    secret = app.client_secrets[0].secret_id
    added = setting.control(
        "POST",
        "/tenants/contoso/mailboxes",
        {"address": "shared@contoso.example", "licensed": False},
    )
    sent_as = setting.control(
        "PATCH", f"/mailboxes/{ALERTS}", {"send_as": ["shared@contoso.example"], "quota_bytes": 1}
    )

    assert (added.status_code, added.json()["licensed"]) == (201, False)
    assert sent_as.json()["quota_bytes"] == 1
    assert setting.world.mailboxes.get(ALERTS).send_as == {"shared@contoso.example"}
    assert setting.control("POST", f"/mailboxes/{ALERTS}/unlock", {}).ok
    assert setting.control("GET", f"/mailboxes/{ALERTS}").json()["locked_by"] == ""
    assert setting.control("GET", "/violations").text == ""
    assert setting.control("DELETE", f"/apps/{app.client_id}/secrets/{secret}").ok
    assert setting.control("DELETE", f"/apps/{app.client_id}/secrets/{secret}").status_code == 404
    assert setting.control("DELETE", f"/users/{ALERTS}").ok
    assert setting.control("DELETE", f"/users/{ALERTS}").status_code == 404
    assert setting.control("PATCH", "/tenants/contoso", {"strict_rotation": True}).json()[
        "strict_rotation"
    ]
    seen = setting.control("GET", "/world").json()
    assert [tenant["slug"] for tenant in seen["tenants"]] == ["contoso", "fabrikam"]
    assert "shared@contoso.example" in seen["mailboxes"]


def test_consent_by_control_lets_an_app_act_for_itself(setting):
    """What needs PowerShell at a customer's is one call here."""
    grant = {
        "client_id": setting.app.client_id,
        "action": "grant",
        "roles": ["https://outlook.office365.com/SMTP.SendAsApp"],
        "mailboxes": [ALERTS.upper()],
    }
    setting.control("POST", "/tenants/contoso/consent", grant)
    token = setting.client().acquire_token_for_client(["https://outlook.office365.com/.default"])

    assert submit(setting.server, token["access_token"]) == 235
    remove = {"client_id": setting.app.client_id, "action": "remove"}
    assert setting.control("POST", "/tenants/contoso/consent", remove).ok
    assert setting.control("POST", "/tenants/contoso/consent", remove).status_code == 404
    assert submit(setting.server, token["access_token"]) == 535
