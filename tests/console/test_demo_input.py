"""The demo on alerts of one's own."""

from __future__ import annotations

import json
from pathlib import Path

from console import demo


def test_one_tenant_has_all_the_troubles_and_gets_its_mail(tmp_path: Path) -> None:
    """What waits for a person is cured although no other tenant moves on."""
    alert = {"tenant": "contoso", "to": "a@x.example", "text": "t"}
    source = tmp_path / "alerts.jsonl"
    source.write_text("\n".join(json.dumps(alert | {"subject": f"s{n}"}) for n in range(12)))

    result = demo.play(tmp_path / "demo", source=source, format_name="alerts", screen=demo.Screen())

    assert result.good
    assert result.as_json()["accepted"] == 12
