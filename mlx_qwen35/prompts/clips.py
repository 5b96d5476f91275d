"""What a video may be given as: a number of frames with their times, decoded as they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mlx_qwen35.errors import MediaError
from mlx_qwen35.prompts.arrays import to_numpy, whole_numbers
from mlx_qwen35.prompts.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image


# 8k has half as many. Decoders keep a dozen frames and more.
MAX_FRAME_PIXELS = 2**26


class Clip(Protocol):
    """A video that is open for reading.

    Args:
        size: Width and height of a frame; they may have to be swapped.
        times: Seconds from the first frame, of every frame.
        fps: Frames a second on average.
        sampled: Whether these are frames that somebody chose, rather than all that were filmed.
        decoding_bytes: Memory that decoding takes, beyond the file and what is made of the frames.
    """

    size: tuple[int, int]
    times: Sequence[float]
    fps: float
    sampled: bool
    decoding_bytes: int

    def choose(self, indices: Sequence[int]) -> list[int]:
        """Frames to show instead of these, where these would take too long to decode."""
        ...

    def frames(self, indices: Sequence[int], check: Callable[[], None]) -> Iterator["Image"]:
        """These frames, whose numbers do not fall, as RGB pictures, upright.

        Args:
            check: Called now and then; ends the work by raising.
        """
        ...

    def close(self) -> None:
        """Nothing more is asked for."""
        ...


class StillClip:
    """What clips share whose frames are decoded one by one, and are at hand."""

    def choose(self, indices: Sequence[int]) -> list[int]:
        """See `Clip`."""
        return list(indices)

    def close(self) -> None:
        """See `Clip`."""


def check_frame_size(width: int, height: int, at: str) -> None:
    """Refuse frames without pixels, and those with more than a video has.

    Raises:
        MediaError: It is one of them.
    """
    if not width or not height:
        raise MediaError(f"{at}: expected a video, found frames of {width} x {height} pixels")
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(f"{at}: expected frames of at most {MAX_FRAME_PIXELS} pixels, found {width} x {height}")


def to_rgb(image: "Image") -> "Image":
    """A picture in RGB, what is transparent composed on white.

    Source: transformers 5.24, image_transforms.py, `convert_to_rgb`.
    """
    from PIL import Image

    if "A" in image.getbands() or image.info.get("transparency") is not None:
        background = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


class PictureClip(StillClip):
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
        self.fps, self.sampled = fps, True
        self.times: Sequence[float] = [index / fps for index in range(len(pictures))]
        self.size = open_image(pictures[0], f"{place}[0]").size
        self.decoding_bytes = 3 * 4 * self.size[0] * self.size[1]

    def frames(self, indices: Sequence[int], check: Callable[[], None]) -> Iterator["Image"]:
        """See `Clip`.

        Raises:
            MediaError: A picture cannot be read, or has another size than the first one.
        """
        for index in indices:
            check()
            image = open_image(self._pictures[index], f"{self._place}[{index}]")
            if image.size != self.size:
                raise MediaError(
                    f"{self._place}[{index}]: expected {self.size[0]} x {self.size[1]} pixels as in the first picture, "
                    f"found {image.width} x {image.height}"
                )
            yield to_rgb(image)


class ArrayClip(StillClip):
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
        self.fps, self.sampled = fps, True
        self.times: Sequence[float] = [index / fps for index in range(shape[0])]
        self.size = (int(shape[2]), int(shape[1]))
        self.decoding_bytes = 3 * 4 * self.size[0] * self.size[1]

    def frames(self, indices: Sequence[int], check: Callable[[], None]) -> Iterator["Image"]:
        """See `Clip`.

        Raises:
            MediaError: A frame has values that are no whole numbers from 0 to 255.
        """
        from PIL import Image

        for index in indices:
            check()
            values = whole_numbers(self._values[index], 0, 255)
            if values is None:
                raise MediaError(
                    f"{self._place}[{index}]: expected whole numbers from 0 to 255, found others in an array of type "
                    f"{self._values.dtype}"
                )
            yield Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8))
