"""What a video may be given as: a number of frames with their times, decoded as they are asked for."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts.arrays import to_numpy, whole_numbers
from mlx_qwen35.prompts.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image


class Clip(Protocol):
    """A video that is open for reading.

    Args:
        size: Width and height of a frame, upright.
        times: Seconds from the first frame, of every frame.
        fps: Frames a second on average.
        decoding_bytes: Memory that decoding takes, beyond what the file takes.
    """

    size: tuple[int, int]
    times: Sequence[float]
    fps: float
    decoding_bytes: int

    def frames(self, indices: Sequence[int]) -> Iterator["Image"]:
        """RGB pictures of these frames, whose numbers rise."""
        ...


def to_rgb(image: "Image") -> "Image":
    """A picture in RGB, what is transparent composed on white.

    Source: transformers 5.24, image_transforms.py, `convert_to_rgb`.
    """
    from PIL import Image

    if "A" in image.getbands() or image.info.get("transparency") is not None:
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


class PictureClip:
    """Pictures in order, evenly spaced.

    Args:
        pictures: Each one as `open_image` takes it; all of one size.
        fps: How many of them a second.
        place: For error messages.
    Raises:
        MediaError: There are none, or the first one is none.
    """

    def __init__(self, pictures: Sequence[Any], fps: float, place: str) -> None:
        if not pictures:
            raise MediaError(f"{place}: expected a list of pictures, found an empty one")
        self._pictures, self._place = pictures, place
        self.fps = fps
        self.times: Sequence[float] = [index / fps for index in range(len(pictures))]
        self.size = open_image(pictures[0], f"{place}[0]").size
        self.decoding_bytes = 3 * 4 * self.size[0] * self.size[1]

    def frames(self, indices: Sequence[int]) -> Iterator["Image"]:
        """See `Clip`.

        Raises:
            MediaError: A picture cannot be read, or has another size than the first one.
        """
        for index in indices:
            image = open_image(self._pictures[index], f"{self._place}[{index}]")
            if image.size != self.size:
                raise MediaError(
                    f"{self._place}[{index}]: expected {self.size[0]} x {self.size[1]} pixels as in the first picture, "
                    f"found {image.width} x {image.height}"
                )
            yield to_rgb(image)


class ArrayClip:
    """Frames in one array of shape (T, H, W, 3), whole numbers from 0 to 255, evenly spaced; see `PictureClip`.

    Raises:
        MediaError: It has another shape, or other values.
    """

    def __init__(self, array: Any, fps: float, place: str) -> None:
        shape = tuple(array.shape)
        values = to_numpy(array) if len(shape) == 4 and shape[3] == 3 else None
        if values is None or values.dtype.kind not in "uif":
            raise MediaError(
                f"{place}: expected an array of shape (T, H, W, 3) with whole numbers from 0 to 255, found one of "
                f"shape {shape} and type {array.dtype}"
            )
        if not values.size:
            raise MediaError(f"{place}: array of shape {shape}: expected a video, found no pixels")
        self._values, self._place = values, place
        self.fps = fps
        self.times: Sequence[float] = [index / fps for index in range(shape[0])]
        self.size = (int(shape[2]), int(shape[1]))
        self.decoding_bytes = 3 * 4 * self.size[0] * self.size[1]

    def frames(self, indices: Sequence[int]) -> Iterator["Image"]:
        """See `Clip`.

        Raises:
            MediaError: A frame has values that are no whole numbers from 0 to 255.
        """
        from PIL import Image

        for index in indices:
            values = whole_numbers(self._values[index], 0, 255)
            if values is None:
                raise MediaError(
                    f"{self._place}[{index}]: expected whole numbers from 0 to 255, found others in an array of type "
                    f"{self._values.dtype}"
                )
            yield Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8))
