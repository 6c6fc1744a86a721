"""Fixtures by concern; see the modules named here."""

pytest_plugins = [
    "tests.fixtures.databases",
    "tests.fixtures.foreign_provider",
    "tests.fixtures.log_state",
    "tests.fixtures.redis_server",
    "tests.fixtures.whole",
]
