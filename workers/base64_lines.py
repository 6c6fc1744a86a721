"""Base64 as it stands in a mail (RFC 2045 section 6.8)."""

from __future__ import annotations

import binascii

LINE_OCTETS = 57
"""What makes one full line."""

_LINE = 76


def base64_lines(octets: bytes) -> bytes:
    """Encode in lines with CRLF, the last one's included; of nothing, one empty line."""
    if not octets:
        return b"\r\n"  # the line end that a boundary asks for
    encoded = binascii.b2a_base64(octets, newline=False)
    lines = [encoded[at : at + _LINE] for at in range(0, len(encoded), _LINE)]
    lines.append(b"")
    return b"\r\n".join(lines)
