"""A step of a dialogue as it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workers.smtp_session import Step


@dataclass(frozen=True, slots=True)
class Line:
    """
    One step as it is told.

    Attributes:
        stage: ``token``, ``pacing``, or a stage of the dialogue.
        sent: What we said or asked.
        received: What came back.
        seconds: How long the step took.
        detail: What else there is to know, such as the certificate.
    """

    stage: str
    sent: str
    received: str
    seconds: float
    detail: str = ""


Tell = Callable[[Line], None]


def line_of(step: Step) -> Line:
    """Tell a step of SMTP."""
    return Line(step.stage.value, step.sent, step.received, step.seconds, step.detail)


def untold(_line: Line) -> None:
    """Tell nobody."""
