"""Files that come inside a request: one of text is its text, whatever it is called; others are refused by name."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from mlx_qwen35.paths import shorten
from mlx_qwen35.server.wire import invalid_request

# For a file that only another server holds.
SEND_DATA = "send its text, or a file of text as file_data"


def document_text(text: str, title: str | None = None, context: str | None = None) -> str:
    """A document as the model reads it.

    Args:
        context: What the client says about it.
    """
    head = "".join(f"{line}\n" for line in (title and f"# {title}", context) if line)
    return f"{head}\n{text}\n" if head else text


def file_text(data: str | None, name: str | None, place: str) -> str:
    """A file of text as the model reads it; see `read_text`."""
    return document_text(read_text(data, name, place), name)


def read_text(data: str | None, name: str | None, place: str) -> str:
    """What a file of text holds.

    Args:
        data: A data: URL, or base64.
        place: Where it stands in the request, for error messages.
    Raises:
        ApiError: It is not there, badly written, or no text.
    """
    if not data:
        raise invalid_request(f"{place}: expected file_data, found none; {SEND_DATA}", place)
    raw, media_type = _bytes_of(data, place)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # What a file holds tells more than what it is called: no list of types has all that programs and people write.
    if "\0" in text or raw.startswith(b"%PDF-"):
        kind = " of type ".join(shorten(word, 60) for word in (name or "one", media_type) if word)
        raise invalid_request(
            f"{place}: expected a file of text in UTF-8, found {kind}; PDFs and other files are not read here: send "
            "their text, and images as images",
            place,
        )
    return text


def _bytes_of(data: str, place: str) -> tuple[bytes, str]:
    """The bytes, and the media type that a data: URL says."""
    head, comma, body = data.partition(",") if data.startswith("data:") else ("", "", data)
    media_type, *parameters = head.removeprefix("data:").split(";")
    if comma and parameters[-1:] != ["base64"]:
        return unquote_to_bytes(body), media_type
    try:
        return base64.b64decode("".join(body.split()), validate=True), media_type
    except (binascii.Error, ValueError) as error:
        raise invalid_request(f"{place}: expected a data: URL or base64 ({error})", place) from None
