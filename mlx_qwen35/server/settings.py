"""What the operator decides about requests; `MediaPolicy` has what is decided about images."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_BODY = 64 * 2**20
BODY_SECONDS = 120.0
MAX_STORED = 256
MAX_STORED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Settings:
    """Who may ask, for which model, and how much at once.

    Args:
        names: Of the model, in requests; answers show the first.
        api_key: Expected in every request; None lets everyone in.
        max_body: Bytes of a request's body.
        body_seconds: In which a body has to be there.
        strict: Whether fields without effect are refused.
        strict_model: Whether other names of the model than `names` are refused.
        max_stored: Responses that are kept for clients to come back to, at most.
        max_stored_bytes: Of their JSON, together.
        hosts: Names in the Host header beside those that only this machine and its network have; "*" for any.
        origins: Of pages elsewhere that may ask, in lower case and without a path; "*" for any.
    """

    names: Sequence[str]
    api_key: str | None = None
    max_body: int = MAX_BODY
    body_seconds: float = BODY_SECONDS
    strict: bool = False
    strict_model: bool = False
    max_stored: int = MAX_STORED
    max_stored_bytes: int = MAX_STORED_BYTES
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
