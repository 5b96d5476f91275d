"""What protocols share: fields of requests, pieces of answers, OpenAI's form of errors."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue

from mlx_qwen35.answers.results import TokenLogprob
from mlx_qwen35.answers.tool_calls import ToolCall
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.server.generation import DeltaEvent, ProgressEvent, Usage
from mlx_qwen35.server.protocols.base import GenerationBody
from mlx_qwen35.server.protocols.response_format import ResponseFormat, schema_of
from mlx_qwen35.server.wire import ApiError, Items, Whole, WireObject, agreed, invalid_request

# Labels, and services that are not here.
LABELS = frozenset({
    "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
})  # fmt: skip
# What other servers have, and answers would be others without.
ELSEWHERE = {
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "grammar"),
        "send response_format with a JSON schema",
    ),
    "bad_words": "send logit_bias",
    **dict.fromkeys(("adapters", "adapter_path"), "start the server with --adapter-path"),
    **dict.fromkeys(("use_beam_search", "best_of", "echo", "suffix"), "not supported"),
}
# How much is written; -1 is no limit, as in LM Studio's examples and for llama.cpp's server.
MaxTokens = Annotated[Whole | None, BeforeValidator(lambda value: None if value == -1 else value)]
# JSON has no infinity; OpenAI writes this for what cannot come.
IMPOSSIBLE = -9999.0


class Thinking(WireObject):
    """Whether the answer begins with reasoning, and for how many tokens, as Anthropic, DeepSeek and Z.ai have it.

    "adaptive" and "auto" leave that to the effort.
    """

    without_effect: ClassVar = frozenset({"display"})

    type: Literal["enabled", "adaptive", "auto", "disabled"]
    budget_tokens: Whole | None = Field(default=None, ge=0)

    @property
    def switch(self) -> bool | None:
        """Whether to think; None where that is left open."""
        return {"enabled": True, "disabled": False}.get(self.type)


class StreamOptions(WireObject):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class SamplingFields(GenerationBody):
    """How tokens are chosen, and where an answer ends, in all of OpenAI's protocols."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    # The same for llama.cpp's server, LM Studio and Ollama.
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: Whole | None = None
    stop: str | Items[str] | None = None
    stop_token_ids: Items[Whole] | None = None
    min_tokens: Whole | None = Field(None, ge=0)
    ignore_eos: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """Options of `ModelKit.request`.

        Raises:
            ApiError: A key of `logit_bias` is no token id, or a penalty has two values.
        """
        penalty = agreed("repetition_penalty", self.repetition_penalty, "repeat_penalty", self.repeat_penalty)
        names = (
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
        )
        options = {name: getattr(self, name) for name in (*names, "seed")}
        further = ("stop_token_ids", "min_tokens", "ignore_eos")
        options |= {name: value for name in further if (value := getattr(self, name))}
        # 0 is the default of mlx-lm's server, and off there.
        options["repetition_penalty"] = 1.0 if penalty == 0 else penalty
        # A form's empty field comes along as an empty text, at which nothing can stop.
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        options["stop"] = stop and [text for text in stop if text]
        if self.logit_bias is not None:
            for token in self.logit_bias:
                if not (token.isascii() and token.isdigit() and len(token) < 12):
                    found = shorten(token, 40)
                    raise invalid_request(f"logit_bias: expected token ids as keys, found {found!r}", "logit_bias")
            options["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        return options


class CompletionFields(SamplingFields):
    """What chat and plain completions have in common."""

    stream_options: StreamOptions | None = None
    n: Whole | None = Field(None, ge=1, le=128)
    response_format: ResponseFormat | None = None

    @property
    def answer_schema(self) -> dict[str, JsonValue] | None:
        """What the answer follows, {} for any object; None for free text.

        Raises:
            ApiError: There is no schema where there has to be one, or there are two.
        """
        return schema_of(self.response_format)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TemplateFields(WireObject):
    """What the chat template is told, as vLLM and others have it."""

    enable_thinking: bool | None = None
    thinking_budget: Whole | None = Field(None, ge=0)
    chat_template_kwargs: dict[str, JsonValue] | None = None

    def template(self) -> tuple[dict[str, JsonValue], bool | None]:
        """The variables, and whether to think, which may stand among them.

        Raises:
            ApiError: Two places say different things about it, or it is neither yes nor no.
        """
        variables, enable_thinking = dict(self.chat_template_kwargs or {}), self.enable_thinking
        if "enable_thinking" in variables:
            wanted = variables.pop("enable_thinking")
            if enable_thinking not in (None, wanted) or not isinstance(wanted, bool):
                raise invalid_request("chat_template_kwargs.enable_thinking: expected one bool")
            enable_thinking = wanted
        return variables, enable_thinking


def function_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool in OpenAI's form; its keys always come in this order, so that prompts of all protocols begin alike.

    Args:
        parameters: JSON schema of the arguments.
    """
    given = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {key: value for key, value in given.items() if value is not None}}


def new_id(prefix: str) -> str:
    """A random id, told by its prefix as the protocols' own are."""
    return f"{prefix}{uuid.uuid4().hex[:24]}"


def completion_head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """The fields with which both kinds of completions begin."""
    return {"id": new_id(prefix), "object": kind, "created": int(time.time()), "model": model}


def progress_comment(progress: ProgressEvent) -> str:
    """A comment, which clients skip and which keeps the connection alive while a prompt is read."""
    if progress.frames_seen < progress.frames:
        return f": {progress.frames_seen} of {progress.frames} frames\n\n"
    return f": {progress.processed} of {progress.total} prompt tokens\n\n"


def completion_usage(usages: list[Usage]) -> dict[str, Any]:
    """OpenAI's usage object of several answers to one prompt, which counts once."""
    completion = sum(usage.completion for usage in usages)
    return {
        "prompt_tokens": usages[0].prompt,
        "completion_tokens": completion,
        "total_tokens": usages[0].prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning for usage in usages)},
    }


def arguments_json(call: ToolCall) -> str:
    """A call's arguments as JSON text."""
    return json.dumps(call.arguments, ensure_ascii=False)


def token_logprob(found: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    """OpenAI's form of one token's log probability; its bytes may be a part of a character only."""
    return {
        "token": found.text,
        "logprob": max(found.logprob, IMPOSSIBLE),
        "bytes": list(tokenizer.token_bytes(found.token)),
    }


def delta_logprob(delta: DeltaEvent, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """OpenAI's form of the log probabilities of a delta's token and its rivals; None where none were asked for."""
    chunk = delta.chunk
    if chunk.logprob is None:
        return None
    own = token_logprob(TokenLogprob(chunk.token, tokenizer.decode([chunk.token]), chunk.logprob), tokenizer)
    return {**own, "top_logprobs": [token_logprob(found, tokenizer) for found in chunk.top_logprobs or ()]}


def openai_error(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    code = error.code or {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(error.status)
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": code}}
