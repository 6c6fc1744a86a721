"""Collecting the content of one mail from reads of any size, without copying it again and again."""

from __future__ import annotations

from sandbox.smtp_grammar import unstuff

_DOT = b"\r\n.\r\n"
_BEGINS_WITH_DOT = b"\r\n."
_SLACK_BYTES = 64 * 1024


class DottedContent:
    """
    Content that ends with a dot on a line of its own (DATA).

    Attributes:
        complete: Whether the final dot was seen.
        raw: The content, dots unstuffed; empty if it was dropped for its size.
        size: Its bytes.
        bare_line_feeds: Whether there are any; None where it was not looked for.
    """

    __slots__ = (
        "_buffer", "_dropped", "_keep_bytes", "_stuffed", "bare_line_feeds", "complete", "raw",
        "size",
    )  # fmt: skip

    def __init__(self, allowed_bytes: int | None) -> None:
        """
        Begin.

        Args:
            allowed_bytes: Content that is much larger will be refused and need not be kept.
        """
        self._buffer: bytearray | None = None
        self._dropped = 0
        self._stuffed = False
        self.bare_line_feeds: bool | None = None
        # Stuffed dots go over the line, but do not count.
        self._keep_bytes = None if allowed_bytes is None else allowed_bytes * 3 // 2 + _SLACK_BYTES
        self.complete = False
        self.raw = b""
        self.size = 0

    def take(self, data: bytes, position: int) -> int:
        """
        Take content from a position in what was read.

        Returns:
            Where the content ends; the next command begins there if it is complete.
        """
        buffer = self._buffer
        if buffer is None:
            # Nearly every alert fits one read: no buffer, one copy.
            hit = data.find(_DOT, position)
            if data.startswith(b".\r\n", position):
                return self._end(b"", position + 3)
            if hit >= 0:
                # Short enough to look.
                self._stuffed = True
                return self._end(data[position : hit + 2], hit + 5)
            # The line break that DATA ended with may be the first half of the final dot.
            buffer = self._buffer = bytearray(b"\r\n")
        known = len(buffer)
        start = max(0, known - len(_DOT) + 1)
        buffer += memoryview(data)[position:]
        hit = buffer.find(_DOT, start)
        self._look(buffer, known, len(buffer) if hit < 0 else hit + 2)
        if hit < 0:
            self._drop_what_is_too_large(buffer)
            return len(data)
        end = len(data) - (len(buffer) - hit - len(_DOT))
        if self._dropped:
            self.size = self._dropped + hit
            self.complete = True
            return end
        with memoryview(buffer) as view:
            content = bytes(view[2 : hit + 2])
        self._buffer = None
        return self._end(content, end)

    def _look(self, buffer: bytearray, known: int, end: int) -> None:
        """
        Look at what was read for all that is asked of the whole.

        At the end of a large mail it would take so long that nobody else is served meanwhile.
        """
        self._stuffed = self._stuffed or (
            buffer.find(_BEGINS_WITH_DOT, max(0, known - len(_BEGINS_WITH_DOT) + 1), end) >= 0
        )
        self.bare_line_feeds = bool(self.bare_line_feeds) or (
            buffer.count(b"\n", known, end) != buffer.count(b"\r\n", max(0, known - 1), end)
        )

    def _end(self, content: bytes, position: int) -> int:
        self.raw = unstuff(content) if self._stuffed else content
        self.size = len(self.raw)
        self.complete = True
        return position

    def _drop_what_is_too_large(self, buffer: bytearray) -> None:
        if self._keep_bytes is None:
            return
        if self._dropped or len(buffer) > self._keep_bytes:
            # What is left may be the beginning of the final dot.
            self._dropped += len(buffer) - len(_DOT) + 1
            del buffer[: -len(_DOT) + 1]


class ChunkedContent:
    """
    Content that comes in chunks of announced size (BDAT, RFC 3030).

    Attributes:
        size: Bytes so far, over all chunks.
        left: Bytes that the present chunk still lacks.
        last: Whether the present chunk is the last one.
        refusal: Reply to give after the chunk; its octets come all the same.
    """

    __slots__ = ("_allowed_bytes", "_buffer", "last", "left", "refusal", "size")

    def __init__(self, allowed_bytes: int | None) -> None:
        self._allowed_bytes = allowed_bytes
        self._buffer = bytearray()
        self.size = 0
        self.left = 0
        self.last = False
        self.refusal = ""

    def expect(self, size: int, *, last: bool) -> None:
        """Begin a chunk."""
        self.left = size
        self.last = last

    def take(self, data: bytes, position: int) -> int:
        """Take what belongs to the chunk; give where it ends in what was read."""
        stop = min(len(data), position + self.left)
        self.left -= stop - position
        self.size += stop - position
        if self.refusal or (self._allowed_bytes is not None and self.size > self._allowed_bytes):
            self._buffer.clear()
        else:
            self._buffer += memoryview(data)[position:stop]
        return stop

    @property
    def raw(self) -> bytes:
        """The content; empty if it was dropped for its size."""
        return bytes(self._buffer)
