"""How much memory a request takes, estimated before anything is run."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.build import naming, read_tensors
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.formats import loaded_bytes
from mlx_qwen35.checkpoints.headers import activation_size, read_headers, weight_bytes
from mlx_qwen35.errors import InsufficientMemoryError, PromptMemoryError
from mlx_qwen35.patches import cpu
from mlx_qwen35.runtime.estimates import (
    attention_bytes_per_token,
    encoding_bytes,
    gdn_state_bytes,
    gigabytes,
    prefill_bytes,
    written_out_bytes,
)
from mlx_qwen35.runtime.prompt_scores import AT_ONCE
from mlx_qwen35.state.kv_quantization import KvQuantization

# mlx-lm's KVCache grows by 256 tokens, so up to so many are spare.
_SPARE_TOKENS = 255
# A prompt that can only be read in smaller steps than this is refused.
SMALLEST_STEP = 64


def all_tensors(files: Iterable[Path]) -> dict[str, Any]:
    """Their tensors; which of two of the same name is taken makes no difference here."""
    return {name: value for path in files for name, value in read_tensors([path]).items()}


@dataclass(frozen=True)
class Plan:
    """How one request is to be run.

    Args:
        step_size: Tokens of the prompt that are read at once.
        tokens: Prompt and answer together, at most.
    """

    step_size: int
    tokens: int


@dataclass(frozen=True)
class MemoryGuard:
    """Whether requests fit into memory.

    Args:
        weights: Bytes of the loaded model.
        dtype_size: Bytes per element of activations.
        limit: Bytes that the process may use.
        draft_tokens: Tokens that are drafted at once, at most.
        of_module: Layers of the MTP module, whose weights are part of `weights`.
        kv: How keys and values are quantised; None for not at all.
    """

    config: ModelConfig
    weights: int
    dtype_size: int
    limit: int
    draft_tokens: int = 0
    of_module: int = 0
    kv: KvQuantization | None = None

    @classmethod
    def of(
        cls, config: ModelConfig, files: Iterable[Path], limit: int, kv: KvQuantization | None = None
    ) -> "MemoryGuard":
        """From a checkpoint's files, before they are loaded; only on the thread that owns MLX.

        Raises:
            CheckpointError: A file is damaged.
            InsufficientMemoryError: There is no room for the weights.
        """
        files = list(files)
        headers = list(read_headers(files))
        with naming(files[0].parent):
            weights = loaded_bytes(headers, config.raw, lambda: all_tensors(files))
        guard = cls(config, weights, activation_size(headers), limit, kv=kv)
        if guard.needs(1, 1) > limit:
            # By more than scales and zeros are written out.
            grown = weights > 1.3 * weight_bytes(headers)
            hint = "convert the checkpoint with --bits 8 or 4 first" if grown else "take a smaller or a quantised one"
            raise InsufficientMemoryError(
                f"checkpoint: expected at most {gigabytes(limit)} of memory, found weights of "
                f"{gigabytes(guard.weights)}{', restored from fewer bits' if grown else ''}; {hint}"
            )
        return guard

    def with_drafts(self, draft_tokens: int, module: int, layers: int) -> "MemoryGuard":
        """The same where tokens are drafted.

        Args:
            draft_tokens: At most so many at once.
            module: Bytes of the MTP module.
            layers: Of the module.
        Raises:
            InsufficientMemoryError: There is no room for the module.
        """
        guard = replace(self, weights=self.weights + module, draft_tokens=draft_tokens, of_module=layers)
        if guard.needs(1, 1) > self.limit:
            raise InsufficientMemoryError(
                f"speculate: expected at most {gigabytes(self.limit)} of memory, found weights of "
                f"{gigabytes(guard.weights)} with the MTP module; leave it out with speculate off"
            )
        return guard

    @property
    def states(self) -> int:
        """Bytes of one sequence's GDN states; rows that read together have them once more before, and after."""
        return gdn_state_bytes(self.config.text, self.dtype_size)

    def held(self, tokens: int) -> int:
        """Bytes of a sequence's caches; GDN states of before are kept while drafts are verified, on the CPU all."""
        text = self.config.text
        spare = tokens + _SPARE_TOKENS + self.draft_tokens
        buffers = spare * attention_bytes_per_token(text, self.dtype_size, self.of_module, self.kv)
        states = 1
        if self.draft_tokens:
            states += 1 + self.draft_tokens if cpu.on_cpu() else 1
        return states * self.states + buffers

    def needs(self, tokens: int, step: int, patches: int = 0, kept: int = 0) -> int:
        """Bytes for a sequence of `tokens`, read `step` at a time, with images of at most `patches` each.

        Args:
            kept: What is held of earlier requests.
        """
        return self.weights + kept + self.held(tokens) + self.passing(tokens, step, patches)

    def passing(self, tokens: int, step: int, patches: int = 0, rows: int = 1) -> int:
        """Bytes that come and go during one step; see `needs`.

        Args:
            rows: Sequences that get a token in the same forward pass.
        """
        text = self.config.text
        passing = prefill_bytes(text, min(step, tokens), tokens, self.dtype_size)
        passing += rows * (1 + self.draft_tokens) * 3 * 4 * text.vocab_size
        if self.kv is not None:
            # A chunk of a prompt attends to the keys and values of a layer as they are written out for it.
            size = 4 if cpu.on_cpu() else self.dtype_size
            elements = 2 * text.num_key_value_heads * text.head_dim
            passing += tokens * (elements + 2 * elements // self.kv.group_size) * size
        if cpu.on_cpu() and any(self.config.raw.get(name) for name in ("quantization", "quantization_config")):
            passing += written_out_bytes(text)
        if self.of_module and cpu.on_cpu():
            # The decoder's last layer is computed for every token, and there its scores are held block by block,
            # three times each: as they are, shifted, and as weights.
            passing += min(step, tokens, 2 * cpu.QUERIES) * 3 * text.num_attention_heads * tokens * 4
        if self.draft_tokens and rows > 1:
            # Rows that keep different numbers of tokens are moved, by a copy of a layer's keys and one of its values,
            # with an index of 4 bytes for each element.
            layer = 2 * text.num_key_value_heads * text.head_dim * (self.dtype_size + 4)
            passing += rows * (tokens + _SPARE_TOKENS) * layer
        return max(passing, self.encoding(patches))

    @property
    def scoring(self) -> int:
        """Bytes that come and go while the tokens of a prompt are scored, some of them at a time."""
        return AT_ONCE * 3 * 4 * self.config.text.vocab_size

    def encoding(self, patches: int) -> int:
        """Bytes that come and go while an image of so many patches is encoded; 0 for none."""
        vision = self.config.vision
        return encoding_bytes(vision, patches, self.dtype_size) if patches and vision is not None else 0

    def embeddings(self, patches: int) -> int:
        """Bytes of the embeddings of an image of so many patches."""
        vision = self.config.vision
        if vision is None:
            return 0
        return patches // vision.spatial_merge_size**2 * self.config.text.hidden_size * self.dtype_size

    def step_size(self, wanted: int, tokens: int, patches: int = 0, kept: int = 0, *, place: str = "prompt") -> int:
        """The largest step, at most the wanted one, with which a sequence fits.

        Args:
            place: What an error is about.
        Raises:
            InsufficientMemoryError: It does not fit, or only in steps too small to be of use.
        """
        step = wanted
        while self.needs(tokens, step, patches, kept) > self.limit:
            if step <= SMALLEST_STEP:
                fits = self.longest(patches, kept)
                hint = f"at most {fits} tokens" if fits else "a smaller checkpoint or image"
                message = (
                    f"{place}: expected {hint} with {gigabytes(self.limit)} of memory, found {tokens} tokens, which "
                    f"need {gigabytes(self.needs(tokens, step, patches, kept))}"
                )
                if fits and place == "prompt":
                    raise PromptMemoryError(message, tokens, fits)
                raise InsufficientMemoryError(message)
            step = max(step // 2, SMALLEST_STEP)
        return step

    def plan(self, tokens: int, new_tokens: int, step_size: int, patches: int = 0, kept: int = 0) -> Plan:
        """How a prompt and its answer fit: in smaller steps first, then with a shorter answer.

        Raises:
            InsufficientMemoryError: Not even the prompt fits.
        """
        shortest = tokens + min(new_tokens, 1)
        step = self.step_size(step_size, shortest, patches, kept)
        whole = min(tokens + new_tokens, max(shortest, self.longest(patches, kept, step=1)))
        return Plan(step, whole)

    def longest(self, patches: int = 0, kept: int = 0, step: int = SMALLEST_STEP) -> int:
        """The longest sequence that fits, in tokens, read or written `step` at a time; 0 if none does."""
        low, high = 0, self.config.text.context_length
        while low < high:
            middle = (low + high + 1) // 2
            if self.needs(middle, step, patches, kept) <= self.limit:
                low = middle
            else:
                high = middle - 1
        return low
