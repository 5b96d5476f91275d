"""What a protocol is to the server: an endpoint, the model of its body, and how its answers are written."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.generation import GenerationRequest, StreamEvent
from mlx_qwen35.server.service import PreparedRequest
from mlx_qwen35.server.stored import StoredResponses
from mlx_qwen35.server.wire import ApiError, WireObject


class PromptBody(WireObject):
    """The body of a request that has a prompt."""

    model: str | None = None

    def resolve(self, stored: StoredResponses) -> None:
        """Put in what the body refers to.

        Raises:
            ApiError: 404: it is not there.
        """

    def generation_requests(self) -> list[GenerationRequest]:
        """One for each prompt.

        Raises:
            ApiError: Fields contradict each other.
        """
        raise NotImplementedError


class GenerationBody(PromptBody):
    """The body of a request for an answer."""

    stream: bool | None = None


Body = TypeVar("Body", bound=GenerationBody)


@dataclass(frozen=True)
class AnswerContext(Generic[Body]):
    """What an answer is written from, beside the events.

    Args:
        model: Its name, as answers show it.
        tokenizer: For the texts of single tokens.
        stored: Where responses are kept.
    """

    body: Body
    prepared: PreparedRequest
    model: str
    tokenizer: Tokenizer
    stored: StoredResponses = field(default_factory=StoredResponses)


@dataclass(frozen=True)
class ApiProtocol(Generic[Body]):
    """One protocol: an object of this class in `PROTOCOLS` is all that the server needs to speak it.

    Args:
        path: Of its endpoint, a POST; errors of paths below it have its form too.
        body: The model of its body.
        whole: The answers as one JSON object.
        stream: The answers as server-sent events; the first one comes with the first event of the answers.
        error: An error as a JSON object.
        error_event: An error as a server-sent event, in a stream of which so many events have been sent.
    """

    path: str
    body: type[Body]
    whole: Callable[[AsyncIterator[StreamEvent], AnswerContext[Body]], Awaitable[dict[str, Any]]]
    stream: Callable[[AsyncIterator[StreamEvent], AnswerContext[Body]], AsyncIterator[str]]
    error: Callable[[ApiError], dict[str, Any]]
    error_event: Callable[[ApiError, int], str]
