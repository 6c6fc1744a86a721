import re

import pytest

from sandbox.entra_errors import REFUSALS, EntraError, error_body

# The codes that clients are told to handle (fact table of AADSTS codes), row by row.
DOCUMENTED = """
50173 70000 70008 700082 700084 70043 50076 50074 50078 50079 50072 50158 50161 53003 530032 50131
53000 53001 53002 50097 50129 530035 530034 53011 50053 50055 50144 50056 50126 50064 50057 50034
51004 50014 50020 16000 500208 50105 65001 65004 90094 90095 90008 650052 650056 650057 65005
500011 50001 700016 70001 7000112 700011 1000031 7000215 70002 7000222 700027 700030 50012 50013
7000218 700025 54005 700005 501481 50147 50011 70004 900971 70011 28002 28003 700022 700023 90002
90019 50059 50128 90038 900382 900432 90051 50194 9001023 90130 90124 500021 500022 500212 500213
50002 90024 90033 90006 90012 90090 50033 50087 40010 90036 90055 50196 9002313 900144 90014 90100
"""


@pytest.mark.parametrize("code", [int(word) for word in DOCUMENTED.split()])
def test_every_documented_code_is_in_the_table(code):
    """A code that clients must handle can be given by the sandbox."""
    row = REFUSALS[code]

    assert row.code == code
    assert 400 <= row.status < 600
    assert row.text.endswith(".")


def test_body_has_all_that_entra_sends():
    """A refusal carries codes, ids, time and an address for people, consistent with each other."""
    body = error_body(
        EntraError(50173, "More."),
        host_url="https://entra.test",
        now=1_700_000_000.5,
        correlation_id="7d0c",
    )

    assert body["error"] == "invalid_grant"
    assert body["error_codes"] == [50173]
    assert body["suberror"] == "bad_token"
    assert body["correlation_id"] == "7d0c"
    assert body["timestamp"] == "2023-11-14 22:13:20Z"
    assert body["error_uri"] == "https://entra.test/error?code=50173"
    assert re.fullmatch(
        r"AADSTS50173: .* More\. Trace ID: \S+ Correlation ID: 7d0c Timestamp: 2023-11-14 22:13:20Z",
        str(body["error_description"]),
    )
