"""``python -m sandbox``: run Microsoft 365 in a box until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sandbox.defaults import DEFAULT_TENANTS
from sandbox.server import SandboxOptions, run


def read_options(arguments: list[str]) -> SandboxOptions:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Microsoft 365 in a box")
    parser.add_argument(
        "--dir", type=Path, default=Path("var/sandbox"), help="keys, certificates and state"
    )
    parser.add_argument("--entra-port", type=_port, default=0, help="HTTPS port, 0 for any")
    parser.add_argument("--smtp-port", type=_port, default=0, help="SMTP port, 0 for any")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--name", default="127.0.0.1", help="host name that others reach it by")
    parser.add_argument("--world", type=Path, help="JSON file with tenants and apps")
    parser.add_argument(
        "--tenants",
        default=",".join(DEFAULT_TENANTS),
        help="without --world: short names of tenants, commas between",
    )
    parser.add_argument("--ready-file", type=Path, help="written as JSON when everything listens")
    parser.add_argument(
        "--forget", action="store_true", help="start afresh, not as it was at the last stop"
    )
    given = parser.parse_args(arguments)
    return SandboxOptions(
        directory=given.dir,
        entra_port=given.entra_port,
        smtp_port=given.smtp_port,
        host=given.host,
        name=given.name,
        world_file=given.world,
        tenants=tuple(slug.strip() for slug in given.tenants.split(",") if slug.strip()),
        ready_file=given.ready_file,
        forget=given.forget,
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:  # noqa: PLR2004 - TCP
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return number


if __name__ == "__main__":
    sys.exit(run(read_options(sys.argv[1:])))
