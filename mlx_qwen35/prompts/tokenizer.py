"""The checkpoint's tokenizer, with a strict line between control tokens and text.

A token such as `<|im_end|>` or `<think>` is a control token only where the chat template
(or a caller who passes a finished prompt) wrote it. The same characters inside a user's
text are spelled out as ordinary text.
"""

import json
import re
import warnings
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mlx_qwen35.errors import CheckpointError, CheckpointWarning, ContextLengthError, PromptError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.templates import ChatTemplate
from mlx_qwen35.prompts.tokenizer_files import find_chat_template, incomplete, load_tokenizer

# Marks of cuneiform, which no chat template writes. They bracket the number of a string that `Escapes` took out of a
# user's text. Python has them as they are, and not as escapes, in the text of a list, which some templates write.
OPEN, CLOSE = "\U00012470", "\U00012471"
_ESCAPED = re.compile(f"{OPEN}([0-9]{{1,9}}){CLOSE}")
# JSON of requests nested deeper than that: Python's own recursion ends at a few hundred.
_MAX_LEVELS = 100
# A text of more characters for each token of the context is looked into before all of it is tokenised.
_SUSPICIOUS = 16


class Escapes:
    """Takes control-token strings out of user text, and puts them back after templating.

    Args:
        pattern: Matches every string that must not be read as a control token, and the beginning of
            one at the end of a text: templates join texts, and two harmless parts may make a token.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._originals: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._originals)

    def hide(self, value: Any, place: str = "messages") -> Any:
        """A copy of a JSON-like value with every control string in it replaced.

        Raises:
            PromptError: It is nested too deeply.
        """
        return self._hide(value, place, _MAX_LEVELS)

    def _hide(self, value: Any, place: str, levels: int) -> Any:
        if isinstance(value, str):
            return self._pattern.sub(self._replace, value)
        if isinstance(value, (dict, list, tuple)) and not levels:
            raise PromptError(f"{place}: expected at most {_MAX_LEVELS} levels of values inside each other, found more")
        if isinstance(value, dict):
            return {
                self._hide(key, place, levels - 1): self._hide(item, place, levels - 1) for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._hide(item, place, levels - 1) for item in value]
        return value

    def restore(self, text: str) -> str:
        """The text as the user wrote it; numbers of the template's own making stay."""
        return _ESCAPED.sub(self._original, text)

    def _original(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return self._originals[number] if number < len(self._originals) else match[0]

    def _replace(self, match: re.Match[str]) -> str:
        self._originals.append(match[0])
        return f"{OPEN}{len(self._originals) - 1}{CLOSE}"


class Tokenizer:
    """Text to token ids and back.

    Args:
        directory: The checkpoint.
        eos_token_ids: Ids that end an answer according to the checkpoint's configs; the
            tokenizer's own is added.
        vocab_size: Rows of the model's embedding; added tokens beyond are plain text.
        chat_template: A Jinja template in place of the checkpoint's own.
    Raises:
        CheckpointError: The directory holds no fast tokenizer, or none whose tokens are bytes.
    """

    def __init__(
        self,
        directory: Path,
        eos_token_ids: Iterable[int] = (),
        vocab_size: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        # Slow to import.
        from tokenizers.decoders import ByteLevel

        loaded = load_tokenizer(directory)
        self._backend: Any = loaded.backend
        self._special_tokens = loaded.special_tokens
        if not isinstance(self._backend.decoder, ByteLevel):
            found = type(self._backend.decoder).__name__
            raise CheckpointError(f"{directory}: expected a byte-level tokenizer as Qwen's, found a decoder {found}")
        known = sum(self._backend.token_to_id(character) is not None for character in _byte_alphabet())
        if known < 256:
            raise incomplete(directory, known)
        if vocab_size is not None:
            self._drop_tokens_from(vocab_size, directory)
        added = self._backend.get_added_tokens_decoder()
        self._control: dict[str, int] = {token.content: token_id for token_id, token in added.items()}
        self._eats_left = {token.content for token in added.values() if token.lstrip}
        self._eats_right = {token.content for token in added.values() if token.rstrip}
        ids = set(eos_token_ids)
        # Published configs name either; whichever comes first ends the answer.
        ids.update(self._control[name] for name in ("<|im_end|>", "<|endoftext|>") if name in self._control)
        if loaded.eos_token_id is not None:
            ids.add(loaded.eos_token_id)
        self.eos_token_ids: frozenset[int] = frozenset(ids)
        # Jinja; None if the checkpoint has none.
        self.chat_template = find_chat_template(directory, loaded) if chat_template is None else chat_template

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """What the chat template reads; nothing where it is no template, which whoever renders it is told."""
        try:
            return self.template.variables
        except Exception:
            return frozenset()

    @property
    def settable_variables(self) -> frozenset[str]:
        """Those of them that are nobody's argument: `enable_thinking` and the conversation itself are."""
        return self.template_variables - {"messages", "tools", "documents", "add_generation_prompt", "enable_thinking"}

    def _drop_tokens_from(self, vocab_size: int, directory: Path) -> None:
        """Read added tokens without a row in the model as text: whoever added them did not resize it."""
        from tokenizers import Tokenizer as Backend

        settings = json.loads(self._backend.to_str())
        kept = [token for token in settings["added_tokens"] if token["id"] < vocab_size]
        dropped = len(settings["added_tokens"]) - len(kept)
        if dropped:
            first = next(token["content"] for token in settings["added_tokens"] if token["id"] >= vocab_size)
            warnings.warn(
                f"{directory}: tokenizer.json: expected tokens below {vocab_size} (vocab_size), found {dropped} added "
                f"beyond, the first {shorten(first)!r}; they are read as plain text",
                CheckpointWarning,
                stacklevel=4,
            )
            self._backend = Backend.from_str(json.dumps(settings | {"added_tokens": kept}))

    def control_id(self, token: str) -> int | None:
        """The id of a control token by its text, None if the checkpoint has no such token."""
        return self._control.get(token)

    def escapes(self) -> Escapes:
        """A fresh escape table for one prompt."""
        return Escapes(self._user_pattern)

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        """Render the checkpoint's template to text; errors of the template pass through."""
        return self.template.render(messages, **options)

    @cached_property
    def template(self) -> ChatTemplate:
        """The checkpoint's template, compiled.

        Raises:
            jinja2.TemplateError: It is none.
        """
        return ChatTemplate(self.chat_template or "", self._special_tokens)

    def encode(self, text: str) -> list[int]:
        """Token ids of a finished prompt: control tokens in it count as such.

        Raises:
            PromptError: The text is not valid Unicode.
        """
        return _encode(self._backend, text)

    def check_length(self, text: str, tokens: int) -> None:
        """Refuse a text that is certainly too long, without tokenising the whole of it.

        Raises:
            ContextLengthError: Its beginning alone has clearly more than so many tokens.
        """
        if len(text) <= _SUSPICIOUS * tokens:
            return
        found = len(_encode(self._backend, text[: _SUSPICIOUS * tokens]))
        # Cut inside a word, the beginning may have a few tokens that the text has not.
        if found > 1.25 * tokens:
            raise ContextLengthError(
                f"prompt: expected at most {tokens} tokens (the model's context), found over {found} "
                f"({len(text)} characters)",
                found,
                tokens,
            )

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text: nothing in it is a control token.

        Raises:
            PromptError: The text is not valid Unicode.
        """
        if self._control_pattern.search(text):
            return _encode(self._plain, text)
        return self.encode(text)

    def encode_rendered(self, text: str, escapes: Escapes) -> list[int]:
        """Token ids of a rendered template whose user text went through `escapes`."""
        if not escapes:
            return self.encode(text)
        ids: list[int] = []
        cursor = 0
        for match in self._control_pattern.finditer(text):
            piece = text[cursor : match.start()]
            ids += self.encode_text(escapes.restore(piece.rstrip() if match[0] in self._eats_left else piece))
            ids.append(self._control[match[0]])
            cursor = match.end()
            while match[0] in self._eats_right and cursor < len(text) and text[cursor].isspace():
                cursor += 1
        return ids + self.encode_text(escapes.restore(text[cursor:]))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included; ids beyond the tokenizer give nothing."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; an id beyond the tokenizer gives none."""
        text = self._backend.id_to_token(token)
        if text is None:
            return b""
        try:
            return bytes(map(_byte_alphabet().__getitem__, text))
        except KeyError:
            return str(text).encode()  # a control token with a space or the like in it

    def detokenizer(self) -> "Detokenizer":
        """A decoder for one stream of tokens."""
        return Detokenizer(self)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        # Longest first: one control token may begin with another.
        names = sorted(self._control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @cached_property
    def _user_pattern(self) -> re.Pattern[str]:
        # Longest first, as above; every alternative begins with a letter of its own, for which Python's engine scans
        # a long text many times faster than it tries alternatives.
        names = sorted(filter(None, self._control), key=len, reverse=True)
        rests: dict[str, list[str]] = {OPEN: [""], CLOSE: [""]}
        for name in names:
            rests.setdefault(name[0], []).append(re.escape(name[1:]))
        beginnings = {name[:length] for name in names for length in range(1, len(name))}
        for beginning in sorted(beginnings, key=len, reverse=True):
            rests[beginning[0]].append(re.escape(beginning[1:]) + r"\Z")
        return re.compile("|".join(f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in rests.items()))

    @cached_property
    def _plain(self) -> Any:
        """The same tokenizer without control tokens; built when a text first needs it."""
        from tokenizers import Tokenizer as Backend

        settings = json.loads(self._backend.to_str())
        settings["added_tokens"] = []
        return Backend.from_str(json.dumps(settings))


def _encode(backend: Any, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"text: expected valid Unicode, found {text[error.start]!r} at character {error.start}"
        ) from error
    # As a batch of one: `encode` holds Python's lock, and a long text would hold up every other thread.
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=False)
    return list(encoding.ids)


class Detokenizer:
    """Turns a stream of token ids to text, never splitting a character.

    All pieces together are what `Tokenizer.decode` makes of all ids. Tokens are bytes, and only their whole
    stream says which of them make a character and which make none, U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = getincrementaldecoder("utf-8")(errors="replace")

    @property
    def pending(self) -> bool:
        """Whether bytes wait for the rest of their character."""
        return bool(self._utf8.getstate()[0])

    def add(self, token: int) -> str:
        """The text that this token completes, possibly empty.

        An id beyond the tokenizer (the model's vocabulary is padded) gives nothing.
        """
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is left at the end; bytes that are no character become U+FFFD."""
        return self._utf8.decode(b"", final=True)


@cache
def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Source: GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, further characters for the other bytes.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    own = [character for character in alphabet if ord(character) < 256]
    others = (byte for byte in range(256) if chr(byte) not in own)
    return dict(zip([*own, *alphabet[len(own) :]], [*map(ord, own), *others], strict=True))
