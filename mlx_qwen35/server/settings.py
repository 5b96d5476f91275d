"""What the operator decides about requests; `MediaPolicy` has what is decided about images."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_BODY = 64 * 2**20


@dataclass(frozen=True)
class Settings:
    """Who may ask, for which model, and how much at once.

    Args:
        names: Of the model, in requests; answers show the first.
        api_key: Expected in every request; None lets everyone in.
        max_body: Bytes of a request's body.
    """

    names: Sequence[str]
    api_key: str | None = None
    max_body: int = MAX_BODY
