from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StrictStr,
    WithJsonSchema,
)

_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+\-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+\-]{0,63}",
)
_BAD_IN_NAME = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff/\\\\\\u202a-\\u202e\\u2066-\\u2069]",
)
_MAX_NAME_OCTETS = 255


def checked_file_name(name: str) -> str:
    """Return a file name that may stand in a mail; raises ValueError for any other."""
    if _BAD_IN_NAME.search(name):
        raise ValueError(
            "holds a path separator, a control character or one that overrides the reading "
            "direction; give the bare file name",
        )
    if not name.strip(" .") or name != name.strip(" "):
        raise ValueError("is empty, only dots, or begins or ends with a space")
    if len(name.encode()) > _MAX_NAME_OCTETS:
        raise ValueError(f"is longer than {_MAX_NAME_OCTETS} octets in UTF-8")
    return name


def checked_type(value: str) -> str:
    """Return a media type that may stand in a mail; raises ValueError for any other."""
    value = value.lower()
    if not _TYPE.fullmatch(value):
        raise ValueError("is not a media type; write type/subtype without parameters")
    if value.startswith(("multipart/", "message/")):
        # RFC 2046 sections 5.1 and 5.2.1 forbid base64 for both, and base64 is what keeps
        # a file's octets as they are.
        raise ValueError("cannot be attached as it is; use application/octet-stream")
    return value


def _content(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode("".join(value.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("is not base64 (RFC 4648 section 4)") from error


class Attachment(BaseModel):
    """
    One attached file.

    Attributes:
        name: File name as the reader sees it, any script, no path.
        content_type: Media type without parameters.
        content: The file's octets; base64 in JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[StrictStr, AfterValidator(checked_file_name)]
    content_type: Annotated[StrictStr, AfterValidator(checked_type)] = "application/octet-stream"
    content: Annotated[
        bytes,
        BeforeValidator(_content),
        PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
        WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    ]

    @property
    def encoded_size(self) -> int:
        """Octets it takes in a mail: base64 in lines of 76, and its own part headers."""
        encoded = (len(self.content) + 2) // 3 * 4
        return encoded + 2 * -(-encoded // 76) + 4 * len(self.name.encode()) + 300

    def stored(self) -> dict[str, Any]:
        """Return what ``AlertEmail.dump`` keeps of it."""
        return {
            "name": self.name,
            "content_type": self.content_type,
            "content": binascii.b2a_base64(self.content, newline=False).decode(),
        }

    @classmethod
    def from_stored(cls, value: dict[str, str]) -> Attachment:
        """Rebuild what ``stored`` returned, without checking it again."""
        return cls.model_construct(
            name=value["name"],
            content_type=value["content_type"],
            content=binascii.a2b_base64(value["content"]),
        )
