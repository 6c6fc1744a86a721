"""The page that tells operators what each answer leads to knows every rule and every number."""

from __future__ import annotations

import re
from pathlib import Path

from workers.oauth_rules import CODES, ERRORS
from workers.rule_book import every_verdict

PAGE = Path(__file__).parents[2] / "docs" / "answers.md"


def test_every_rule_is_told_and_no_other() -> None:
    """A rule that is added, renamed or dropped changes the page."""
    told = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", PAGE.read_text()))
    rules = {verdict.rule for verdict in every_verdict()}

    assert rules - told == {"accepted"}
    # Failures of a dialogue have names of the same form.
    assert told - rules <= {"no-starttls"}


def test_every_number_and_error_of_entra_is_told() -> None:
    """Likewise each AADSTS number, in its own section, and each OAuth error."""
    section = PAGE.read_text().partition("## Entra, by code")[2].partition("\n## ")[0]
    numbers = {int(number) for number in re.findall(r"(?<=[| ])([0-9]{5,7})(?=[, ])", section)}

    assert numbers == set(CODES)
    assert all(f"| `{error}` |" in PAGE.read_text() for error in ERRORS)
