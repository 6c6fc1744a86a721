"""The same mail as ``compose`` makes, for contents that are not in memory: what flows where."""

from __future__ import annotations

from collections.abc import Sequence

from models.attachments import checked_file_name, checked_type
from models.large_content import Part
from workers.compose import boundary_of, file_head, multipart_head, text_head
from workers.flow import Segment


def segments_of(parts: Sequence[Part], message_id: str) -> tuple[Segment, ...]:
    """
    Say what follows ``MIME-Version``, down to the mail's end.

    Args:
        parts: Bodies first, then files; at least one.
        message_id: With angle brackets.

    Raises:
        ValueError: The name or the type of a file would break out of its header.
    """
    bodies = [_body(part) for part in parts if part.name is None]
    files = [_file(part, part.name) for part in parts if part.name is not None]
    content = bodies[0] if len(bodies) == 1 else _multipart("alternative", bodies, message_id)
    if files:
        content = _multipart("mixed", [content, *files], message_id)
    return tuple(_joined(content))


def _body(part: Part) -> list[Segment]:
    # Quoted-printable is left out: which encoding is shortest is known only at the end.
    return [text_head(part.content_type, b"7bit" if part.plain else b"base64"), part]


def _file(part: Part, name: str) -> list[Segment]:
    # As for every mail: nothing breaks out of a header, wherever it came from.
    return [file_head(checked_type(part.content_type), checked_file_name(name)), part]


def _multipart(kind: str, parts: Sequence[list[Segment]], message_id: str) -> list[Segment]:
    # Nothing that is stored as plain holds what every boundary begins with.
    boundary = boundary_of(kind, message_id)
    segments: list[Segment] = [multipart_head(kind, boundary)]
    for part in parts:
        segments += [b"--%b\r\n" % boundary, *part]
    return [*segments, b"--%b--\r\n" % boundary]


def _joined(segments: Sequence[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for segment in segments:
        if isinstance(segment, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += segment
        else:
            joined.append(segment)
    return joined
