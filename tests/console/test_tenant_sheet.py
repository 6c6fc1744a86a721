"""Reading a sheet of customers: what spreadsheets save, and what people get wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.tenant_sheet import COLUMNS, BadRow, Row, read_sheet
from models.errors import ConfigurationError

HEAD = "slug,directory_id,mailbox,notify\n"


def only(text: str, **options: str) -> Row | BadRow:
    (row,) = read_sheet(text.encode(), **options)
    return row


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "contoso,contoso.example,a@contoso.example,ops@contoso.example\n",
        HEAD.replace(",", ";") + "contoso;contoso.example;a@contoso.example;ops@contoso.example\n",
        HEAD.replace(",", "\t") + "contoso\tcontoso.example\ta@contoso.example\tops@contoso.example",
        "\ufeff" + HEAD + "contoso , contoso.example,a@contoso.example,ops@contoso.example\r\n",
        "Mailbox,Notify,Slug,Directory ID\na@contoso.example,ops@contoso.example,contoso,contoso.example",
        HEAD + '\n,,,\ncontoso,"contoso.example",a@contoso.example,ops@contoso.example\n\n',
    ],
    ids=["commas", "semicolons", "tabs", "mark-and-spaces", "other-order", "empty-lines"],
)  # fmt: skip
def test_what_spreadsheets_save_is_read(text: str) -> None:
    """Delimiters, byte order marks, spaces, the order of columns and empty lines do not matter."""
    row = only(text)

    assert isinstance(row, Row)
    assert (row.slug, row.mailbox) == ("contoso", "a@contoso.example")
    assert row.tenant == {
        "directory_id": "contoso.example",
        "notify": {"default": ["ops@contoso.example"]},
    }


def test_cells_become_what_they_mean() -> None:
    """Numbers, yes and no, lists of addresses by severity; an empty cell says nothing."""
    row = only(
        "slug,licences,trial,notify,accepted_domains,name,smtp_port\n"
        'contoso,100,No,"ops@x.example; critical=boss@x.example",a.example b.example,,587'
    )

    assert isinstance(row, Row)
    assert row.tenant == {
        "licences": 100,
        "trial": False,
        "notify": {"default": ["ops@x.example"], "critical": ["boss@x.example"]},
        "accepted_domains": ["a.example", "b.example"],
        "smtp_port": 587,
    }


@pytest.mark.parametrize(("column", "app"), [("own", "own"), ("", "msp")])
def test_an_app_for_all_lines_is_for_those_without_one(column: str, app: str) -> None:
    """A cell comes before the option."""
    row = only(f"slug,app\ncontoso,{column}", app="msp")

    assert isinstance(row, Row)
    assert row.tenant == {"app": app}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",contoso.example,,", "'slug' is empty"),
        ("a,b,c,d,e", "5 cells, the headings are 4"),
        ('a,b"c",d,e\x00', None),
    ],
)
def test_a_bad_line_is_told_and_stops_no_other(line: str, reason: str | None) -> None:
    """Its number is that of the spreadsheet, and the next line is read."""
    bad, good = read_sheet(f"{HEAD}{line}\nfabrikam,f.example,,\n".encode())

    assert bad.number == 2
    if reason is not None:
        assert isinstance(bad, BadRow)
        assert reason in bad.reason
    assert isinstance(good, Row)
    assert (good.number, good.slug) == (3, "fabrikam")


@pytest.mark.parametrize(
    ("head", "cells", "reason"),
    [
        ("slug,licences", "a,many", "licences 'many' is not a number"),
        ("slug,smtp_port", "a,５８７", "is not a number"),
        ("slug,trial", "a,perhaps", "write yes or no"),
        ("slug,auth_user", "a,me@x.example", "auth_user and no mailbox"),
    ],
)
def test_a_cell_that_means_nothing_is_told(head: str, cells: str, reason: str) -> None:
    """What was written and what would be right."""
    row = only(f"{head}\n{cells}")

    assert isinstance(row, BadRow)
    assert reason in row.reason


@pytest.mark.parametrize(
    ("sheet", "reason"),
    [
        (b"", "is empty"),
        (b"\n\nslug\n", "is empty"),
        (b"slug,mailbx\n", "did you mean 'mailbox'"),
        (b"slug,zzz\n", "known are slug"),
        (b"slug,slug\n", "stands twice"),
        (b"name,mailbox\n", "'slug' is missing"),
        (b"slug\n\xff\n", "save it as 'CSV UTF-8'"),
        (b"x" * 20_000_001, "larger than 20 MB"),
    ],
)
def test_what_is_no_sheet_is_refused_whole(sheet: bytes, reason: str) -> None:
    """Nothing of it is looked at, and the answer says what to do."""
    with pytest.raises(ConfigurationError, match=reason):
        list(read_sheet(sheet))


@given(st.lists(st.lists(st.text(max_size=12), max_size=6), max_size=6), st.binary(max_size=80))
def test_whatever_is_given_the_answer_is_rows_or_an_error(
    rows: list[list[str]], rest: bytes
) -> None:
    """No sheet ends in anything else."""
    body = "\n".join(",".join(cells) for cells in rows).encode("utf-8", "replace")
    for octets in (",".join(COLUMNS).encode() + b"\n" + body, body, rest):
        try:
            found = list(read_sheet(octets))
        except ConfigurationError:
            continue
        assert all(isinstance(row, Row | BadRow) for row in found)


def test_a_bad_line_keeps_its_names() -> None:
    """Whoever corrects the sheet is told which tenant's line it is."""
    (bad,) = read_sheet(b"slug,mailbox,licences\ncontoso,alerts@contoso.example,many\n")

    assert isinstance(bad, BadRow)
    assert (bad.slug, bad.mailbox) == ("contoso", "alerts@contoso.example")
