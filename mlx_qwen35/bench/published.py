"""The eight published sizes of Qwen3.5, as their configs describe them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """What differs between the sizes; `experts` is (number, per token, intermediate size)."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int | None
    value_heads: int
    tied: bool
    vision: tuple[int, int, int, int]
    text_parameters: int
    state_mib: int
    experts: tuple[int, int, int] | None = None


SMALL, MIDDLE, LARGE = (12, 768, 12, 3072), (24, 1024, 16, 4096), (27, 1152, 16, 4304)
PUBLISHED = (
    Published("0.8B", 1024, 24, 8, 2, 3584, 16, True, SMALL, 752_393_024, 18),
    Published("2B", 2048, 24, 8, 2, 6144, 16, True, MIDDLE, 1_881_825_088, 18),
    Published("4B", 2560, 32, 16, 4, 9216, 32, True, MIDDLE, 4_205_751_296, 48),
    Published("9B", 4096, 32, 16, 4, 12288, 32, False, LARGE, 8_953_803_264, 48),
    Published("27B", 5120, 64, 24, 4, 17408, 48, False, LARGE, 26_895_998_464, 144),
    Published("35B-A3B", 2048, 40, 16, 2, None, 32, False, LARGE, 34_660_610_688, 60, (256, 8, 512)),
    Published("122B-A10B", 3072, 48, 32, 2, None, 64, False, LARGE, 122_111_526_912, 144, (256, 8, 1024)),
    Published("397B-A17B", 4096, 60, 32, 2, None, 64, False, LARGE, 396_346_350_336, 180, (512, 10, 1024)),
)
# From their preprocessor_config.json: least and most pixels of an image after resizing.
PUBLISHED_PIXELS = {"shortest_edge": 65536, "longest_edge": 16777216}


def published_config(size: Published) -> dict[str, Any]:
    """config.json of a published checkpoint."""
    kind = "qwen3_5_moe" if size.experts else "qwen3_5"
    depth, hidden, heads, ffn = size.vision
    text: dict[str, Any] = {
        "model_type": f"{kind}_text", "vocab_size": 248320, "hidden_size": size.hidden,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "head_dim": 256, "attention_bias": False, "attn_output_gate": True, "hidden_act": "silu",
        "full_attention_interval": 4, "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
        "linear_num_key_heads": 16, "linear_num_value_heads": size.value_heads, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "mtp_num_hidden_layers": 1,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10], "mrope_interleaved": True,
        },
    }  # fmt: skip
    if size.experts:
        number, per_token, intermediate = size.experts
        text |= {
            "num_experts": number, "num_experts_per_tok": per_token, "moe_intermediate_size": intermediate,
            "shared_expert_intermediate_size": intermediate,
        }  # fmt: skip
    else:
        text["intermediate_size"] = size.ffn
    return {
        "model_type": kind, "tie_word_embeddings": size.tied, "image_token_id": 248056, "video_token_id": 248057,
        "vision_start_token_id": 248053, "vision_end_token_id": 248054, "text_config": text,
        "vision_config": {
            "model_type": kind, "depth": depth, "hidden_size": hidden, "num_heads": heads, "intermediate_size": ffn,
            "hidden_act": "gelu_pytorch_tanh", "in_channels": 3, "patch_size": 16, "temporal_patch_size": 2,
            "spatial_merge_size": 2, "out_hidden_size": size.hidden, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [],
        },
    }  # fmt: skip
