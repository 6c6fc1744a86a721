import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from console.data_dir import DataDir
from models.errors import ConfigurationError
from models.vault import Vault

HOLDER = """
import sys
from pathlib import Path
from console.data_dir import DataDir
with DataDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> DataDir:
    return DataDir.prepare(tmp_path / "var")


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """A new directory, parents included, can be entered by nobody else."""
    home = DataDir.prepare(tmp_path / "a" / "b")

    assert home.path.stat().st_mode & 0o777 == 0o700
    assert DataDir.prepare(home.path) == home


def test_a_relative_path_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working directory does not move it."""
    monkeypatch.chdir(tmp_path)

    assert DataDir.prepare(Path("var")).path == tmp_path / "var"


def test_a_directory_that_others_write_to_is_refused(tmp_path: Path) -> None:
    """Who can write to the directory could swap the key file."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(ConfigurationError, match="chmod go-w"):
        DataDir.prepare(tmp_path / "open")


def test_a_disk_for_reading_only_is_told() -> None:
    """It is not said to belong to someone else."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    read_only = [Path(m[1]) for m in mounts if "ro" in m[3].split(",") and Path(m[1]).is_dir()]
    if not read_only:
        pytest.skip("nothing is mounted read-only here")

    with pytest.raises(ConfigurationError, match="mounted read-only"):
        DataDir.prepare(read_only[0])


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    """A file where the directory should be is an error with its name."""
    (tmp_path / "var").write_text("")

    with pytest.raises(ConfigurationError, match=r"var cannot be used: File exists"):
        DataDir.prepare(tmp_path / "var")


def test_a_second_process_is_told_who_runs(home: DataDir) -> None:
    """The lock holds across processes, names the holder and goes when the holder dies."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError, match=f"as process {holder.pid};"), home.lock():
            pass
        holder.kill()
        holder.wait()

    with home.lock():
        assert (home.path / "up.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_does_not_pass_to_children(home: DataDir) -> None:
    """A child that outlives its parent does not keep the directory locked."""
    with home.lock():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with home.lock():
            pass
    finally:
        child.communicate(b"\n")


def test_the_key_is_made_once(home: DataDir) -> None:
    """The first start makes a key that works, later ones find it, nobody else can read it."""
    keys = home.secret_keys()

    assert Vault(keys).open(Vault(keys).seal(b"x", context="c"), context="c") == b"x"
    assert home.secret_keys() == keys
    assert home.key_file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.path.iterdir()] == ["secret.key"]


def test_many_first_starts_agree(home: DataDir) -> None:
    """Processes that start at the same moment end up with the same key."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: home.secret_keys(), range(8)))

    assert len(keys) == 1


def test_several_keys_are_several_lines(home: DataDir) -> None:
    """A rotation in embedded mode is a new first line."""
    old = home.secret_keys()
    new = Vault.new_key()
    home.key_file.write_text(f"{new}\n{old[0]}\n")

    assert home.secret_keys() == (new, *old)


def test_a_key_that_others_can_read_is_refused(home: DataDir) -> None:
    """A key file copied with loose permissions is not used."""
    home.secret_keys()
    home.key_file.chmod(0o640)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        home.secret_keys()


@pytest.mark.parametrize("text", ["", "not a key\n", "ümläut"])
def test_a_damaged_key_is_refused(home: DataDir, text: str) -> None:
    """An empty or garbled key file is not replaced, and its content is not shown."""
    home.key_file.write_text(text)
    home.key_file.chmod(0o600)

    with pytest.raises(ConfigurationError, match="restore it from a backup") as caught:
        home.secret_keys()
    assert "not a key" not in str(caught.value)
    assert home.key_file.read_text() == text


def test_no_new_key_for_an_old_database(home: DataDir) -> None:
    """Where the database is there but its key is not, a new key would hide the loss."""
    (home.path / "alertpost.db").touch()

    with pytest.raises(ConfigurationError, match="was encrypted with a key"):
        home.secret_keys()
    assert not home.key_file.exists()
