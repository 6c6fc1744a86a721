"""How a server's certificate is told in the trace of a session."""

from __future__ import annotations

from typing import Any

import pytest

from models.settings import SmtpSettings
from models.stages import Stage
from tests.sandbox.exchange_client import ADDRESS, authority, running
from workers.smtp_session import Step, certificate_names, open_session


@pytest.mark.parametrize(
    ("alternatives", "names"),
    [
        pytest.param([], [], id="none"),
        pytest.param(
            [("DNS", "outlook.com"), ("DNS", "*.outlook.com")],
            ["outlook.com", "*.outlook.com"],
            id="names",
        ),
        pytest.param([("IP Address", "10.0.0.7")], ["10.0.0.7"], id="IPv4"),
        # CPython writes all groups, versions before 3.10 with a line feed.
        pytest.param([("IP Address", "0:0:0:0:0:0:0:1\n")], ["::1"], id="IPv6"),
        pytest.param([("IP Address", "<invalid>")], ["<invalid>"], id="no address"),
        pytest.param([("email", "a@b.test"), ("URI", "x:y"), ("DNS", "m")], ["m"], id="others"),
    ],
)
def test_hosts_of_a_certificate(alternatives: Any, names: list[str]) -> None:
    """Host names and addresses are told in the certificate's order, other kinds are not."""
    assert certificate_names(alternatives) == names


async def test_the_trace_tells_names_and_addresses() -> None:
    """The step STARTTLS tells for which hosts and addresses the server's certificate is."""
    steps: list[Step] = []
    async with running() as world:
        session = await open_session(
            host="localhost",
            port=world.server.port,
            tls=authority().client_context(),
            user=ADDRESS,
            token="good",
            settings=SmtpSettings(ehlo_name="client.example"),
            trace=steps.append,
        )
        session.close()

    secured = next(step for step in steps if step.stage is Stage.STARTTLS)
    assert secured.detail.startswith("TLSv1.3 ")
    assert "certificate for localhost, 127.0.0.1, ::1" in secured.detail
