"""
Misbehaviour of Exchange Online on demand, by name.

A fault says in which phase of the dialogue it strikes, whom, how often, and what the server does
instead of, before or after what it should do. Chance comes from one seeded source: runs repeat.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from sandbox.replies import reply_for

Phase = Literal[
    "connect", "banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "quit", "*"
]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Answer:
    """Say this reply and do nothing; at ``body`` the mail is not taken. A 421 closes the line."""

    reply: str


@dataclass(frozen=True, slots=True)
class Say:
    """Say this as it stands, reply or not, and do nothing; at ``body`` the mail is not taken."""

    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; ``after`` does and answers what was asked first."""

    when: Literal["before", "after"] = "before"


@dataclass(frozen=True, slots=True)
class CutAfterDot:
    """At ``body``: cut the line after the final dot, before the reply. ``taken``: mail was kept."""

    taken: bool


@dataclass(frozen=True, slots=True)
class CutInside:
    """At ``data``: cut the line after so many bytes of content (354 has been said)."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Do and say nothing for a while, then go on as if nothing had been; None is for ever."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """Do what was asked and hold the reply back, for a time drawn from a range."""

    seconds: float
    jitter_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trickle:
    """Send the reply byte by byte."""

    interval_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class RefuseRecipients:
    """At ``rcpt``: refuse addresses that match a shell pattern."""

    pattern: str
    reply: str = "recipient_access_denied"


@dataclass(frozen=True, slots=True)
class NoStartTLS:
    """At ``ehlo``: neither offer STARTTLS nor know the command."""


@dataclass(frozen=True, slots=True)
class WrongCertificate:
    """At ``starttls``: show the server's other certificate; without one, break the handshake."""


Behaviour = (
    Answer
    | Say
    | Close
    | CutAfterDot
    | CutInside
    | Stall
    | Slow
    | Trickle
    | RefuseRecipients
    | NoStartTLS
    | WrongCertificate
)
_BEHAVIOURS: Mapping[str, type[Behaviour]] = MappingProxyType(
    {
        "answer": Answer,
        "say": Say,
        "close": Close,
        "cut_after_dot": CutAfterDot,
        "cut_inside": CutInside,
        "stall": Stall,
        "slow": Slow,
        "trickle": Trickle,
        "refuse_recipients": RefuseRecipients,
        "no_starttls": NoStartTLS,
        "wrong_certificate": WrongCertificate,
    }
)
_NAMES = {behaviour: name for name, behaviour in _BEHAVIOURS.items()}
_ONLY_AT: Mapping[type[Behaviour], Phase] = MappingProxyType(
    {
        CutAfterDot: "body",
        CutInside: "data",
        RefuseRecipients: "rcpt",
        NoStartTLS: "ehlo",
        WrongCertificate: "starttls",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One misbehaviour.

    Attributes:
        name: What it is called; a plan holds one fault of a name.
        phase: Where it strikes; ``*`` is everywhere.
        behaviour: What the server does.
        mailbox: Shell pattern of the authenticated mailbox; None for all. Before AUTH no mailbox is
            known, and a fault with a pattern does not strike; at AUTH it is the user who asks.
        times: How often it strikes before it is spent; None for always.
        probability: Chance to strike when it could, 0.0 to 1.0.
        after: Number of occasions to let pass first.
    """

    name: str
    phase: Phase
    behaviour: Behaviour
    mailbox: str | None = None
    times: int | None = None
    probability: float = 1.0
    after: int = 0

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase: {self.phase!r} is none of {', '.join(PHASES)}")
        only_at = _ONLY_AT.get(type(self.behaviour), self.phase)
        if only_at != self.phase:
            raise ValueError(f"phase: {_NAMES[type(self.behaviour)]} strikes at {only_at} only")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability: must be from 0.0 to 1.0")
        if self.after < 0 or (self.times is not None and self.times < 1):
            raise ValueError("after must be 0 or more, times 1 or more or null")
        if isinstance(self.behaviour, Answer | RefuseRecipients):
            reply_for(self.behaviour.reply)

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Fault:
        """
        Read a fault from JSON-like data.

        ``reply`` is short for the behaviour ``answer``; fields of a behaviour stand beside the
        fault's own: ``{"name": "slow", "phase": "*", "behaviour": "slow", "seconds": 0.2}``.

        Raises:
            ValueError: A field is missing, unknown or out of range.
        """
        given = dict(raw)
        kind = given.pop("behaviour", "answer" if "reply" in given else None)
        behaviour_type = _BEHAVIOURS.get(str(kind))
        if behaviour_type is None:
            raise ValueError(f"behaviour: {kind!r} is none of {', '.join(_BEHAVIOURS)}")
        own = {field.name for field in fields(behaviour_type)}
        details = {name: given.pop(name) for name in list(given) if name in own}
        try:
            return cls(behaviour=behaviour_type(**details), **given)
        except TypeError as error:
            raise ValueError(f"fault: {error}") from error

    def as_mapping(self) -> dict[str, Any]:
        """Write the fault as ``from_mapping`` reads it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["behaviour"] = _NAMES[type(self.behaviour)]
        return own | asdict(self.behaviour)


class Decision(NamedTuple):
    """What strikes now: at most one fault that changes what is done, and one that slows it."""

    action: Behaviour | None
    pace: Slow | Trickle | None


_NOTHING = Decision(None, None)


class FaultPlan:
    """
    The faults in force, oldest first, and how often each has struck.

    Attributes:
        armed: Whether there is any; the server looks at this alone where there is none.
        struck: Name to number of strikes, spent faults included.
    """

    def __init__(self, faults: tuple[Fault, ...] = (), *, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - chance that repeats, no secret
        self._faults: dict[str, Fault] = {}
        self._occasions: dict[str, int] = {}
        self.struck: dict[str, int] = {}
        self.armed = False
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Put a fault in force, in place of one of the same name."""
        self._faults[fault.name] = fault
        self._occasions[fault.name] = 0
        self.struck[fault.name] = 0
        self.armed = True

    def clear(self, name: str = "") -> int:
        """Take one fault back, or all; give how many there were. Counts of strikes stay."""
        doomed = [name] if name in self._faults else [] if name else list(self._faults)
        for each in doomed:
            del self._faults[each]
        self.armed = bool(self._faults)
        return len(doomed)

    def as_json(self) -> list[dict[str, Any]]:
        """Give the faults in force with their counts."""
        return [
            fault.as_mapping() | {"struck": self.struck[fault.name]}
            for fault in self._faults.values()
        ]

    def jitter(self, slow: Slow) -> float:
        """Draw how long a slow reply is held back, in seconds."""
        return slow.seconds + self._random.random() * slow.jitter_seconds

    def decide(self, phase: Phase, *, mailbox: str = "", recipient: str = "") -> Decision:
        """
        Say what strikes on this occasion, and count it.

        Args:
            phase: Where the dialogue is.
            mailbox: Who is authenticated, or asks to be; empty if nobody.
            recipient: The address at ``rcpt``.

        Returns:
            The first fault of each kind that strikes.
        """
        if not self.armed:
            return _NOTHING
        action: Behaviour | None = None
        pace: Slow | Trickle | None = None
        for fault in list(self._faults.values()):
            behaviour = fault.behaviour
            if isinstance(behaviour, Slow | Trickle):
                if pace is None and self._strikes(fault, phase, mailbox, recipient):
                    pace = behaviour
            elif action is None and self._strikes(fault, phase, mailbox, recipient):
                action = behaviour
        return Decision(action, pace)

    def _strikes(self, fault: Fault, phase: Phase, mailbox: str, recipient: str) -> bool:
        if fault.phase not in (phase, "*"):
            return False
        if fault.mailbox is not None and not fnmatchcase(mailbox.lower(), fault.mailbox.lower()):
            return False
        behaviour = fault.behaviour
        if isinstance(behaviour, RefuseRecipients) and not fnmatchcase(
            recipient.lower(), behaviour.pattern.lower()
        ):
            return False
        self._occasions[fault.name] += 1
        if self._occasions[fault.name] <= fault.after:
            return False
        if fault.probability < 1.0 and self._random.random() >= fault.probability:
            return False
        self.struck[fault.name] += 1
        if fault.times is not None and self.struck[fault.name] >= fault.times:
            self.clear(fault.name)
        return True


PRESETS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            Fault("busy_at_connect", "banner", Answer("service_not_available")),
            Fault("cut_at_connect", "connect", Close()),
            Fault("silent_greeting", "banner", Stall()),
            Fault("no_starttls", "ehlo", NoStartTLS()),
            Fault("wrong_certificate", "starttls", WrongCertificate()),
            Fault("tokens_refused", "auth", Answer("authentication_unsuccessful")),
            Fault("proxy_trouble_at_auth", "auth", Answer("temporary_server_error")),
            Fault("connections_refused_at_data", "data", Answer("concurrent_connections")),
            Fault("cut_inside_content", "data", CutInside(100)),
            Fault("cut_after_dot_taken", "body", CutAfterDot(taken=True), times=1),
            Fault("cut_after_dot_lost", "body", CutAfterDot(taken=False), times=1),
            Fault("silent_after_dot", "body", Stall(), times=1),
            Fault("flaky", "body", Answer("temporary_server_error"), probability=0.05),
            Fault("outbound_spam", "body", Answer("outbound_spam")),
            Fault("slow", "*", Slow(0.05, 0.2)),
            Fault("trickle", "*", Trickle()),
        )
    }
)
"""Faults worth trying, ready for a plan; ``dataclasses.replace`` narrows one to a mailbox."""
