"""Fixtures by concern; see the modules named here."""

import signal

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.foreign_provider",
    "tests.fixtures.log_state",
    "tests.fixtures.redis_server",
    "tests.fixtures.whole",
]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As for whatever a shell starts with "&": the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
