"""Misbehaviour of Entra on demand, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import count

from sandbox.entra_errors import REFUSALS, Refusal


class EntraFaultKind(StrEnum):
    """What Entra does instead of answering as it should."""

    AADSTS = "aadsts"
    """Refuse with the code given."""
    OAUTH = "oauth"
    """Refuse with ``error`` alone and no number, as providers other than Entra do."""
    THROTTLED = "throttled"
    """429 with Retry-After."""
    UNAVAILABLE = "unavailable"
    """503, with Retry-After if one is given, and no OAuth error."""
    NOT_JSON = "not_json"
    """200 with a page of HTML, as a captive portal does."""
    SLOW = "slow"
    """Do what was asked, then hold the answer back."""
    CUT = "cut"
    """Cut the line before anything is done."""
    CUT_AFTER = "cut_after"
    """Do what was asked, such as rotating the refresh token, and cut the line, no answer given."""


@dataclass(slots=True)
class EntraFault:
    """
    One fault, and whom it strikes. An empty condition strikes everyone.

    Attributes:
        kind: What happens.
        code: The AADSTS code, for ``aadsts``; one of no row needs ``text`` and ``error`` besides.
        remaining: Requests it still strikes; None for all until it is cleared.
        tenant_id: Only this tenant's requests.
        client_id: Only this app's requests.
        user: Only requests for this address.
        grant_type: Only this grant type.
        endpoint: ``token`` or ``discovery`` (the OpenID configuration, the keys).
        retry_after_seconds: Retry-After, for ``throttled`` and ``unavailable``; 0 sends none.
        seconds: How long ``slow`` holds the answer back.
        status: Overrides the HTTP status of an AADSTS answer; 0 for the table's.
        error: Overrides the OAuth error of an AADSTS answer; empty for the table's.
        text: Overrides the sentence of an AADSTS answer likewise.
        echo: The text of an AADSTS answer quotes the whole request, secrets included.
    """

    kind: EntraFaultKind
    code: int = 0
    remaining: int | None = None
    tenant_id: str = ""
    client_id: str = ""
    user: str = ""
    grant_type: str = ""
    endpoint: str = "token"
    retry_after_seconds: int = 0
    seconds: float = 0.0
    status: int = 0
    error: str = ""
    echo: bool = False
    text: str = ""

    def __post_init__(self) -> None:
        made_up = bool(self.text and self.error and self.code > 0)
        if self.kind is EntraFaultKind.AADSTS and self.code not in REFUSALS and not made_up:
            raise ValueError(
                f"unknown AADSTS code {self.code}: give a code that the sandbox knows, or text and "
                "error with it"
            )
        if self.kind is EntraFaultKind.OAUTH and not self.error:
            raise ValueError("oauth needs an error, such as invalid_grant")
        if self.endpoint not in {"token", "discovery"}:
            raise ValueError(f"endpoint must be token or discovery, not {self.endpoint!r}")
        if self.endpoint == "discovery" and (self.user or self.grant_type or self.client_id):
            raise ValueError("discovery knows no user, app or grant type")
        if self.remaining is not None and self.remaining < 1:
            raise ValueError("remaining must be 1 or more, or null for all")

    @property
    def refusal(self) -> Refusal:
        """What an AADSTS answer says."""
        row = REFUSALS.get(self.code) or Refusal(self.code, self.error, 400, self.text)
        return replace(row, text=self.text or row.text, error=self.error or row.error)

    def strikes(self, asked: Asked) -> bool:
        """Say whether a request is among those it strikes."""
        return (
            self.endpoint == asked.endpoint
            and self.tenant_id in {"", asked.tenant_id}
            and self.client_id in {"", asked.client_id}
            and self.user.casefold() in {"", asked.user.casefold()}
            and self.grant_type in {"", asked.grant_type}
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as faults care."""

    endpoint: str = "token"
    tenant_id: str = ""
    client_id: str = ""
    user: str = ""
    grant_type: str = ""


class EntraFaults:
    """The faults in force, oldest first."""

    def __init__(self) -> None:
        self._faults: dict[str, EntraFault] = {}
        self._numbers = count(1)

    def add(self, fault: EntraFault) -> str:
        """Put a fault in force and give its id."""
        fault_id = f"entra-{next(self._numbers)}"
        self._faults[fault_id] = fault
        return fault_id

    def clear(self, fault_id: str = "") -> int:
        """Take one fault back, or all; give how many there were."""
        if not fault_id:
            number = len(self._faults)
            self._faults.clear()
            return number
        return 0 if self._faults.pop(fault_id, None) is None else 1

    def take(self, asked: Asked) -> EntraFault | None:
        """Give the oldest fault that strikes a request, and count it off."""
        for fault_id, fault in self._faults.items():
            if fault.strikes(asked):
                if fault.remaining is not None:
                    fault.remaining -= 1
                    if fault.remaining == 0:
                        del self._faults[fault_id]
                return fault
        return None

    def as_json(self) -> list[dict[str, object]]:
        """Give the faults in force as objects for JSON."""
        return [{"id": fault_id, **asdict(fault)} for fault_id, fault in self._faults.items()]
