"""What JsonCpp takes is taken, and nothing inside a text is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.moving.lenient_json import load

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\/*,{}[]: \n\r\t\u00e9'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES, st.sampled_from([None, 2]))
def test_what_is_json_stays_what_it_is(value: Any, indent: int | None) -> None:
    """Comments, commas and brackets inside texts are texts."""
    assert load(json.dumps(value, indent=indent)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2,],\n}', {"a": [1, 2]}),
        ('{"a": 1, // the last\n}', {"a": 1}),
        ('{"a": 1, /* the last */ }', {"a": 1}),
        ('// before\n/* and\n more */{"a": 1}', {"a": 1}),
        ('{"a": 1} // after', {"a": 1}),
        ('{"a": 1}\nand what follows', {"a": 1}),
        ('{"a": "http://x/*,}*/"}', {"a": "http://x/*,}*/"}),
        ('{"a": "say \\"//\\" ,}"}', {"a": 'say "//" ,}'}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": 1 /* ** / */, /**/ "b": 2}', {"a": 1, "b": 2}),
        ('{"a": 1, // one\r\n"b": 2,\r\n}\r\n', {"a": 1, "b": 2}),
        ('\ufeff{"a": 1}', {"a": 1}),
    ],
)
def test_what_jsoncpp_takes_is_taken(text: str, value: Any) -> None:
    """Comments, trailing commas, what follows the value, doubled names."""
    assert load(text) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a" 1}', 1),
        ("{,}", 1),
        ('{"a": 1,,}', 1),
        ('{\n// one\n/* two\nthree */\n"a": }', 5),
        ('{"a": 1 /* never ends', 1),
        ("{'a': 1}", 1),
        ("", 1),
        ("# no comment there\n{}", 1),
    ],
)
def test_what_it_refuses_is_refused_with_the_line(text: str, line: int) -> None:
    """The line is that of the file, comments counted."""
    with pytest.raises(json.JSONDecodeError) as refused:
        load(text)

    assert refused.value.lineno == line
