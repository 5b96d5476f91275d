"""How much memory a request takes, estimated before anything is run."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen35.checkpoints.config import ModelConfig, TextConfig, VisionConfig
from mlx_qwen35.checkpoints.headers import activation_size, read_headers, weight_bytes
from mlx_qwen35.errors import InsufficientMemoryError


def attention_bytes_per_token(config: TextConfig, dtype_size: int = 2) -> int:
    """Bytes that one more token of context takes in the attention caches of one sequence."""
    layers = config.layer_types.count("full_attention")
    return layers * 2 * config.num_key_value_heads * config.head_dim * dtype_size


def gdn_state_bytes(config: TextConfig, dtype_size: int = 2) -> int:
    """Bytes of the GDN states of one sequence, which do not grow with its length.

    The recurrent state is float32; the short convolution keeps its last inputs in the model's dtype.
    """
    layers = config.layer_types.count("linear_attention")
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    recurrent = math.prod((config.linear_num_value_heads, config.linear_value_head_dim, config.linear_key_head_dim))
    convolution = (config.linear_conv_kernel_dim - 1) * (2 * keys + values)
    return layers * (4 * recurrent + dtype_size * convolution)


def prefill_bytes(config: TextConfig, step: int, tokens: int, dtype_size: int = 2) -> int:
    """Bytes that come and go while `step` tokens are read whose last is the `tokens`-th of its sequence.

    The largest layer counts, with everything that it may hold at once: scores of attention where no
    fused kernel serves the head dimension, the chunks of a GDN layer in float32, an MLP's branches.
    """
    moe = config.moe
    if moe is None:
        mlp = 3 * (config.intermediate_size or 0)
    else:
        mlp = moe.num_experts_per_tok * (3 * moe.moe_intermediate_size + config.hidden_size)
        mlp += 3 * moe.shared_expert_intermediate_size
    heads = config.num_attention_heads * config.head_dim
    scores = 2 * config.num_attention_heads * tokens * 4
    attention = (6 * heads + 4 * config.num_key_value_heads * config.head_dim) * dtype_size + scores
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    gdn = (4 * (2 * keys + values) + 2 * values) * dtype_size + 4 * (4 * keys + 6 * values)
    return step * (6 * config.hidden_size * dtype_size + max(mlp * dtype_size, attention, gdn))


# Queries of an image whose scores are on their way at once: the CPU takes them in parts, a fused kernel holds none.
_QUERIES = 2048


def encoding_bytes(config: VisionConfig, patches: int, dtype_size: int = 2) -> int:
    """Bytes that come and go while one image of so many patches is encoded."""
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    width = pixels + 8 * config.hidden_size + 2 * config.intermediate_size
    scores = 2 * config.num_heads * min(patches, _QUERIES) * patches * 4
    return patches * width * dtype_size + scores


# A prompt that can only be read in smaller steps than this is refused.
SMALLEST_STEP = 64


@dataclass(frozen=True)
class Plan:
    """How one request is to be run.

    Args:
        step_size: Tokens of the prompt that are read at once.
        tokens: Prompt and answer together, at most.
        room: Bytes left for what was read before.
    """

    step_size: int
    tokens: int
    room: int


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))


def default_limit() -> int:
    """Bytes that the system recommends for the GPU, or else the machine's memory."""
    import mlx.core as mx

    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"])
    return machine_memory()


@dataclass(frozen=True)
class MemoryGuard:
    """Whether requests fit into memory.

    Args:
        weights: Bytes of the loaded model.
        dtype_size: Bytes per element of activations.
        limit: Bytes that the process may use.
    """

    config: ModelConfig
    weights: int
    dtype_size: int
    limit: int

    @classmethod
    def of(cls, config: ModelConfig, files: Iterable[Path], limit: int) -> "MemoryGuard":
        """From a checkpoint's files, before they are loaded.

        Raises:
            CheckpointError: A file is damaged.
            InsufficientMemoryError: There is no room for the weights.
        """
        headers = list(read_headers(files))
        guard = cls(config, weight_bytes(headers), activation_size(headers), limit)
        if guard.needs(1, 1) > limit:
            raise InsufficientMemoryError(
                f"checkpoint: expected at most {_gigabytes(limit)} of memory, found weights of "
                f"{_gigabytes(guard.weights)}; take a smaller or a quantised one"
            )
        return guard

    def held(self, tokens: int) -> int:
        """Bytes of the caches of a sequence."""
        text = self.config.text
        return gdn_state_bytes(text, self.dtype_size) + tokens * attention_bytes_per_token(text, self.dtype_size)

    def needs(self, tokens: int, step: int, patches: int = 0, kept: int = 0) -> int:
        """Bytes for a sequence of `tokens`, read `step` at a time, with images of at most `patches` each.

        Args:
            kept: What is held of earlier requests.
        """
        text, vision = self.config.text, self.config.vision
        held = self.weights + kept + self.held(tokens)
        passing = prefill_bytes(text, min(step, tokens), tokens, self.dtype_size) + 3 * 4 * text.vocab_size
        if patches and vision is not None:
            passing = max(passing, encoding_bytes(vision, patches, self.dtype_size))
        return held + passing

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
                raise InsufficientMemoryError(
                    f"{place}: expected {hint} with {_gigabytes(self.limit)} of memory, found {tokens} tokens, which "
                    f"need {_gigabytes(self.needs(tokens, step, patches, kept))}"
                )
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
        most = max(self.needs(tokens, step, patches, kept), self.needs(whole, 1, kept=kept))
        return Plan(step, whole, max(0, self.limit - most))

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


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:.2f} GB"
