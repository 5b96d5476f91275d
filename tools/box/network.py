"""The network of the checkpoint in the box: transformers' own Qwen3.5 classes, small, plus its MTP module."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5RMSNorm

from tools.box.forward import attention_output, attention_qkv

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
        depths: int = 1,
    ) -> list[torch.Tensor]:
        """What every draft of a chain is read from, each (B, L, H), the first one's first.

        Where the first draft goes by the decoder's hidden state of token i and by token i + 1, the next one goes by
        what the first was read from and by token i + 2, and so on, as when a runtime drafts. A further draft sees of
        the decoder's tokens what the chain began with, and its own forerunners.

        Args:
            next_embeds: Embeddings of tokens i + 1, (B, L, H).
            hidden_states: The decoder's final ones of tokens i, the same shape.
            depths: How many drafts; in the d-th the first d - 1 tokens have nothing that would be asked for.
        """
        embedded, length = self.pre_fc_norm_embedding(next_embeds), next_embeds.shape[1]
        at, slot = (torch.arange(length, device=next_embeds.device).view(shape) for shape in ((-1, 1), (1, -1)))
        (layer,), keys, values, found = self.layers, [], [], []
        for depth in range(depths):
            # A slot holds token i's key and value. The chain that has come to slot s began in slot s - depth.
            masks = [slot <= at - depth, *(slot == at - depth + other for other in range(1, depth + 1))]
            mask = torch.cat(masks, 1)
            # Slots in front of the first chain see something, so that no row of scores is empty.
            mask[:depth, 0] = True
            joined = self.fc(torch.cat([embedded, self.pre_fc_norm_hidden(hidden_states)], dim=-1))
            query, *further, gate = attention_qkv(layer, joined, *position_embeddings)
            keys.append(further[0])
            values.append(further[1])
            attended = functional.scaled_dot_product_attention(
                query, torch.cat(keys, 2), torch.cat(values, 2), attn_mask=mask[None, None]
            )
            found.append(self.norm(attention_output(layer, joined, attended.transpose(1, 2), gate)))
            hidden_states = found[-1].roll(1, 1)
        return found


def make_model(config: Qwen3_5Config) -> Qwen3_5ForConditionalGeneration:
    """The reference implementation with fresh weights.

    The vision tower's position embeddings stay at small random values: places are for the decoder's
    own multimodal positions to tell.
    """
    model = Qwen3_5ForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.model.visual.pos_embed.weight.requires_grad_(False).mul_(0.05)
    return model
