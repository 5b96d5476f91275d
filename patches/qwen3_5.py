"""mlx-lm's models/qwen3_5.py with media, and with the checkpoints that it does not read.

Every class here is a subclass that changes as little as it can. A chunk without an image
runs mlx-lm's own code; where that is slow, faster code of this package takes its place unless the model is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5 as upstream
from mlx_lm.models.base import gather_last_axis
from mlx_lm.models.cache import ArraysCache
from mlx_lm.models.pipeline import PipelineMixin

from mlx_qwen35.checkpoints.adapters import load_adapter
from mlx_qwen35.checkpoints.build import load_weights
from mlx_qwen35.checkpoints.config import LayerType, ModelConfig
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.formats import to_mlx
from mlx_qwen35.checkpoints.layouts import check_tensors, half_offsets, to_canonical
from mlx_qwen35.checkpoints.rope import RopeConfig, YarnConfig
from mlx_qwen35.checkpoints.untying import untie
from mlx_qwen35.errors import AdapterError
from mlx_qwen35.patches.attention import PatchedAttention
from mlx_qwen35.patches.compiled_step import CompiledStep
from mlx_qwen35.patches.dequantised import dequantise_prompts
from mlx_qwen35.patches.gated_delta_net import GatedDelta, PatchedGatedDeltaNet, choose_gated_delta
from mlx_qwen35.patches.mrope import multimodal_angles
from mlx_qwen35.patches.operations import UPSTREAM, Operations, choose_operations
from mlx_qwen35.patches.vision_tower import DeferredTower, build_vision_tower
from mlx_qwen35.paths import expand
from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache, media_ahead
from mlx_qwen35.state.joint import JointAttentionCache


@dataclass
class TextModelArgs(upstream.TextModelArgs):  # type: ignore[misc]
    """mlx-lm's arguments plus what it does not read from a checkpoint."""

    layer_types: tuple[LayerType, ...] = ()
    mrope_section: tuple[int, int, int] = (0, 0, 0)
    yarn: YarnConfig | None = None
    rotary_dims: int = 0
    exact: bool = False
    gated_delta: GatedDelta = "native"
    operations: Operations = UPSTREAM

    @classmethod
    def from_config(cls, config: ModelConfig, *, exact: bool, gated_delta: GatedDelta) -> "TextModelArgs":
        """Every field of mlx-lm's is given, so none of its defaults can leak in."""
        text = config.text
        moe = text.moe
        return cls(
            model_type=config.model_type,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size or 0,
            num_hidden_layers=len(text.layer_types),
            num_attention_heads=text.num_attention_heads,
            rms_norm_eps=text.rms_norm_eps,
            vocab_size=text.vocab_size,
            num_key_value_heads=text.num_key_value_heads,
            max_position_embeddings=text.max_position_embeddings,
            linear_num_value_heads=text.linear_num_value_heads,
            linear_num_key_heads=text.linear_num_key_heads,
            linear_key_head_dim=text.linear_key_head_dim,
            linear_value_head_dim=text.linear_value_head_dim,
            linear_conv_kernel_dim=text.linear_conv_kernel_dim,
            tie_word_embeddings=config.tie_word_embeddings,
            attention_bias=text.attention_bias,
            head_dim=text.head_dim,
            full_attention_interval=_INTERVAL,
            num_experts=moe.num_experts if moe else 0,
            num_experts_per_tok=moe.num_experts_per_tok if moe else 0,
            decoder_sparse_step=1,
            shared_expert_intermediate_size=moe.shared_expert_intermediate_size if moe else 0,
            moe_intermediate_size=moe.moe_intermediate_size if moe else 0,
            norm_topk_prob=True,
            rope_parameters=_rope_parameters(text.rope),
            layer_types=text.layer_types,
            mrope_section=text.rope.mrope_section,
            rotary_dims=text.rope.rotary_dims,
            yarn=text.rope.yarn,
            exact=exact,
            gated_delta=gated_delta,
            operations=choose_operations(exact=exact),
        )


def _rope_parameters(rope: RopeConfig) -> dict[str, Any]:
    """What mlx-lm's own RoPE factory reads, in its names; see `patches.yarn` for what it has no name for."""
    parameters: dict[str, Any] = {
        "type": "default", "rope_theta": rope.theta, "partial_rotary_factor": rope.partial_rotary_factor,
    }  # fmt: skip
    if rope.yarn is not None:
        names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
        parameters |= {"type": "yarn", **{name: getattr(rope.yarn, name) for name in names}}
    return parameters


# mlx-lm derives a layer's kind from its index alone. `layer_types` decides here, so each
# layer is built under an index that stands for its kind.
_INTERVAL = 2
_INDEX_OF_KIND: dict[LayerType, int] = {"linear_attention": 0, "full_attention": _INTERVAL - 1}


class PatchedMLP(upstream.MLP):  # type: ignore[misc]
    """mlx-lm's feed-forward layer with the device's own activation."""

    def __init__(self, args: TextModelArgs) -> None:
        super().__init__(args.hidden_size, args.intermediate_size)
        self._operations = args.operations

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, hidden_size) to the same."""
        if self.training:
            return super().__call__(x)  # type: ignore[no-any-return]
        return self.down_proj(self._operations.swiglu(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-any-return]


class PatchedDecoderLayer(upstream.DecoderLayer):  # type: ignore[misc]
    """mlx-lm's decoder layer, which applies multimodal RoPE to a chunk with an image.

    A GDN layer's decode step has the same shapes for every token, so it is one compiled function, unless the model is
    exact. Of an attention layer the same is true of what comes before its cache, and of what comes after. The few
    tokens of a step that verifies drafts are read by the same arithmetic, as their caches ask for.
    """

    def __init__(self, args: TextModelArgs, layer_type: LayerType) -> None:
        super().__init__(args, layer_idx=_INDEX_OF_KIND[layer_type])
        self._rotary_dims, self._mrope_section = args.rotary_dims, args.mrope_section
        self._steps: tuple[CompiledStep, ...] = ()
        if self.is_linear:
            self.linear_attn = PatchedGatedDeltaNet(args)
        else:
            self.self_attn = PatchedAttention(args)
        if not args.operations.upstream and not args.num_experts:
            self.mlp = PatchedMLP(args)
        if not args.exact:
            steps = (self._decode, self._verify) if self.is_linear else (self._before, self._after)
            # The weights are inputs, so that an adapter or another precision is seen.
            self._steps = tuple(CompiledStep(step, inputs=self) for step in steps)

    def _decode(self, x: mx.array, *states: mx.array) -> tuple[mx.array, ...]:
        if not self.linear_attn.operations.upstream:
            out, state, conv_input, *_ = self._verify(x, *states)
            return out, mx.contiguous(conv_input[:, 1:]), state
        cache = ArraysCache(size=len(states))
        cache.cache = list(states)
        return (super().__call__(x, None, cache), *cache.cache)

    def _verify(self, x: mx.array, *states: mx.array) -> tuple[mx.array, ...]:
        # Rows of one matrix, so that no product has to make them that.
        flat = x.reshape(-1, x.shape[-1])
        out, *read = self.linear_attn.verify(self.input_layernorm(flat), *states)
        h = flat + out
        return ((h + self.mlp(self.post_attention_layernorm(h))).reshape(x.shape), *read)

    def _before(self, x: mx.array, offset: mx.array) -> tuple[mx.array, ...]:
        attention: PatchedAttention = self.self_attn
        return attention.project(self.input_layernorm(x), lambda y: attention.rope(y, offset=offset))

    def _after(self, x: mx.array, out: mx.array, gate: mx.array) -> mx.array:
        h = x + self.self_attn.finish(out, gate)
        return h + self.mlp(self.post_attention_layernorm(h))

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        """(B, L, hidden_size) to the same; `mask` and `cache` as in mlx-lm."""
        if self.is_linear:
            if mask is not None or not self._in_decode(x, cache) or cache[0] is None or cache.lengths is not None:
                return super().__call__(x, mask, cache)  # type: ignore[no-any-return]
            decode, verify = self._steps
            if x.shape[1] == 1:
                x, *cache.cache = decode(x, *cache.cache)
                cache.advance(1)
                return x
            before = cache[1]
            x, state, *read = verify(x, *cache.cache)
            cache.verified(state, read[0], partial(self.linear_attn.again, before, read))
            return x
        media = media_ahead(cache, x.shape[1])
        if media is not None:
            angles = media.angles(self._angles, cache.size(), x.shape[1])
            h = x + self.self_attn(self.input_layernorm(x), mask, cache, angles)
            return h + self.mlp(self.post_attention_layernorm(h))
        if not self._in_decode(x, cache):
            return super().__call__(x, mask, cache)  # type: ignore[no-any-return]
        before, after = self._steps
        # An array, because a number would be compiled into it.
        queries, keys, values, gate = before(x, mx.array(cache.offset))
        keys, values = cache.update_and_fetch(keys, values)
        attention: PatchedAttention = self.self_attn
        operations, scale = attention.operations, attention.scale
        if x.shape[1] == 1:
            out = operations.attention(queries, keys, values, scale=scale, mask=mask, cache=cache)
        else:
            out = operations.attention_in_steps(queries, keys, values, scale=scale, mask=mask, cache=cache)
        return after(x, out, gate)  # type: ignore[no-any-return]

    def _in_decode(self, x: mx.array, cache: Any) -> bool:
        """Whether a compiled step will do: one token or drafts, and nothing to be gathered from other machines."""
        if not self._steps or cache is None or self.training or isinstance(cache, JointAttentionCache):
            return False
        if x.shape[1] != 1 and not getattr(cache, "verifying", False):
            return False
        sharded = self.linear_attn.sharding_group if self.is_linear else getattr(self.self_attn.o_proj, "group", None)
        return sharded is None

    def _angles(self, position_ids: mx.array) -> tuple[mx.array, mx.array]:
        return multimodal_angles(self.self_attn.rope, self._rotary_dims, self._mrope_section, position_ids)


class PatchedTextModel(upstream.Qwen3_5TextModel):  # type: ignore[misc]
    """mlx-lm's decoder, which puts image embeddings where the cache says that images stand."""

    def __init__(self, args: TextModelArgs) -> None:
        # Not the parent's: it would build its own layers first.
        PipelineMixin.__init__(self)
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [PatchedDecoderLayer(args, kind) for kind in args.layer_types]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)
        self.ssm_idx = _first(args.layer_types, "linear_attention")
        self.fa_idx = _first(args.layer_types, "full_attention")

    def __call__(self, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None) -> mx.array:
        """Token ids (B, L) to hidden states (B, L, hidden_size).

        Args:
            cache: One cache per layer; an attention cache may carry a prompt's media.
            input_embeddings: (B, L, hidden_size) in place of the embeddings of `inputs`; images that
                the cache carries are placed in them too.
        """
        layer_cache: Any = cache[self.fa_idx] if cache and self.fa_idx is not None else None
        if media := media_ahead(layer_cache, inputs.shape[1]):
            # A copy of what was given: placing writes.
            given = self.embed_tokens(inputs) if input_embeddings is None else mx.array(input_embeddings)
            input_embeddings = media.place(given, layer_cache.size())
        return super().__call__(inputs, cache, input_embeddings=input_embeddings)  # type: ignore[no-any-return]


class PatchedTextLanguageModel(upstream.TextModel):  # type: ignore[misc]
    """mlx-lm's TextModel (decoder and head) over the patched decoder."""

    def __init__(self, args: TextModelArgs) -> None:
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        self.args = args
        self.model_type = args.model_type
        self.model = PatchedTextModel(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)
        self.sharding_group = None

    def project(self, hidden: mx.array) -> mx.array:
        """Logits (B, L, vocab_size) of final hidden states (B, L, hidden_size)."""
        if self.args.tie_word_embeddings:
            return self.model.embed_tokens.as_linear(hidden)  # type: ignore[no-any-return, no-untyped-call]
        logits = self.lm_head(hidden)
        return logits if self.sharding_group is None else gather_last_axis(logits, self.sharding_group)

    def make_cache(self) -> list[Any]:
        """One empty cache per layer of this rank."""
        return [GatedDeltaCache() if layer.is_linear else AttentionCache() for layer in self.layers]


class Model(upstream.Model):  # type: ignore[misc]
    """Decoder and, if the checkpoint has one, vision tower: one set of weights, dense or MoE.

    `vision_tower` is None when the checkpoint holds no vision weights.

    Args:
        exact: Text is bit-identical to mlx-lm: only its own code, and nothing compiled around it.
        gated_delta: How GDN layers read a prompt; None for the fastest on this device.
        vision_later: The tower is built when it is first used, if the weights fit it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        exact: bool = False,
        gated_delta: str | None = None,
        vision_later: bool = False,
    ) -> None:
        # Not the parent's: it would build mlx-lm's own decoder first.
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        self.args = config
        self.model_type = config.model_type
        gated_delta = choose_gated_delta(gated_delta, exact=exact)
        args = TextModelArgs.from_config(config, exact=exact, gated_delta=gated_delta)
        self.language_model = PatchedTextLanguageModel(args)
        deferred = vision_later and config.vision is not None
        self.vision_tower: Any = DeferredTower(config) if deferred else build_vision_tower(config)
        # What norms were made of, for `widening.widen`; no parameters.
        self._half_offsets: dict[str, mx.array] = {}

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        adapter_path: str | Path | None = None,
        exact: bool = False,
        gated_delta: str | None = None,
        vision_later: bool = False,
    ) -> "Model":
        """A checkpoint's model with lazy weights, which `materialise` reads; only on the thread that owns MLX.

        Args:
            adapter_path: A directory that mlx_lm.lora, mlx-vlm or peft wrote.
            vision_later: See `Model`; an adapter wants the tower at once.
        Raises:
            OptionError: There is no such `gated_delta`, or it is not exact.
            CheckpointError: A weight file is damaged, or the tensors do not fit config.json; lists them.
            AdapterError: See `load_adapter`.
        """
        vision_later = vision_later and adapter_path is None
        model = cls(checkpoint.config, exact=exact, gated_delta=gated_delta, vision_later=vision_later)
        load_weights(model, checkpoint)
        decoder = model.language_model
        if decoder.args.operations.writes_out:
            dequantise_prompts(decoder.model.layers)
        if adapter_path is not None:
            load_adapter(model, expand(adapter_path, AdapterError, "adapter_path"))
        return model

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Bring a checkpoint of any layout and format to the names, values and modes of this model.

        Raises:
            CheckpointError: The tensors do not follow one layout.
        """
        stored = to_mlx(weights, self.args.raw)
        weights, self._half_offsets = to_canonical(stored, self.args), half_offsets(stored)
        if "language_model.lm_head.weight" in weights and self.language_model.args.tie_word_embeddings:
            untie(self.language_model)
        vision = {name.removeprefix(_VISION): value for name, value in weights.items() if name.startswith(_VISION)}
        # mlx-lm sanitises an empty dict when it plans a distributed load.
        if weights and not vision:
            self.vision_tower = None
        elif isinstance(self.vision_tower, DeferredTower) and not self.vision_tower.take(vision):
            # Quantised; or they do not fit, which is said where all others that do not fit are.
            self.vision_tower = build_vision_tower(self.args)
        # A module of the model, which gets them with all others.
        tower = isinstance(self.vision_tower, nn.Module)
        unused = ("mtp.",) if tower else ("mtp.", _VISION)
        return {name: value for name, value in weights.items() if not name.startswith(unused)}

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> "Model":
        """As nn.Module, except that it reports everything that does not fit at once.

        Raises:
            CheckpointError: Tensors are missing, surplus or misshapen (`strict` only).
        """
        if strict and isinstance(file_or_weights, list):
            expected = {name: value.shape for name, value in dict(tree_flatten(self.parameters())).items()}
            check_tensors(expected, {name: value.shape for name, value in file_or_weights})
        super().load_weights(file_or_weights, strict=strict)
        return self

    @property
    def quant_predicate(self) -> Callable[[str, nn.Module], bool | dict[str, Any]]:
        """Which modules `nn.quantize` may touch: the vision tower stays as it is, gates get 8 bits."""
        return quantisation_of


_VISION = "vision_tower."
# Small matrices that decide where tokens go (routing) and how fast GDN forgets (decay, update).
_GATES = ("mlp.gate", "mlp.shared_expert_gate", "linear_attn.in_proj_a", "linear_attn.in_proj_b")


def quantisation_of(path: str, module: nn.Module) -> bool | dict[str, Any]:
    """What mlx-lm asks of a quantisation predicate: whether, and how, to quantise the module at a canonical path."""
    if path.startswith(_VISION) or not hasattr(module, "to_quantized"):
        return False
    if not is_gate(path):
        return True
    return {"group_size": 32 if module.weight.shape[-1] % 64 else 64, "bits": 8, "mode": "affine"}


def is_gate(path: str) -> bool:
    """Whether the module at a canonical path is one of those that keep 8 bits."""
    return path.endswith(_GATES)


def _first(kinds: tuple[LayerType, ...], kind: LayerType) -> int | None:
    return kinds.index(kind) if kind in kinds else None
