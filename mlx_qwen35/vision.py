"""The vision add-on: from images in a prompt to embeddings and positions in its caches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.cache import PromptMedia
from mlx_qwen35.config import DENSE_TYPES, MOE_TYPES, ModelConfig
from mlx_qwen35.errors import CheckpointError, ConfigError, VisionUnavailableError
from mlx_qwen35.media import ImagePreprocessor, PreparedImage
from mlx_qwen35.positions import MediaLayout, expand_placeholders, lay_out
from mlx_qwen35.prompt import Prompt


class VisionAddOn:
    """Vision for a dense Qwen3.5; the decoder stays the one that serves text.

    Preparing a prompt needs no MLX and may run on any thread. Encoding runs on the thread
    that owns MLX. The only thing kept between the two is what belongs to the prompt that was
    prepared last: its image embeddings, so that reading it twice encodes once.

    Args:
        config: The checkpoint's config.
        tower: The vision tower with its weights; None if the checkpoint has none.
        directory: The checkpoint, for its image processor settings.
    Raises:
        ConfigError: The checkpoint is of the other family (dense or MoE).
    """

    model_types: tuple[str, ...] = DENSE_TYPES

    def __init__(self, config: ModelConfig, tower: Any, directory: Path) -> None:
        if config.model_type not in self.model_types:
            raise ConfigError(
                f"{type(self).__name__}: expected model_type {' or '.join(self.model_types)}, found {config.model_type}"
            )
        self._config = config
        self._tower = tower
        self._preprocessor: ImagePreprocessor | None = None
        self._prepared: dict[str, mx.array] = {}
        self.unavailable: str | None = None
        if config.vision is None:
            self.unavailable = "its config.json describes no vision tower"
        elif tower is None:
            self.unavailable = (
                "it holds no vision weights, although config.json describes a vision tower "
                "(a text-only conversion drops them)"
            )
        else:
            try:
                self._preprocessor = ImagePreprocessor(directory, config.vision)
            except CheckpointError as error:
                self.unavailable = str(error)

    def prepare_image(self, source: Any, *, max_pixels: int | None = None, place: str = "image") -> PreparedImage:
        """Decode one image and cut it into patches; any thread.

        Raises:
            VisionUnavailableError: The checkpoint cannot see.
            MediaError, OptionError: See `ImagePreprocessor`.
        """
        self.require(place)
        assert self._preprocessor is not None
        return self._preprocessor(source, max_pixels=max_pixels, place=place)

    def require(self, place: str) -> None:
        """Refuse an image that the model would never see.

        Raises:
            VisionUnavailableError: With the reason, and what to use instead.
        """
        if self.unavailable is not None:
            raise VisionUnavailableError(
                f"{place}: this checkpoint cannot see images: {self.unavailable}. Use the original checkpoint, "
                "or one that `mlx-qwen35 convert` or mlx-vlm made from it"
            )

    def lay_out(
        self, input_ids: Sequence[int], images: Sequence[PreparedImage]
    ) -> tuple[list[int], MediaLayout | None]:
        """Expand placeholders and give every token its position; any thread.

        Args:
            input_ids: Shape (S,), one placeholder per image or already expanded.
        Returns:
            The expanded ids, and the layout, or None without images.
        Raises:
            PromptMismatchError: Placeholders and images differ in number or in length.
        """
        tokens = self._config.media_tokens
        if tokens is None:
            return list(input_ids), None
        token_id = tokens.image_token_id
        expanded = expand_placeholders(input_ids, [image.tokens for image in images], image_token_id=token_id)
        grids = [image.merged_grid_thw for image in images]
        return expanded, lay_out(expanded, grids, image_token_id=token_id)

    def encode(self, image: PreparedImage) -> mx.array:
        """Embeddings of one image, (tokens, hidden_size); only on the thread that owns MLX."""
        prepared = self._prepared  # another thread may clear it meanwhile
        if image.content_hash not in prepared:
            weight = self._tower.patch_embed.proj.weight
            pixel_values = mx.array(image.pixel_values).astype(weight.dtype)
            features, _ = self._tower(pixel_values, mx.array(np.array([image.grid_thw])))
            # One image at a time: the tower's activations are far larger than its result.
            mx.eval(features)
            prepared[image.content_hash] = features
        return prepared[image.content_hash]

    def media(self, prompt: Prompt) -> PromptMedia | None:
        """What the caches of one request carry; only on the thread that owns MLX."""
        if prompt.layout is None:
            return None
        return PromptMedia(prompt.layout, [self.encode(image) for image in prompt.images])

    def clear_prediction_state(self) -> None:
        """Forget what was prepared for the last prompt, whether or not it was run.

        Positions live in the prompt and in the caches of a running request only, so afterwards
        nothing that outlives a request knows about one.
        """
        self._prepared = {}


class MoeVisionAddOn(VisionAddOn):
    """Vision for a Qwen3.5 mixture of experts; its tower is mlx-vlm's qwen3_5_moe."""

    model_types = MOE_TYPES


def make_vision_add_on(config: ModelConfig, tower: Any, directory: Path) -> VisionAddOn:
    """The add-on of a checkpoint's family."""
    family = MoeVisionAddOn if config.model_type in MOE_TYPES else VisionAddOn
    return family(config, tower, directory)
