import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.errors import ConfigurationError
from models.settings import LogSettings, Settings, masked_url
from models.vault import Vault

Problem = Callable[..., str]
KEY, OLDER = Vault.new_key(), Vault.new_key()


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("ALERTPOST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Load with these variables and give back the error's text."""

    def load(**variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigurationError) as caught:
            Settings.load()
        return str(caught.value)

    return load


def test_everything_has_a_default(tmp_path: Path) -> None:
    """Without any variable the service keeps everything in ./var."""
    settings = Settings.load()

    assert settings.data_dir == Path("var")
    assert settings.sqlalchemy_url == f"sqlite:///{tmp_path}/var/alertpost.db"
    assert settings.embedded_redis
    assert settings.secret_keys == ()
    assert settings.pacing.messages_per_window == 30
    assert settings.smtp.max_message_bytes == 35 * 1024 * 1024


def test_variables_and_groups_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain variable, one of a group and a list of keys arrive in their fields."""
    monkeypatch.setenv("ALERTPOST_REDIS_URL", "rediss://cache.example:6380/1")
    monkeypatch.setenv("ALERTPOST_PACING__MESSAGES_PER_WINDOW", "12")
    monkeypatch.setenv("alertpost_lease__refresh_at_share", "0.5")
    monkeypatch.setenv("ALERTPOST_SECRET_KEYS", f" {KEY},{OLDER}, ")
    settings = Settings.load()

    assert settings.redis_url == "rediss://cache.example:6380/1"
    assert not settings.embedded_redis
    assert settings.pacing.messages_per_window == 12
    assert settings.pacing.connections_per_mailbox == 3
    assert settings.lease.refresh_at_share == 0.5
    assert [key.get_secret_value() for key in settings.secret_keys] == [KEY, OLDER]


def test_a_group_can_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole group may be given as JSON, and its parts win over it."""
    monkeypatch.setenv("ALERTPOST_LOG", '{"level": "debug", "format": "json"}')
    monkeypatch.setenv("ALERTPOST_LOG__LEVEL", "error")

    assert Settings.load().log == LogSettings(level="error", format="json")


def test_dotenv_is_read_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lines of .env count, lines of other programs do not, and a real variable wins."""
    (tmp_path / ".env").write_text(
        "OTHER_PROGRAM=1\nALERTPOST_REDIS_PREFIX=from-file\n"
        "ALERTPOST_WORKER__CONCURRENCY=7\nALERTPOST_LOG__LEVEL='warning'\n"
    )
    monkeypatch.setenv("ALERTPOST_WORKER__CONCURRENCY", "9")
    settings = Settings.load()

    assert settings.redis_prefix == "from-file"
    assert settings.log.level == "warning"
    assert settings.worker.concurrency == 9


def test_the_operator_is_named_by_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mailbox, in lower case, and several people with commas or spaces between them."""
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", "Warnings@MSP.example")
    monkeypatch.setenv("ALERTPOST_OPERATOR_TO", "noc@msp.example, boss@msp.example")
    settings = Settings.load()

    assert settings.operator_mailbox == "warnings@msp.example"
    assert settings.operator_to == ("noc@msp.example", "boss@msp.example")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPERATOR_MAILBOX", "warnings"),
        ("OPERATOR_MAILBOX", "Warnings <warnings@msp.example>"),
        ("OPERATOR_TO", "noc@msp.example;boss"),
    ],
)
def test_no_address_is_no_operator(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The variable is named, and what is wrong with it."""
    monkeypatch.setenv(f"ALERTPOST_{name}", value)

    with pytest.raises(ConfigurationError, match=f"ALERTPOST_{name}: "):
        Settings.load()


def test_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller gives wins over the environment, field by field."""
    monkeypatch.setenv("ALERTPOST_PACING__MESSAGES_PER_WINDOW", "12")
    monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", "env")
    settings = Settings.load(redis_prefix="mine", pacing={"window_seconds": 5})

    assert settings.redis_prefix == "mine"
    assert settings.pacing.window_seconds == 5.0
    assert settings.pacing.messages_per_window == 12


def test_an_empty_variable_counts_as_not_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compose files pass empty variables through; they mean the default."""
    (tmp_path / "url").write_text("redis://h/0")
    monkeypatch.setenv("ALERTPOST_WORKER__PROCESSES", "")
    monkeypatch.setenv("ALERTPOST_REDIS_URL", "")
    monkeypatch.setenv("ALERTPOST_REDIS_URL_FILE", str(tmp_path / "url"))

    assert Settings.load().worker.processes == 1
    assert Settings.load().redis_url == "redis://h/0"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DATABASE_URL", "postgresql://app:pw@db.example/alertpost\n"),
        ("REDIS_URL", "redis://:pw@cache.example:6379/0\n"),
        ("SECRET_KEYS", f"{KEY},{OLDER}\n"),
        # The data directory's key file, while a key is being changed.
        ("SECRET_KEYS", f"{KEY}\n{OLDER}\n"),
    ],
    ids=["database", "redis", "keys", "key lines"],
)
@pytest.mark.parametrize("through", ["environment", "dotenv"])
def test_secrets_can_come_from_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, text: str, through: str
) -> None:
    """A container secret is a file; a newline at its end does not matter."""
    secret = tmp_path / "secret"
    secret.write_text(text)
    if through == "dotenv":
        (tmp_path / ".env").write_text(f"ALERTPOST_{variable}_FILE={secret}\n")
    else:
        monkeypatch.setenv(f"ALERTPOST_{variable}_FILE", str(secret))
    settings = Settings.load()

    value = getattr(settings, variable.lower())
    if variable == "SECRET_KEYS":
        value = ",".join(key.get_secret_value() for key in value)
    assert value == text.strip().replace("\n", ",")


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("ALERTPOST_PACING__MESAGES_PER_WINDOW", "ALERTPOST_PACING__MESSAGES_PER_WINDOW"),
        ("ALERTPOST_PACING_MESSAGES_PER_WINDOW", "ALERTPOST_PACING__MESSAGES_PER_WINDOW"),
        ("ALERTPOST_DATABSE_URL", "ALERTPOST_DATABASE_URL"),
        ("ALERTPOST_REDISURL", "ALERTPOST_REDIS_URL"),
        ("ALERTPOST_SECRET_KEY", "ALERTPOST_SECRET_KEYS"),
        ("ALERTPOST_SECRET_KEY_FILE", "ALERTPOST_SECRET_KEYS_FILE"),
        ("ALERTPOST_LOG_LEVEL", "ALERTPOST_LOG__LEVEL"),
        ("ALERTPOST_WORKER__CONCURENCY", "ALERTPOST_WORKER__CONCURRENCY"),
    ],
)
@pytest.mark.parametrize("through", ["environment", "dotenv"])
def test_a_misspelt_variable_names_the_nearest(
    problem: Problem, tmp_path: Path, given: str, nearest: str, through: str
) -> None:
    """A variable that means nothing is refused, with the one that was probably meant."""
    if through == "dotenv":
        (tmp_path / ".env").write_text(f"{given}=5\n")
        text = problem()
    else:
        text = problem(**{given: "5"})

    assert text == f"{given} is not a setting; did you mean {nearest}?"


def test_a_variable_near_nothing(problem: Problem) -> None:
    """Where nothing comes near, the error says to remove the variable."""
    text = problem(ALERTPOST_XYZZY="1")

    assert text == "ALERTPOST_XYZZY is not a setting; remove it"


def test_a_misspelt_override_names_the_nearest() -> None:
    """The same help holds for what a caller passes and for JSON groups."""
    with pytest.raises(ConfigurationError, match="did you mean ALERTPOST_RETRY__MAX_ATTEMPTS"):
        Settings.load(retry={"max_atempts": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALERTPOST_SERVICE_HOST", "10.0.0.7"),
        ("ALERTPOST_SERVICE_PORT_HTTP", "8025"),
        ("ALERTPOST_PORT", "tcp://10.0.0.7:8025"),
        ("ALERTPOST_WEB_PORT_8025_TCP_ADDR", "10.0.0.7"),
    ],
)
def test_what_kubernetes_announces_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A service called alertpost makes variables of its own; they are left alone."""
    monkeypatch.setenv(name, value)

    assert Settings.load() == Settings()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PACING__MESSAGES_PER_WINDOW": "many"}, "must be a whole number, not 'many'"),
        ({"PACING__MESSAGES_PER_WINDOW": "2.5"}, "must be a whole number, not '2.5'"),
        ({"PACING__WINDOW_SECONDS": "1m"}, "must be a number, not '1m'"),
        ({"PACING__WINDOW_SECONDS": "nan"}, "must be a number, not 'nan'"),
        ({"PACING__MESSAGES_PER_WINDOW": "0"}, "must be 1 or more, not '0'"),
        ({"RETRY__JITTER_SHARE": "25"}, "must be 1.0 or less, not '25'"),
        ({"SWEEP__INTERVAL_SECONDS": "0"}, "must be 0.1 or more, not '0'"),
        ({"RETRY__SOON_SECONDS": "-1"}, "must be more than 0.0, not '-1'"),
        ({"LEASE__REFRESH_AT_SHARE": "1"}, "must be less than 1.0, not '1'"),
        (
            {"LOG__LEVEL": "loud"},
            "must be one of 'debug', 'info', 'warning' or 'error', not 'loud'",
        ),
        ({"LOG": "{not json"}, "is not valid JSON; rather set its parts, such as ALERTPOST_LOG__…"),
        ({"DATABASE_URL": "mysql://u:hunter2@h/d"}, "must be postgresql://"),
        ({"DATABASE_URL": "hunter2"}, "must be postgresql://"),
        ({"DATABASE_URL": "sqlite://"}, "names no file"),
        ({"DATABASE_URL": "postgresql://u:hun[ter2@h/d"}, "percent-encoded"),
        ({"DATABASE_URL": "postgresql://u:p@h:hunter2/d"}, "percent-encoded"),
        ({"REDIS_URL": "http://:hunter2@h"}, "must be redis://host:port/0"),
        ({"REDIS_URL": "unix://"}, "names no socket"),
        ({"PUBLIC_URL": "alerts.example"}, "must be http://host[:port]"),
        ({"PUBLIC_URL": "https://alerts.example/?x"}, "must end with the host or a path"),
        ({"PUBLIC_URL": "https://u:hunter2@alerts.example"}, "must end with the host or a path"),
        ({"SECRET_KEYS": "hunter2"}, "an encryption key is 32 bytes in base64"),
        ({"CA_FILE": "missing.pem"}, "missing.pem cannot be read: No such file or directory"),
        ({"REDIS_PREFIX": "with space"}, "pattern"),
        ({"SMTP__EHLO_NAME": "two words"}, "must be a domain name"),
        (
            {"PACING__CRITICAL_RESERVE": "30"},
            (
                "ALERTPOST_PACING__CRITICAL_RESERVE must be smaller than "
                "ALERTPOST_PACING__MESSAGES_PER_WINDOW"
            ),
        ),
        (
            {"LEASE__LOCK_SECONDS": "10"},
            (
                "ALERTPOST_LEASE__LOCK_SECONDS must be greater than "
                "ALERTPOST_LEASE__REQUEST_TIMEOUT_SECONDS"
            ),
        ),
        (
            {"RETRY__FIRST_SECONDS": "1000"},
            (
                "ALERTPOST_RETRY__FIRST_SECONDS must not be greater than "
                "ALERTPOST_RETRY__LONGEST_SECONDS"
            ),
        ),
    ],
    ids=lambda value: next(iter(value.items())) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_explained(
    problem: Problem, variables: dict[str, str], expected: str
) -> None:
    """One line names the variable and what would be right, and repeats no secret."""
    text = problem(**{f"ALERTPOST_{name}": value for name, value in variables.items()})

    name = next(iter(variables)).split("__")[0]
    assert text.startswith(f"ALERTPOST_{name}")
    assert expected in text
    assert "\n" not in text
    assert "hunter2" not in text


def test_every_problem_has_a_line(problem: Problem) -> None:
    """Two mistakes are two lines, so that nobody has to try twice."""
    text = problem(ALERTPOST_LOG__LEVEL="loud", ALERTPOST_WORKER__PROCESSES="two")

    assert [line.split(":")[0] for line in text.splitlines()] == [
        "ALERTPOST_WORKER__PROCESSES",
        "ALERTPOST_LOG__LEVEL",
    ]


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "SECRET_KEYS"])
def test_a_value_and_a_file_at_once(problem: Problem, tmp_path: Path, name: str) -> None:
    """Whoever gives a secret twice is asked which one holds."""
    (tmp_path / "s").write_text("redis://h")
    text = problem(**{f"ALERTPOST_{name}": "redis://h", f"ALERTPOST_{name}_FILE": "s"})

    assert text == f"ALERTPOST_{name} and ALERTPOST_{name}_FILE are both given; keep one of them"


def test_an_unreadable_secret_file(problem: Problem, tmp_path: Path) -> None:
    """A missing file, a folder and a binary file are named with the variable."""
    assert (
        problem(ALERTPOST_REDIS_URL_FILE="missing")
        == "ALERTPOST_REDIS_URL_FILE: missing cannot be read: No such file or directory"
    )
    assert "it is a directory" in problem(ALERTPOST_REDIS_URL_FILE=str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in problem(ALERTPOST_REDIS_URL_FILE="binary")


def test_an_unreadable_dotenv(problem: Problem, tmp_path: Path) -> None:
    """A .env that is no text is an error with a name, not a traceback."""
    (tmp_path / ".env").write_bytes(b"ALERTPOST_X=\xff\n")

    assert problem() == ".env cannot be read: it is not UTF-8 text"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_gets_our_driver(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Every usual spelling leads to the driver that is installed, password untouched."""
    monkeypatch.setenv("ALERTPOST_DATABASE_URL", f"{scheme}://app:p%40w@db.example/x")

    assert Settings.load().sqlalchemy_url == "postgresql+psycopg://app:p%40w@db.example/x"


def test_a_sqlite_url_stays_as_it_is() -> None:
    """A file chosen by hand is used as written."""
    assert Settings.load(database_url="sqlite:////srv/a.db").sqlalchemy_url == "sqlite:////srv/a.db"


def test_the_public_url_has_no_slash_at_its_end() -> None:
    """Paths are appended to it, so a slash at its end goes."""
    assert Settings.load(public_url="https://alerts.example/").public_url.endswith("example")


def test_nothing_shows_a_secret() -> None:
    """Neither the log line at start nor any representation shows passwords or keys."""
    settings = Settings.load(
        database_url="postgresql://app:hunter2@db.example/x?sslpassword=hunter2&sslmode=require",
        redis_url="redis://:hunter2@cache.example/0",
        secret_keys=(KEY, OLDER),
    )

    for shown in (repr(settings), str(settings), str(settings.masked())):
        assert "hunter2" not in shown
        assert KEY not in shown
        assert "db.example" in shown
        assert "sslmode=require" in shown
    assert settings.masked()["secret_keys"] == 2


def test_settings_do_not_change() -> None:
    """Settings are a value: nobody changes them for others."""
    settings = Settings.load()

    with pytest.raises(ValidationError):
        settings.redis_prefix = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.pacing.messages_per_window = 1  # type: ignore[misc]


passwords = st.text(st.characters(blacklist_characters="/ ?", blacklist_categories=["Z", "C"]))


@given(password=passwords.filter(lambda text: len(text) > 3))
def test_a_password_never_survives_masking(password: str) -> None:
    """Whatever a password is made of, '@' and ':' included, none of it shows."""
    shown = masked_url(f"redis://user:{password}@h/0")

    assert shown == "redis://user:***@h/0"


@pytest.mark.parametrize("text", ["", "plain", "redis://h:6379/0", "unix:///run/x.sock", "a?b"])
def test_masking_leaves_the_rest(text: str) -> None:
    """What holds no secret is shown whole."""
    assert masked_url(text) in {text, f"{text}="}
