"""Animated GIF, WebP and APNG as videos; Pillow reads them."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mlx_qwen35.errors import MediaError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.clips import StillClip, check_frame_size
from mlx_qwen35.prompts.images import ImageMemory, read_header
from mlx_qwen35.prompts.pixels import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

# Every frame has to be drawn to find the times, and again for the pictures; a minute of full HD at 60 a second.
MAX_DRAWN_PIXELS = 2**33
# Browsers show frames of at most so long for a tenth of a second; many files say 0.
SHORTEST_MS, INSTEAD_MS = 10, 100


class AnimationClip(StillClip):
    """See `Clip`; times are the sums of the durations that the file gives its frames.

    Args:
        data: The file.
        place, label: For error messages.
        check: Called before every frame; ends the work by raising.
        memory: Asked before the frames are drawn to find their times.
    Raises:
        MediaError: It is damaged, does not move, or has too many pixels.
        InsufficientMemoryError: There is none for drawing.
    """

    def __init__(self, data: bytes, place: str, label: str, check: Callable[[], None], memory: ImageMemory) -> None:
        self._data, self._place, self._label = data, place, label
        image = read_header(data, place, label)
        self.size, self.sampled = image.size, False
        check_frame_size(*self.size, f"{place}: {label}")
        # Pillow's four bytes a pixel for the frame, the one before it and what is converted, and the decoder's own.
        self.decoding_bytes = 5 * 4 * self.size[0] * self.size[1] + len(data)
        # An APNG may begin with a picture for those who cannot see it move.
        self._first = 1 if image.info.get("default_image") else 0
        durations = []
        with memory.decoding(self.decoding_bytes, place):
            for _ in self._walk(image, check):
                shown = float(image.info.get("duration") or 0)
                durations.append(shown if shown > SHORTEST_MS else INSTEAD_MS)
        # What is refused as an image for its second frame must be a video, even if that frame is the only one to show.
        if len(durations) < 2 and not (durations and getattr(image, "is_animated", False)):
            raise MediaError(f"{place}: {label}: expected a video, found a still picture; send it as an image")
        times, passed = [], 0.0
        for shown in durations:
            times.append(passed / 1000)
            passed += shown
        self.times: Sequence[float] = times
        self.fps = len(times) / (passed / 1000)

    def _walk(self, image: "Image", check: Callable[[], None]) -> Iterator[int]:
        """Draws one frame after the other; what is missing at the end of a file is not there."""
        width, height = self.size
        number = 0
        while True:
            check()
            if number * width * height > MAX_DRAWN_PIXELS:
                raise MediaError(
                    f"{self._place}: {self._label}: expected an animation of at most {MAX_DRAWN_PIXELS} pixels over "
                    f"all frames, found more than {number} of {width} x {height}; send it as an MP4 or WebM file"
                )
            try:
                image.seek(number + self._first)
                image.load()
            except EOFError:
                return
            except MemoryError:
                raise
            except Exception as error:  # a decoder's plug-in raises what it likes
                if number < 2:
                    raise MediaError(
                        f"{self._place}: {self._label}: the video is damaged ({shorten(error) or type(error).__name__})"
                    ) from error
                return
            yield number
            number += 1

    def frames(self, indices: Sequence[int], check: Callable[[], None]) -> Iterator["Image"]:
        """See `Clip`."""
        wanted = iter(indices)
        index = next(wanted, None)
        image = read_header(self._data, self._place, self._label)
        for number in self._walk(image, check):
            while index == number:
                yield to_rgb(image.copy())
                index = next(wanted, None)
            if index is None:
                return
