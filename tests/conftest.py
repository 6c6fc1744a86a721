"""Fixtures by concern; see the modules named here."""

import gc
import signal

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.foreign_provider",
    "tests.fixtures.log_state",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.redis_server",
    "tests.fixtures.whole",
]

# A shell's "&" leaves SIGINT ignored, nohup SIGHUP; the processes that tests signal would inherit it.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, lambda *_: None),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_finish() -> None:
    """Leave thousands of tests out of what the collector goes through at each turn."""
    gc.collect()
    gc.freeze()
