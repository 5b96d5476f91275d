"""The vision add-on: from images and videos in a prompt to embeddings and positions in its caches."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.checkpoints.config import DENSE_TYPES, MOE_TYPES, ModelConfig
from mlx_qwen35.checkpoints.weight_files import files_with_vision
from mlx_qwen35.errors import CheckpointError, ConfigError, VisionUnavailableError
from mlx_qwen35.prompts.builder import FramesCallback
from mlx_qwen35.prompts.images import ImageMemory, ImagePreprocessor, PreparedImage
from mlx_qwen35.prompts.pieces import Piece
from mlx_qwen35.prompts.positions import MediaLayout, expand_placeholders, lay_out
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.prompts.videos import PreparedVideo, VideoPreprocessor
from mlx_qwen35.state.cache import attach_media
from mlx_qwen35.state.media import PromptMedia

# About 30,000 image tokens of the 4B in bfloat16.
IMAGE_CACHE_BYTES = 256 * 2**20


class FeatureCache:
    """Embeddings of images and pieces of videos by their content, least recently used first to go; any thread.

    Args:
        budget: At most this many bytes, except that the newest stays until `release`.
        account: Is told the bytes held whenever they change.
    """

    def __init__(self, budget: int, account: Callable[[int], object] = lambda nbytes: None) -> None:
        self._budget = budget
        self._account = account
        self._features: OrderedDict[str, mx.array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, content_hash: str) -> mx.array | None:
        """A piece's embeddings, if they are still there."""
        with self._lock:
            if content_hash in self._features:
                self._features.move_to_end(content_hash)
            return self._features.get(content_hash)

    def put(self, content_hash: str, features: mx.array) -> None:
        """Keep a piece's embeddings."""
        with self._lock:
            self._features[content_hash] = features
        self._shrink(self._budget, keep=1)

    def release(self) -> None:
        """What is over the budget goes, the newest too."""
        self._shrink(self._budget)

    def reclaim(self, nbytes: int) -> None:
        """Give back so many bytes, as far as there are as many."""
        self._shrink(max(0, self.nbytes - nbytes))

    def clear(self) -> None:
        """Give everything back."""
        self._shrink(0)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        with self._lock:
            return self._held()

    def _held(self) -> int:
        return sum(features.nbytes for features in self._features.values())

    def _shrink(self, size: int, keep: int = 0) -> None:
        with self._lock:
            while len(self._features) > keep and self._held() > size:
                self._features.popitem(last=False)
            self._account(self._held())


class VisionAddOn:
    """Vision for a dense Qwen3.5; the decoder stays the one that serves text.

    Preparing a prompt needs no MLX and may run on any thread; encoding runs on the thread that
    owns MLX. Positions live in the prompt and in the caches of a running request only. What the
    add-on keeps is embeddings by the content of images and videos, so that nothing is encoded twice.

    Args:
        config: The checkpoint's config.
        tower: The vision tower with its weights; None if the checkpoint has none.
        directory: The checkpoint, for its image processor settings.
        cache_bytes: Room for embeddings of images and videos, and as much again for the pixels of either.
        memory: Asked for the memory of images and videos, and told what is kept.
    Raises:
        ConfigError: The checkpoint is of the other family (dense or MoE).
    """

    model_types: tuple[str, ...] = DENSE_TYPES

    def __init__(
        self,
        config: ModelConfig,
        tower: Any,
        directory: Path,
        cache_bytes: int = IMAGE_CACHE_BYTES,
        memory: ImageMemory | None = None,
    ) -> None:
        if config.model_type not in self.model_types:
            raise ConfigError(
                f"{type(self).__name__}: expected model_type {' or '.join(self.model_types)}, found {config.model_type}"
            )
        self._config = config
        self._tower = tower
        self._preprocessor: ImagePreprocessor | None = None
        self._videos: VideoPreprocessor | None = None
        self.features = FeatureCache(cache_bytes, (memory or ImageMemory()).features)
        self.unavailable: str | None = None
        if config.vision is None:
            self.unavailable = "its config.json describes no vision tower, or null for the ids of its tokens"
        elif tower is None:
            self.unavailable = _missing_weights(directory)
        else:
            try:
                self._preprocessor = ImagePreprocessor(directory, config.vision, cache_bytes, memory)
            except CheckpointError as error:
                self.unavailable = str(error)
        self._no_videos = self.unavailable
        if self.unavailable is None and config.vision is not None:
            try:
                self._videos = VideoPreprocessor(directory, config.vision, cache_bytes, memory)
            except CheckpointError as error:
                self._no_videos = str(error)

    @property
    def sees_videos(self) -> bool:
        """Whether prompts may hold videos."""
        tokens = self._config.media_tokens
        return self._videos is not None and tokens is not None and tokens.video_token_id is not None

    def prepare_image(
        self, source: Any, *, max_pixels: int | None = None, place: str = "image", **others: int | None
    ) -> PreparedImage:
        """Decode one image and cut it into patches; any thread.

        Args:
            max_pixels, others: See `Resizing`.
        Raises:
            VisionUnavailableError: The checkpoint cannot see.
            MediaError, OptionError: See `ImagePreprocessor`.
        """
        self.require(place)
        assert self._preprocessor is not None
        return self._preprocessor(source, max_pixels=max_pixels, place=place, **others)

    def prepare_video(
        self, source: Any, *, place: str = "video", on_frames: FramesCallback | None = None, **options: Any
    ) -> PreparedVideo:
        """Sample a video's frames and cut them into patches; any thread.

        Args:
            on_frames: Called with the frames that are ready and their number; returning False ends the work.
            options: See `VideoPreprocessor`.
        Raises:
            VisionUnavailableError: The checkpoint cannot see.
            MediaError, OptionError: See `VideoPreprocessor`.
            GenerationCancelled: `on_frames` returned False.
        """
        self.require(place)
        if self._videos is None:
            raise VisionUnavailableError(f"{place}: this checkpoint cannot see videos: {self._no_videos}")
        if on_frames is None:
            return self._videos(source, place=place, **options)
        wanted = True

        def progress(done: int, total: int) -> None:
            nonlocal wanted
            wanted = wanted and on_frames(done, total) is not False

        return self._videos(source, place=place, progress=progress, cancelled=lambda: not wanted, **options)

    def require(self, place: str) -> None:
        """Refuse an image or a video that the model would never see.

        Raises:
            VisionUnavailableError: With the reason, and what to use instead.
        """
        if self.unavailable is not None:
            raise VisionUnavailableError(
                f"{place}: this checkpoint cannot see images: {self.unavailable}. Use the original checkpoint, "
                "or one that `mlx-qwen35 convert` or mlx-vlm made from it"
            )

    def prepare_prompt(
        self, input_ids: Sequence[int], images: Sequence[PreparedImage], frames: Sequence[PreparedImage] = ()
    ) -> tuple[list[int], MediaLayout | None]:
        """Expand placeholders of images, and give every token its position; any thread.

        Args:
            input_ids: Shape (S,), one placeholder per image or already expanded; those of videos are.
            images: In prompt order.
            frames: Pairs of frames of all videos, in prompt order.
        Returns:
            The expanded ids, and the layout, or None without media.
        Raises:
            PromptMismatchError: Placeholders and media differ in number or in length.
        """
        tokens = self._config.media_tokens
        if tokens is None:
            return list(input_ids), None
        token_id = tokens.image_token_id
        expanded = expand_placeholders(input_ids, [image.tokens for image in images], image_token_id=token_id)
        layout = lay_out(
            expanded,
            [image.merged_grid_thw for image in images],
            image_token_id=token_id,
            frames_thw=[pair.merged_grid_thw for pair in frames],
            video_token_id=tokens.video_token_id,
        )
        return expanded, layout

    def has_seen(self, piece: Piece) -> bool:
        """Whether the embeddings of an image, or of a piece of a video, are at hand."""
        return self.features.get(piece.content_hash) is not None

    def frames_in(self, piece: Piece) -> int:
        """Frames of a video in a piece, the last one of an odd number counted twice as it is shown; 0 for an image."""
        vision = self._config.vision
        return len(piece) * vision.temporal_patch_size if piece.is_video and vision is not None else 0

    def unseen_patches(self, prompt: Prompt) -> tuple[int, ...]:
        """Of each piece of a prompt that is still to be encoded."""
        unseen = {piece.content_hash: piece.patches for piece in prompt.pieces if not self.has_seen(piece)}
        return tuple(unseen.values())

    def encode(self, piece: Piece, media: Sequence[PreparedImage]) -> list[mx.array]:
        """Embeddings of a piece's media, (tokens, hidden_size) each; only on the thread that owns MLX.

        Args:
            media: The prompt's.
        """
        units = media[piece.start : piece.stop]
        features = self.features.get(piece.content_hash)
        if features is None:
            weight = self._tower.patch_embed.proj.weight
            pixels = [unit.pixel_values for unit in units]
            pixel_values = mx.array(pixels[0] if len(pixels) == 1 else np.concatenate(pixels)).astype(weight.dtype)
            features, _ = self._tower(pixel_values, mx.array(np.array([unit.grid_thw for unit in units])))
            # One piece at a time: the tower's activations are far larger than its result.
            mx.eval(features)
            self.features.put(piece.content_hash, features)
        if len(units) == 1:
            return [features]
        edges = np.cumsum([0, *(unit.tokens for unit in units)]).tolist()
        return [features[at:to] for at, to in pairwise(edges)]

    def fill(self, caches: list[Any], prompt: Prompt) -> list[Any]:
        """Give fresh caches the media of a prompt; only on the thread that owns MLX.

        Raises:
            CacheError: None of them can carry media.
        """
        if prompt.layout is not None:
            features = [unit for piece in prompt.pieces for unit in self.encode(piece, prompt.media)]
            attach_media(caches, PromptMedia(prompt.layout, features))
        return caches

    def clear_prediction_state(self) -> None:
        """Let go of what was prepared for the last prompt beyond the budget, whether or not it was run.

        Nothing that outlives a request knows a position, and a running one holds what it needs itself.
        """
        self.features.release()

    def reclaim(self, nbytes: int) -> None:
        """Give back so many bytes of embeddings and pixels, as far as there are as many; any thread."""
        before = self.features.nbytes
        self.features.reclaim(nbytes)
        missing = nbytes - before
        for pixels in (self._videos, self._preprocessor):
            if pixels is not None and missing > 0:
                missing -= pixels.reclaim(missing)

    def close(self) -> None:
        """Let the tower and all media go."""
        self.features.clear()
        self._tower = self._preprocessor = self._videos = None
        self.unavailable = "its ModelKit was closed"


class MoeVisionAddOn(VisionAddOn):
    """Vision for a Qwen3.5 mixture of experts; its tower is that of the dense ones."""

    model_types = MOE_TYPES


def _missing_weights(directory: Path) -> str:
    unused = [path.name for path in files_with_vision(directory)]
    if unused:
        return (
            f"the vision weights in {', '.join(unused)} are not used, because the file holds other weights too and "
            "is not one of the checkpoint's"
        )
    return (
        "it holds no vision weights, although config.json describes a vision tower (a text-only conversion drops them)"
    )


def make_vision_add_on(
    config: ModelConfig,
    tower: Any,
    directory: Path,
    cache_bytes: int = IMAGE_CACHE_BYTES,
    memory: ImageMemory | None = None,
) -> VisionAddOn:
    """The add-on of a checkpoint's family."""
    family = MoeVisionAddOn if config.model_type in MOE_TYPES else VisionAddOn
    return family(config, tower, directory, cache_bytes, memory)
