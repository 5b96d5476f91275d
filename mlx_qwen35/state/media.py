"""The images of a prompt on their way into the caches."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_qwen35.errors import CacheError
from mlx_qwen35.prompts.positions import MediaLayout


class PromptMedia:
    """The images of one prompt on their way through prefill, shared by its attention caches.

    Args:
        layout: Where the images stand.
        features: Embeddings of each image in prompt order, each (tokens of the image, hidden_size);
            None for an image that the caches have read already.
    """

    def __init__(self, layout: MediaLayout, features: Sequence[mx.array | None]) -> None:
        self.layout = layout
        self.features: list[mx.array | None] = list(features)
        self._angles: tuple[int, int, mx.array, mx.array] | None = None

    def has_image(self, start: int, stop: int) -> bool:
        """Whether a token in [start, stop) belongs to an image."""
        return bool(self.layout.overlapping(start, stop))

    def place(self, embeddings: mx.array, start: int) -> mx.array:
        """Put the images' embeddings where their placeholders are, and let go of those now read.

        Args:
            embeddings: Token embeddings of the chunk that begins at token `start`, (1, L, hidden_size).
        Returns:
            The same shape and dtype.
        Raises:
            CacheError: An image was read before, so its embeddings are gone.
        """
        stop = start + embeddings.shape[1]
        for index in self.layout.overlapping(start, stop):
            span, features = self.layout.spans[index], self.features[index]
            if features is None:
                raise CacheError(f"image {index + 1} was read before, its embeddings are no longer held")
            low, high = max(start, span.start), min(stop, span.stop)
            rows = features[low - span.start : high - span.start]
            embeddings[:, low - start : high - start] = rows.astype(embeddings.dtype)
            if high == span.stop:
                self.features[index] = None
        return embeddings

    def angles(
        self, compute: Callable[[mx.array], tuple[mx.array, mx.array]], start: int, length: int
    ) -> tuple[mx.array, mx.array]:
        """Rotation of the chunk that begins at token `start`, computed once for all layers.

        Args:
            compute: From position ids (3, 1, L) to cosine and sine.
        """
        if self._angles is None or self._angles[:2] != (start, length):
            position_ids = mx.array(self.layout.position_ids(start, start + length))
            self._angles = (start, length, *compute(position_ids[:, None]))
        return self._angles[2:]
