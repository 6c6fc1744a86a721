"""
Where ``alertpost`` begins: what must be in force before the rest is loaded, which takes a second.

Ctrl-C in that second finds nothing open and nothing begun, so the process just ends. Python's own
handler would raise in the middle of an import, and print the trace of that.
"""

import os
import signal

_INTERRUPTED = 130


def main() -> None:
    """Load the command line and run it."""
    # Whoever started us may have switched Ctrl-C off, as a shell does for what runs behind it.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    from console import cli, interrupts  # noqa: PLC0415 - not before the handler is there

    if heeded:
        interrupts.heed_lost_interrupts()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main()
    finally:
        # All is said and done; the interpreter only takes itself apart.
        if heeded:
            signal.signal(signal.SIGINT, _vanish)


def _vanish(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)


def _leave(_number: int, _frame: object) -> None:
    os.write(2, b"alertpost: stopped\n")
    os._exit(_INTERRUPTED)
