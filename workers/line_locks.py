"""
The last locks before a mail and before the line: nothing breaks out of its header or its command.

Every value was looked at where it came in. Here nobody asks where it came from.
"""

from __future__ import annotations

import re

from models.errors import InvalidAlert, SubmissionFailed
from models.legible import breaks_out
from models.stages import Stage

_HEAD = re.compile(r"(?:[!-9;-~]+: [^\r\n]*(?:\r\n [^\r\n]*)*+\r\n)*+")
_NAME = re.compile(r"^([^:\r\n ]*):", re.MULTILINE)
_OWN = frozenset(
    {
        "from", "to", "cc", "reply-to", "subject", "date", "message-id", "in-reply-to",
        "references", "importance", "auto-submitted", "mime-version",
    }
)  # fmt: skip
_IN_PATH = re.compile(r"[^\s<>]+")


def locked(head: str) -> str:
    """
    Return the headers of a mail as they are, if each is one that a mail of ours has.

    Raises:
        InvalidAlert: A line is none, a header comes twice, or one has no business here.
    """
    names = [name.lower() for name in _NAME.findall(head)]
    strange = [name for name in names if name not in _OWN and not name.startswith("x-")]
    if (
        strange
        or len(names) != len(set(names))
        or not _HEAD.fullmatch(head)
        or breaks_out(head.replace("\r\n", ""))
    ):
        raise InvalidAlert("headers", "would make a mail with a header that is not ours")
    return head


def command_line(text: str) -> bytes:
    """
    Encode one command with its line end.

    Raises:
        SubmissionFailed: It holds a line end, NUL or another control character; nothing was sent.
    """
    if breaks_out(text):
        raise SubmissionFailed(
            stage=Stage.COMPOSE, reply_text="a control character in an address", failure="invalid"
        )
    return text.encode("utf-8") + b"\r\n"


def path(address: str) -> str:
    """
    Put an address into the angle brackets of MAIL FROM and RCPT TO.

    Raises:
        SubmissionFailed: It would end them, or begin parameters of the command.
    """
    if not _IN_PATH.fullmatch(address):
        raise SubmissionFailed(
            stage=Stage.COMPOSE,
            reply_text="a blank or an angle bracket in an address",
            failure="invalid",
        )
    return f"<{address}>"


def sign_in_argument(text: str, what: str) -> str:
    """
    Return what goes into the answer to AUTH, whose parts a control character separates.

    Raises:
        SubmissionFailed: It holds one; nobody was asked. It is a fault of the mailbox's set-up, so
            the lane waits and no mail is given up for it.
    """
    if breaks_out(text):
        raise SubmissionFailed(
            stage=Stage.AUTH,
            reply_text=f"a control character in {what}; nothing was sent",
            failure="disconnected",
        )
    return text
