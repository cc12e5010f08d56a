"""What kind of content a file of a box is. Its name is a claim; what is shown as an image has been looked at."""

from __future__ import annotations

import codecs
import mimetypes
from typing import Final

MAX_IMAGE_BYTES: Final = 2 * 1024 * 1024
MAX_IMAGES: Final = 4
MAX_IMAGES_BYTES: Final = 4 * 1024 * 1024
IMAGES: Final = (".png", ".jpg", ".jpeg", ".gif", ".webp")
BINARY: Final = "application/octet-stream"


def image_type(data: bytes) -> str:
    """The MIME type of an image by its first bytes, empty when it is none that clients show."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return ""


def text_in(data: bytes, *, begins: bool, ends: bool) -> str | None:
    """A part of a file as text, `None` when it is not UTF-8. Characters cut at an edge that is none are left out."""
    if b"\0" in data:
        return None
    start = 0
    while not begins and start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data[start:], final=ends)
    except UnicodeDecodeError:
        return None


def mime_type(path: str, *, is_text: bool) -> str:
    """What a file is by its name; plain text and bytes where that says nothing, or says the other."""
    guessed = mimetypes.guess_type(path)[0] or ""
    if is_text:
        return guessed if guessed.startswith("text/") or guessed == "application/json" else "text/plain"
    return BINARY if not guessed or guessed.startswith(("text/", "image/")) else guessed
