"""What the pages say is what the code does, as far as a program can tell."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from console.attention import NEEDS_A_PERSON, Matter
from console.cli import EXIT_CODES, command_line
from console.doctor.checks import NAMES
from console.verbs_consent_links import Progress
from models import app_registrations, mailboxes, settings, tenants
from models.database import create_engine_from, write
from models.lifecycle import FINAL, PERMITTED, State
from models.stages import Stage
from models.vault import Vault
from workers.reasons import meaning_of

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
CONSENT_LINKS = "Let the customer do it: consent links"
ROOMS = ("models", "producers", "workers", "console", "sandbox")


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def rows(name: str, heading: str) -> list[list[str]]:
    """Read the first table after a heading, without its head."""
    lines = iter(page(name).splitlines())
    for line in lines:
        if line.lstrip("#").strip() == heading:
            break
    table: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


# -- the life cycle -------------------------------------------------------------------------------


def test_arrows_are_those_of_the_code() -> None:
    """The table of transitions has the code's letters, names, origins and targets, no more."""
    told = {
        (letter, name, tuple(sorted(origins.split(", "))), target)
        for letter, name, origins, target, _ in rows("docs/lifecycle.md", "The life of a delivery")
    }
    known = {
        (arrow.letter, arrow.name, tuple(sorted(arrow.origins)), arrow.target.value)
        for arrow in PERMITTED
    }

    assert told == known


def test_every_state_is_drawn() -> None:
    """The diagram shows all states, and each letter stands in it or is said not to."""
    diagram = page("docs/lifecycle.md").partition("\n| letter")[0]

    assert not [state for state in State if not re.search(rf"\b{state.value}\b", diagram)]
    assert not [arrow for arrow in PERMITTED if not re.search(rf"\b{arrow.letter}\b", diagram)]


def test_final_states_are_named() -> None:
    """The page calls final what the code calls final."""
    sentence = re.search(r"^(.*) are final", page("docs/lifecycle.md"), re.MULTILINE)

    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == {state.value for state in FINAL}


def test_stages_are_named() -> None:
    """The glossary lists the stages of an attempt, in their order."""
    found = re.search(r"\*\*stage\*\*: [^:]*: ([^.]*)\.", page("docs/glossary.md"))

    assert found is not None
    assert [word.strip() for word in found[1].split(",")] == [stage.value for stage in Stage]


# -- settings -------------------------------------------------------------------------------------


def defaults() -> dict[str, str]:
    known: dict[str, str] = {}
    for name, field in settings.Settings.model_fields.items():
        group = settings._groups().get(name)
        if group is None:
            known[settings._variable(name)] = shown(field.default)
            continue
        for part, inner in group.model_fields.items():
            known[settings._variable(name, part)] = shown(inner.default)
    return known


def shown(value: Any) -> str:
    if value in ("", (), None):
        return "(empty)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def told_settings(name: str) -> dict[str, str]:
    return {variable.strip("`"): default for variable, default, _ in rows(name, "Settings")}


def test_all_settings_are_told_with_their_defaults() -> None:
    """The operating guide lists every setting once, with the default it has."""
    told = rows("docs/operating.md", "Settings")

    assert len(told) == len(defaults())
    assert told_settings("docs/operating.md") == defaults()


def test_settings_of_the_readme_are_right() -> None:
    """What the README says of a setting agrees with the code."""
    told = told_settings("README.md")

    assert told
    assert told == {name: defaults().get(name) for name in told}


@pytest.mark.parametrize("path", [*PAGES, ROOT / ".env.example"], ids=lambda path: path.name)
def test_variables_are_known(path: Path) -> None:
    """No page names a variable that would be refused as misspelt."""
    named = set(re.findall(r"\bALERTPOST_[A-Z_]*[A-Z]\b", path.read_text("utf-8")))

    assert not {name for name in named if name not in settings._names()}


def test_example_environment_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The example file, uncommented, loads, but for the files it cannot know."""
    lines = [line.removeprefix("# ") for line in page(".env.example").splitlines()]
    wanted = [line for line in lines if re.match(r"ALERTPOST_\w+=", line)]
    wanted = [line for line in wanted if "_FILE=" not in line]
    for name in os.environ:
        if name.startswith("ALERTPOST_"):
            monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("\n".join(wanted), "utf-8")
    monkeypatch.chdir(tmp_path)

    loaded = settings.Settings.load()

    assert loaded.database_url.startswith("postgresql://")


# -- the command line -----------------------------------------------------------------------------


def test_exit_codes_are_those_of_the_code() -> None:
    """The README lists each exit code that the command line can end with."""
    told = {int(code) for code, _ in rows("README.md", "Exit codes")}

    assert told == {0, 1, NEEDS_A_PERSON, 70, 130} | {code for _, code in EXIT_CODES}


def test_matters_for_a_person_are_told() -> None:
    """The operating guide lists what `alertpost status` asks for a person for, and no more."""
    told = [matter.strip("`") for matter, _ in rows("docs/operating.md", "Monitoring")]

    assert len(told) == len(Matter)
    assert set(told) == {matter.value for matter in Matter}


def test_checks_of_the_doctor_are_told() -> None:
    """The operating guide lists each check once, in the doctor's order."""
    text = page("docs/operating.md").partition("| check | subject |")[2]
    told = re.findall(r"(?m)^\| `(\w+)` \|", text.partition("\n\n")[0])

    assert told == list(NAMES)


def commands(path: Path) -> list[str]:
    """Find every ``alertpost …`` and ``run --rm cli …`` that a page shows."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"`(alertpost [^`]*)`", text)
    for line in re.findall(r"(?m)^    (?:\S.*)?$", text):
        shown_part = line.partition("   #")[0].strip()
        if shown_part.startswith("alertpost "):
            found.append(shown_part)
        container = re.search(r"docker compose run .*\bcli\b (.*)", shown_part)
        if container:
            found.append(f"alertpost {container[1]}")
    return [" ".join(one.split()) for one in found]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    """Every command a page shows is one, with the options it has there."""
    root = typer.main.get_command(command_line())
    wrong = []
    for shown_command in commands(path):
        words = shlex.split(shown_command.partition("<")[0])[1:]
        command: Any = root
        while words and words[0] == "--data-dir":
            del words[:2]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        options |= {"-h", "--help"}
        used = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        is_group = hasattr(command, "commands")
        if used - options or (is_group and words and not words[0].startswith("-")):
            wrong.append(shown_command)

    assert wrong == []


def test_commands_are_seen() -> None:
    """The search above finds what it is meant to find."""
    found = commands(ROOT / "docs" / "operating.md")

    assert "alertpost keys rotate --check" in found
    assert any(one.startswith("alertpost mailboxes connect --paste") for one in found)
    assert len(found) > 20


# -- names of files, events and reasons -----------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Links within the project, and files named in passing, exist."""
    text = path.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    rooms = "|".join(ROOMS)
    files = re.findall(rf"`((?:{rooms}|docs|deploy|bench)/[\w/.*-]+)`", text)

    assert not [link for link in links if not (path.parent / link).exists()]
    assert not [name for name in files if not list(ROOT.glob(name))]


def test_events_are_logged() -> None:
    """Each event of the log table is one that the code logs."""
    code = "\n".join(
        path.read_text("utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py")
    )
    events = [name for row in rows("docs/operating.md", "Logs") for name in row[0].split(", ")]

    def logged(name: str) -> bool:
        # Rounds log their own name with what became of them.
        whose, _, what = name.rpartition("_")
        return f'"{name}"' in code or (what in {"failed", "away"} and f'name="{whose}"' in code)

    assert events
    assert not [name for name in events if not logged(name.strip("`"))]


def test_reasons_are_known() -> None:
    """Reasons that the operating guide replays or explains are reasons."""
    text = page("docs/operating.md")
    named = set(re.findall(r"--reason ([\w-]+)", text))
    named |= set(re.findall(r"`([\w-]+)` \(", text.partition("Four reasons are ours")[2][:600]))

    assert len(named) >= 3
    assert not [name for name in named if meaning_of(name) is None]


def test_states_of_consents_are_explained() -> None:
    """Each word that `mailboxes consents` says has a row, and no row has another one."""
    told = [row[0].strip("`") for row in rows("docs/microsoft-setup.md", CONSENT_LINKS)]

    assert told == [progress.value for progress in Progress]


def test_pages_are_about_the_project() -> None:
    """No page names a machine's own paths."""
    for path in PAGES:
        assert not re.search(r"/(work|root|home)/", path.read_text("utf-8")), path


def test_decisions_are_numbered_without_gaps() -> None:
    """Each record has its number in name and title, and says context, decision, consequences."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))

    for number, record in enumerate(records, 1):
        text = record.read_text("utf-8")
        assert record.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        for part in ("Context", "Decision", "Consequences"):
            assert f"**{part}.**" in text


# -- log events ---------------------------------------------------------------------------------


def _logged(room: str) -> set[str]:
    """Collect the events that the code of a package logs, those of its rounds included."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "Rounds":
                (name,) = (part.value for part in node.keywords if part.arg == "name")
                assert isinstance(name, ast.Constant), path
                found |= {f"{name.value}_away", f"{name.value}_failed"}
            elif re.fullmatch(r"_?log\.(debug|info|warning|error|exception|critical)", called):
                event = node.args[0]
                if isinstance(event, ast.Constant):
                    found.add(str(event.value))
                else:
                    assert path.name == "rounds.py", f"{path}: an event that is no constant word"
    return found


def test_every_log_event_is_in_the_table() -> None:
    """Whoever finds an event in the log finds it in the guide, and none that does not exist."""
    table = {
        name
        for event, *_ in rows("docs/operating.md", "Logs")
        for name in re.findall(r"`(\w+)`", event)
    }
    known = set().union(*(_logged(room) for room in ("models", "producers", "workers", "console")))

    assert known - table == set()
    assert table - known == set()


# -- the example in Python ------------------------------------------------------------------------


def test_python_example_runs(sqlite_url: str, tmp_path: Path) -> None:
    """The README's example enqueues an alert, given a tenant and a key."""
    example = re.search(r"```python\n(.*?)```", page("README.md"), re.DOTALL)
    assert example is not None
    key = Vault.new_key()
    engine = create_engine_from(sqlite_url)
    with write(engine) as connection:
        app_registrations.add_app(
            connection,
            Vault([key]),
            name="contoso",
            client_id="11111111-2222-3333-4444-555555555555",
            credential=app_registrations.Credential.secret("not-a-secret"),
        )
        tenants.add_tenant(
            connection, slug="contoso", directory_id="contoso.onmicrosoft.com", app="contoso",
            notify={"default": ["ops@contoso.com"]},
        )  # fmt: skip
        mailboxes.add_mailbox(connection, tenant_slug="contoso", address="alerts@contoso.com")
    engine.dispose()
    (tmp_path / "secret.key").write_text(f"{key}\n", "utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALERTPOST_")}
    env |= {
        "ALERTPOST_DATABASE_URL": sqlite_url,
        "ALERTPOST_SECRET_KEYS_FILE": str(tmp_path / "secret.key"),
        "PYTHONPATH": str(ROOT),
    }

    done = subprocess.run(
        [sys.executable, "-c", example[1]], env=env, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "queued"
