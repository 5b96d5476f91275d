"""How many bytes things take, worked out from a checkpoint's sizes before anything is run."""

import math
import os

from mlx_qwen35.checkpoints.config import TextConfig, VisionConfig
from mlx_qwen35.state.kv_quantization import KvQuantization


def attention_bytes_per_token(
    config: TextConfig, dtype_size: int = 2, of_module: int = 0, kv: KvQuantization | None = None
) -> int:
    """Bytes that one more token of context takes in the attention caches of one sequence.

    Args:
        of_module: Layers of the MTP module, which have such caches too.
        kv: How keys and values are quantised; None for not at all.
    """
    layers = config.layer_types.count("full_attention") + of_module
    elements = 2 * config.num_key_value_heads * config.head_dim
    return layers * (elements * dtype_size if kv is None else kv.nbytes(elements, dtype_size))


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


def written_out_bytes(config: TextConfig) -> int:
    """Bytes of the quantised matrices of a layer in float32, once for each half of a prompt's chunk."""
    intermediate = config.intermediate_size or (config.moe.shared_expert_intermediate_size if config.moe else 0)
    heads, kv_heads = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    rows = max(2 * keys + 3 * values, 3 * heads + 2 * kv_heads) + 3 * intermediate
    return 2 * 4 * config.hidden_size * rows


# Queries of an image whose scores are on their way at once: the CPU takes them in parts, a fused kernel holds none.
_QUERIES = 2048


def encoding_bytes(config: VisionConfig, patches: int, dtype_size: int = 2) -> int:
    """Bytes that come and go while one image of so many patches is encoded."""
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    # The patch embedding takes its pixels apart: they are there three times until it is done.
    width = max(3 * pixels + config.hidden_size, pixels + 8 * config.hidden_size + 2 * config.intermediate_size)
    scores = 2 * config.num_heads * min(patches, _QUERIES) * patches * 4
    return patches * width * dtype_size + scores


def machine_memory() -> int:
    """Bytes of memory that the machine has."""
    return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE"))


def default_limit() -> int:
    """Bytes that the system recommends for the GPU, or else the machine's memory."""
    import mlx.core as mx

    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"])
    return machine_memory()


def gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 10**9:.2f} GB"
