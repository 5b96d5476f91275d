"""Tiny random Qwen3.5 checkpoints, in transformers' own layout, made without torch.

Every parameter is drawn at random and none is left at 0 or 1, so that a swapped, dropped or
unshifted tensor shows. The numbers come from numpy's PCG64 and do not change between versions:
the golden files were made from the same weights.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tools.box import vocabulary
from tools.box.vocabulary import SPECIAL, WORDS

CONTROL_TOKENS = SPECIAL + WORDS
FIRST_SPECIAL = 320
IDS = {token: FIRST_SPECIAL + index for index, token in enumerate(CONTROL_TOKENS)}
VOCAB_SIZE = 352  # six ids that the tokenizer does not know

CORPUS = (
    "the quick brown fox jumps over the lazy dog and then the other fox jumps over the other dog. "
    "hello there, what is in the picture? there is a red square and a blue circle in the image. "
    "user assistant system tool function parameter value name type string number 0 1 2 3 4 5 6 7 8 9 "
)


@dataclass(frozen=True)
class Shape:
    """What distinguishes one tiny checkpoint from another."""

    name: str
    seed: int
    head_dim: int = 64
    moe: bool = False
    tied: bool = False
    layer_types: tuple[str, ...] = ("linear_attention",) * 3 + ("full_attention",)
    mrope_section: tuple[int, int, int] = (3, 3, 2)
    key_heads: int = 2
    value_heads: int = 4
    kv_heads: int = 1
    text_only: bool = False
    rope: tuple[tuple[str, Any], ...] = (("rope_type", "default"),)


DENSE = Shape("dense", seed=1)
WIDE_HEADS = Shape(
    "wide-heads", seed=2, head_dim=256, mrope_section=(11, 11, 10), tied=True, kv_heads=2,
    layer_types=("linear_attention", "full_attention") * 2,
)  # fmt: skip
MOE = Shape("moe", seed=3, moe=True)
MOE_WIDE_HEADS = Shape("moe-wide-heads", seed=4, moe=True, head_dim=256, mrope_section=(11, 11, 10), value_heads=2)
YARN = replace(
    DENSE, name="yarn",
    rope=(("rope_type", "yarn"), ("factor", 4.0), ("original_max_position_embeddings", 32)),
)  # fmt: skip
SHAPES = {shape.name: shape for shape in (DENSE, WIDE_HEADS, MOE, MOE_WIDE_HEADS, YARN)}

# Multiples of 64, so that every matrix can be quantised.
HIDDEN, FFN, HEADS, LINEAR_DIM, CONV = 64, 128, 4, 32, 4
EXPERTS, TOP_K, EXPERT_FFN = 6, 2, 64
VISION_DEPTH, VISION_HIDDEN, VISION_HEADS, VISION_FFN, GRID_SIDE = 2, 32, 2, 48, 4


def config_of(shape: Shape) -> dict[str, Any]:
    """config.json as transformers writes it."""
    kind = "qwen3_5_moe" if shape.moe else "qwen3_5"
    text: dict[str, Any] = {
        "model_type": f"{kind}_text", "vocab_size": VOCAB_SIZE, "hidden_size": HIDDEN,
        "num_hidden_layers": len(shape.layer_types), "num_attention_heads": HEADS,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "hidden_act": "silu",
        "attention_bias": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
        "layer_types": list(shape.layer_types), "linear_conv_kernel_dim": CONV,
        "linear_key_head_dim": LINEAR_DIM, "linear_value_head_dim": LINEAR_DIM,
        "linear_num_key_heads": shape.key_heads, "linear_num_value_heads": shape.value_heads,
        "rope_parameters": {
            "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": list(shape.mrope_section),
            "mrope_interleaved": True, **dict(shape.rope),
        },
        "eos_token_id": IDS["<|endoftext|>"], "mtp_num_hidden_layers": 1, "dtype": "float32",
    }  # fmt: skip
    if shape.moe:
        text |= {
            "num_experts": EXPERTS, "num_experts_per_tok": TOP_K, "moe_intermediate_size": EXPERT_FFN,
            "shared_expert_intermediate_size": EXPERT_FFN,
        }  # fmt: skip
    else:
        text["intermediate_size"] = FFN
    if shape.text_only:
        return text | {"tie_word_embeddings": shape.tied, "architectures": ["Qwen3_5ForCausalLM"]}
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration" if shape.moe else "Qwen3_5ForConditionalGeneration"],
        "model_type": kind, "tie_word_embeddings": shape.tied, "dtype": "float32",
        "image_token_id": IDS["<|image_pad|>"], "video_token_id": IDS["<|video_pad|>"],
        "vision_start_token_id": IDS["<|vision_start|>"], "vision_end_token_id": IDS["<|vision_end|>"],
        "text_config": text,
        "vision_config": {
            "model_type": kind, "depth": VISION_DEPTH, "hidden_size": VISION_HIDDEN, "num_heads": VISION_HEADS,
            "intermediate_size": VISION_FFN, "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "patch_size": 16,
            "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": HIDDEN,
            "num_position_embeddings": GRID_SIDE**2, "deepstack_visual_indexes": [],
        },
    }  # fmt: skip


class _Draw:
    """Random tensors with names, in one fixed order."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.tensors: dict[str, np.ndarray] = {}

    def matrix(self, name: str, *shape: int, gain: float = 1.0) -> None:
        fan_in = int(np.prod(shape[1:])) if len(shape) != 3 or "conv1d" in name else shape[-1]
        self.tensors[name] = (self.rng.standard_normal(shape) * gain / np.sqrt(fan_in)).astype(np.float32)

    def vector(self, name: str, size: int, mean: float = 0.0, spread: float = 0.2) -> None:
        self.tensors[name] = (mean + spread * self.rng.standard_normal(size)).astype(np.float32)


def tensors_of(shape: Shape) -> dict[str, np.ndarray]:
    """All tensors under transformers' names, multi-token prediction included."""
    draw = _Draw(shape.seed)
    decoder = "model." if shape.text_only else "model.language_model."
    draw.matrix(f"{decoder}embed_tokens.weight", VOCAB_SIZE, HIDDEN, gain=4.0)
    for index, kind in enumerate(shape.layer_types):
        _layer(draw, f"{decoder}layers.{index}.", kind, shape)
    draw.vector(f"{decoder}norm.weight", HIDDEN)
    if not shape.tied:
        draw.matrix("lm_head.weight", VOCAB_SIZE, HIDDEN, gain=2.0)
    if shape.text_only:
        return draw.tensors
    _vision(draw)
    draw.matrix("mtp.fc.weight", HIDDEN, 2 * HIDDEN)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        draw.vector(f"mtp.{name}.weight", HIDDEN)
    _layer(draw, "mtp.layers.0.", "full_attention", shape)
    return draw.tensors


def _layer(draw: _Draw, prefix: str, kind: str, shape: Shape) -> None:
    draw.vector(f"{prefix}input_layernorm.weight", HIDDEN)
    draw.vector(f"{prefix}post_attention_layernorm.weight", HIDDEN)
    if kind == "full_attention":
        heads, kv = HEADS * shape.head_dim, shape.kv_heads * shape.head_dim
        draw.matrix(f"{prefix}self_attn.q_proj.weight", 2 * heads, HIDDEN)
        draw.matrix(f"{prefix}self_attn.k_proj.weight", kv, HIDDEN)
        draw.matrix(f"{prefix}self_attn.v_proj.weight", kv, HIDDEN)
        draw.matrix(f"{prefix}self_attn.o_proj.weight", HIDDEN, heads)
        draw.vector(f"{prefix}self_attn.q_norm.weight", shape.head_dim)
        draw.vector(f"{prefix}self_attn.k_norm.weight", shape.head_dim)
    else:
        keys, values = shape.key_heads * LINEAR_DIM, shape.value_heads * LINEAR_DIM
        attention = f"{prefix}linear_attn."
        draw.matrix(f"{attention}in_proj_qkv.weight", 2 * keys + values, HIDDEN)
        draw.matrix(f"{attention}in_proj_z.weight", values, HIDDEN)
        draw.matrix(f"{attention}in_proj_b.weight", shape.value_heads, HIDDEN)
        draw.matrix(f"{attention}in_proj_a.weight", shape.value_heads, HIDDEN)
        draw.matrix(f"{attention}conv1d.weight", 2 * keys + values, 1, CONV)
        draw.vector(f"{attention}A_log", shape.value_heads, mean=0.5, spread=0.7)
        draw.vector(f"{attention}dt_bias", shape.value_heads, mean=-1.0, spread=0.7)
        draw.vector(f"{attention}norm.weight", LINEAR_DIM, mean=1.1)
        draw.matrix(f"{attention}out_proj.weight", HIDDEN, values)
    if not shape.moe:
        draw.matrix(f"{prefix}mlp.gate_proj.weight", FFN, HIDDEN)
        draw.matrix(f"{prefix}mlp.up_proj.weight", FFN, HIDDEN)
        draw.matrix(f"{prefix}mlp.down_proj.weight", HIDDEN, FFN)
        return
    draw.matrix(f"{prefix}mlp.gate.weight", EXPERTS, HIDDEN, gain=2.0)
    draw.matrix(f"{prefix}mlp.experts.gate_up_proj", EXPERTS, 2 * EXPERT_FFN, HIDDEN)
    draw.matrix(f"{prefix}mlp.experts.down_proj", EXPERTS, HIDDEN, EXPERT_FFN)
    draw.matrix(f"{prefix}mlp.shared_expert_gate.weight", 1, HIDDEN)
    for name, out, into in (("gate", EXPERT_FFN, HIDDEN), ("up", EXPERT_FFN, HIDDEN), ("down", HIDDEN, EXPERT_FFN)):
        draw.matrix(f"{prefix}mlp.shared_expert.{name}_proj.weight", out, into)


def _vision(draw: _Draw) -> None:
    def linear(name: str, out: int, into: int) -> None:
        draw.matrix(f"model.visual.{name}.weight", out, into)
        draw.vector(f"model.visual.{name}.bias", out)

    def norm(name: str) -> None:
        draw.vector(f"model.visual.{name}.weight", VISION_HIDDEN, mean=1.1)
        draw.vector(f"model.visual.{name}.bias", VISION_HIDDEN)

    draw.matrix("model.visual.patch_embed.proj.weight", VISION_HIDDEN, 3, 2, 16, 16)
    draw.vector("model.visual.patch_embed.proj.bias", VISION_HIDDEN)
    draw.matrix("model.visual.pos_embed.weight", GRID_SIDE**2, VISION_HIDDEN, gain=3.0)
    for index in range(VISION_DEPTH):
        norm(f"blocks.{index}.norm1")
        norm(f"blocks.{index}.norm2")
        linear(f"blocks.{index}.attn.qkv", 3 * VISION_HIDDEN, VISION_HIDDEN)
        linear(f"blocks.{index}.attn.proj", VISION_HIDDEN, VISION_HIDDEN)
        linear(f"blocks.{index}.mlp.linear_fc1", VISION_FFN, VISION_HIDDEN)
        linear(f"blocks.{index}.mlp.linear_fc2", VISION_HIDDEN, VISION_FFN)
    norm("merger.norm")
    linear("merger.linear_fc1", 4 * VISION_HIDDEN, 4 * VISION_HIDDEN)
    linear("merger.linear_fc2", HIDDEN, 4 * VISION_HIDDEN)


def write_tokenizer(directory: Path) -> None:
    """A byte-level BPE with Qwen's control tokens and a chat template that behaves as Qwen's."""
    ids = vocabulary.write_tokenizer(directory, [CORPUS] * 4, FIRST_SPECIAL + len(CONTROL_TOKENS))
    assert ids == IDS


def write_processor(directory: Path) -> None:
    """The image processor's settings, with room for small images only."""
    settings = {
        "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "temporal_patch_size": 2,
        "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 256 * 256},
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))


def write_checkpoint(directory: Path, shape: Shape) -> Path:
    """A whole checkpoint directory, as transformers would save it."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config_of(shape), indent=1))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [IDS["<|im_end|>"]]}))
    save_file(tensors_of(shape), directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(directory)
    if not shape.text_only:
        write_processor(directory)
    return directory
