"""
Hand mails to a peer's queue, in the peer's environment: ``python -m bench.peer_enqueue MODULE``.

Reads the mails as JSON from standard input, each a list of ``send_alert``'s arguments.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main() -> None:
    """Enqueue them all."""
    task = import_module(sys.argv[1]).send_alert
    hand_in = getattr(task, "delay", None) or task.send
    for mail in json.load(sys.stdin):
        hand_in(*mail)


if __name__ == "__main__":
    main()
