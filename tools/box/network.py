"""The network of the checkpoint in the box: transformers' own Qwen3.5 classes, small, plus its MTP module."""

from typing import Any

import torch
from torch import nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm

from tools.box.lean import for_training

HIDDEN = 160
LAYERS = 8


def make_config(vocab_size: int, ids: dict[str, int]) -> Qwen3_5Config:
    """Eight decoder layers, six of them GDN, and a vision tower of six blocks."""
    text = {
        "vocab_size": vocab_size, "hidden_size": HIDDEN, "intermediate_size": 256, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "full_attention_interval": 4,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32,
        "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.375,
            "mrope_section": [4, 4, 4], "mrope_interleaved": True,
        },
        "mtp_num_hidden_layers": 1, "attn_output_gate": True, "initializer_range": 0.02,
    }  # fmt: skip
    vision = {
        "depth": 6, "hidden_size": 128, "num_heads": 4, "intermediate_size": 384, "patch_size": 16,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "out_hidden_size": HIDDEN, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [],
    }  # fmt: skip
    return Qwen3_5Config(
        text_config=text, vision_config=vision, tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        pad_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"],
    )  # fmt: skip


class MultiTokenPrediction(nn.Module):
    """Predicts the token after the next one from the decoder's last hidden state and the next token.

    Names and order (embedding first, shared head) are those of the published `mtp.*` tensors.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        text = config.get_text_config()
        layer_config = type(text)(**{**text.to_dict(), "num_hidden_layers": 1, "layer_types": ["full_attention"]})
        layer_config._attn_implementation = "sdpa"
        self.fc = nn.Linear(2 * text.hidden_size, text.hidden_size, bias=False)
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(layer_config, 0)])
        self.norm = Qwen3_5RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self,
        next_embeds: torch.Tensor,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """(B, L, H) embeddings of token i + 1 and final hidden states of token i to hidden states, causally."""
        joined = torch.cat([self.pre_fc_norm_embedding(next_embeds), self.pre_fc_norm_hidden(hidden_states)], dim=-1)
        hidden_states = self.fc(joined)
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings=position_embeddings, attention_mask=None)
        return self.norm(hidden_states)


def make_model(config: Qwen3_5Config) -> Qwen3_5ForConditionalGeneration:
    """The reference implementation with fresh weights.

    The vision tower's position embeddings stay at small random values: places are for the decoder's
    own multimodal positions to tell.
    """
    for_training()
    model = Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.model.visual.pos_embed.weight.requires_grad_(False).mul_(0.05)
    return model
