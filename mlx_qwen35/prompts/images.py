"""Images: from whatever a caller has, to the pixels that the vision tower takes."""

import hashlib
import math
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import expand, shorten
from mlx_qwen35.prompts.arrays import is_array, whole_numbers
from mlx_qwen35.prompts.image_headers import open_header
from mlx_qwen35.prompts.image_settings import Resizing, read_image_settings
from mlx_qwen35.prompts.media_types import begins_as_image, image_brand, video_container
from mlx_qwen35.prompts.pixels import cut_into_patches, to_rgb
from mlx_qwen35.prompts.positions import merged_grid
from mlx_qwen35.prompts.recent import RecentPixels
from mlx_qwen35.prompts.sources import file_url_path, read_data_url, read_file, read_stream

if TYPE_CHECKING:
    from PIL.Image import Image

# About 13,000 x 13,000. Larger files are far more often an attack than a photograph.
MAX_SOURCE_PIXELS = 178_956_970
MAX_SOURCE_BYTES = 512 * 2**20
# Pillow's names of what is documented. It knows twenty more, some of which start programs (EPS) or have crashed.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# By their files' brands, Pillow's names, and what reads them where it is there.
_OPTIONAL_FORMATS = {"AVIF": ("AVIF", "PIL.AvifImagePlugin"), "HEIC": ("HEIF", "pillow_heif")}
# Larger JPEG files than any camera's are decoded at a half, a quarter or an eighth of their size, as the format
# allows; no smaller than this many times what the model sees, in each direction.
FULL_SIZE_PIXELS = 2**26
REDUCED_OVERSAMPLING = 2
# Those that are read as videos too.
_ANIMATED = ("GIF", "PNG", "WEBP")
# Smaller copies in a TIFF file, each of a quarter of the one before it, and a mask for each.
_MAX_COPIES = 64
_NEW_SUBFILE_TYPE = 254


class ImageMemory:
    """Where the memory of images and videos is asked for and accounted; this one has no limit."""

    def decoding(self, nbytes: int, place: str) -> AbstractContextManager[None]:
        """Memory for an image or a video while it is decoded.

        Raises:
            InsufficientMemoryError: There is none, and no other image whose end could be waited for.
        """
        return nullcontext()

    def pixels(self, nbytes: int) -> None:
        """So many bytes of images' pixels are kept."""

    def video_pixels(self, nbytes: int) -> None:
        """So many bytes of videos' pixels are kept."""

    def features(self, nbytes: int) -> None:
        """So many bytes of embeddings are kept."""


@dataclass(frozen=True)
class PreparedImage:
    """One image, ready for the vision tower.

    Args:
        pixel_values: Patches in merge order, float32, (t * h * w, channels * temporal_patch_size * patch_size ** 2);
            read-only, because prompts share them.
        grid_thw: Patches in time, height and width.
        merged_grid_thw: The same after the spatial merger; their product is the number of tokens.
        content_hash: Equal for equal pixels and grid, whatever the file they came from.
    """

    pixel_values: NDArray[np.float32] = field(repr=False)
    grid_thw: tuple[int, int, int]
    merged_grid_thw: tuple[int, int, int]
    content_hash: str

    def __post_init__(self) -> None:
        self.pixel_values.flags.writeable = False

    @property
    def tokens(self) -> int:
        """Placeholders that the image takes in a prompt."""
        t, h, w = self.merged_grid_thw
        return t * h * w


def open_image(source: Any, place: str) -> "Image":
    """Decode one image, upright.

    Args:
        source: A path, a `file:` or `data:` URL, encoded bytes, a file opened for reading them, a PIL image, or an
            array of shape (H, W, 3) with whole numbers from 0 to 255: numpy's, MLX's or torch's.
        place: Where it stands in the request, for error messages.
    Returns:
        A PIL image of any mode, EXIF orientation applied.
    Raises:
        MediaError: It is missing, broken, animated, too large, or on the network.
    """
    decoded = _decoded(source, place)
    if decoded is not None:
        return _upright(*decoded)
    data, label = read_image_bytes(source, place)
    return _upright(read_header(data, place, label), place, label)


def _decoded(source: Any, place: str) -> tuple["Image", str, str] | None:
    """An image that is pixels already, with its place and a short name; None for an encoded one."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source, place, "PIL image"
    if not is_array(source):
        return None
    label = f"array of shape {tuple(source.shape)}"
    values = whole_numbers(source, 0, 255)
    if len(source.shape) != 3 or source.shape[2] != 3 or values is None:
        raise MediaError(
            f"{place}: expected an array of shape (H, W, 3) with whole numbers from 0 to 255, found one of shape "
            f"{tuple(source.shape)} and type {source.dtype}"
        )
    if not values.size:
        raise MediaError(f"{place}: {label}: expected an image, found no pixels")
    return Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8)), place, label


def read_header(data: bytes, place: str, label: str) -> "Image":
    """The image of a file's bytes, not decoded yet; see `open_image`."""
    from PIL import Image, UnidentifiedImageError

    try:
        # The header is enough to refuse.
        return open_header(data, _formats(data))
    except Image.DecompressionBombError as error:
        raise MediaError(f"{place}: {label}: {error}") from error
    except UnidentifiedImageError as error:
        if begins_as_image(data) or len(_formats(data)) > len(FORMATS):
            raise MediaError(
                f"{place}: {label}: the image is damaged, or of a kind that Pillow does not read"
            ) from error
        raise MediaError(
            f"{place}: {label}: expected an image file ({', '.join(FORMATS)}), found {_describe(data)}"
        ) from error
    except Exception as error:  # whatever a decoder stumbles over
        raise _damaged(error, place, label) from error


def _formats(data: bytes) -> tuple[str, ...]:
    """What a file may be decoded as here."""
    from PIL import Image

    brand = image_brand(data)
    if brand is None:
        return FORMATS
    name, module = _OPTIONAL_FORMATS[brand]
    with suppress(ImportError):
        plug_in = import_module(module)
        if brand == "HEIC":
            plug_in.register_heif_opener()
        elif not getattr(plug_in, "SUPPORTED", True):
            return FORMATS
    return (*FORMATS, name) if name in Image.OPEN else FORMATS


def _damaged(error: Exception, place: str, label: str) -> MediaError:
    return MediaError(f"{place}: {label}: the image is damaged ({shorten(error) or type(error).__name__})")


def _upright(image: "Image", place: str, label: str) -> "Image":
    from PIL import ImageOps

    width, height = image.size
    if width * height > MAX_SOURCE_PIXELS:
        raise MediaError(f"{place}: {label}: expected at most {MAX_SOURCE_PIXELS} pixels, found {width} x {height}")
    if not width or not height:
        raise MediaError(f"{place}: {label}: expected an image, found {width} x {height} pixels")
    try:
        further = _further_pictures(image)
        if further is None:
            image.load()
            image = ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder's plug-in raises what it likes
        raise _damaged(error, place, label) from error
    if further is not None:
        raise MediaError(f"{place}: {label}: expected a still image, found {further}")
    return image


def _further_pictures(image: "Image") -> str | None:
    """What else a file holds that its first picture does not stand for, and what to do about it; None for nothing."""
    # A phone's JPEG or HEIC may carry a second image (MPO); the first one is the photograph.
    if image.format in ("MPO", "HEIF") or not getattr(image, "is_animated", False):
        return None
    if image.format == "TIFF":
        if not _has_pages(image):
            return None
        return "one of several pages; save the page you mean as an image of its own"
    # Not how many: counting the frames of a file can take as long as whoever made it likes.
    if image.format in _ANIMATED:
        return "an animation; send it as a video, or save the frame you mean as an image of its own"
    return "an animation; save the frame you mean as an image of its own"


def _has_pages(image: "Image") -> bool:
    """Whether a TIFF file holds more than its first picture, smaller copies of it, and masks of what is transparent.

    Source: TIFF 6.0, NewSubfileType, whose bits 0 and 2 say that a picture is one of those.
    """
    shown = image.tell()
    try:
        for number in range(1, _MAX_COPIES + 1):
            image.seek(number)
            kind = getattr(image, "tag_v2", {}).get(_NEW_SUBFILE_TYPE, 0)
            if not (isinstance(kind, int) and kind & 0b101):
                return True
    except EOFError:
        return False
    finally:
        image.seek(shown)
    return True


def read_image_bytes(source: Any, place: str) -> tuple[bytes, str]:
    """The bytes of an image file, undecoded, and a short name for messages.

    Args:
        source, place: See `open_image`, without PIL images and arrays.
    Raises:
        MediaError: There is no such file, or it is too large to be an image.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), f"{len(bytes(source))} bytes"
    if hasattr(source, "read"):
        data = read_stream(source, max_bytes=MAX_SOURCE_BYTES, place=place)
        return data, f"{len(data)} bytes"
    scheme = source[:5].lower() if isinstance(source, str) else ""
    if scheme == "data:":
        return read_data_url(source, max_bytes=MAX_SOURCE_BYTES, place=place), "data URL"
    if scheme == "file:":
        source = file_url_path(source, place)
    elif isinstance(source, str) and "://" in source:
        raise MediaError(
            f"{place}: expected a path, file: or data: URL, found {shorten(source.partition('://')[0])}: URL; "
            "images are not fetched from the network"
        )
    if not isinstance(source, (str, Path)):
        raise MediaError(f"{place}: expected a path, bytes, data URL or PIL image, found {type(source).__name__}")
    path = expand(source, MediaError, place)
    label = shorten(path)
    return read_file(path, max_bytes=MAX_SOURCE_BYTES, place=place, label=label), label


def _describe(data: bytes) -> str:
    brand = image_brand(data)
    if brand is not None:
        packages = {"HEIC": "pillow-heif", "AVIF": "a Pillow that reads it"}
        return f"an {brand} file; save it as JPEG or PNG, or install {packages[brand]}"
    if video_container(data) is not None:
        return "a video; send it as one"
    return "an empty file" if not data else f"{len(data)} bytes beginning {data[:8]!r}"


def check_pixels(value: Any, place: str = "max_pixels") -> int | None:
    """A number of pixels as it was given.

    Raises:
        OptionError: It is neither None nor a positive whole number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise OptionError(f"{place}: expected a whole number of at least 1, found {value!r}")
    return value


class ImagePreprocessor:
    """Images as a checkpoint's settings have them prepared.

    Args:
        directory: The checkpoint; holds preprocessor_config.json, or processor_config.json.
        vision: The tower that will take the pixels.
        recent_bytes: Room for the pixels of files that were prepared before; a conversation sends its
            images again with every turn.
        memory: Asked before an image is decoded.
    Raises:
        CheckpointError: No file says how pixels are prepared, or it contradicts config.json.
    """

    def __init__(
        self, directory: Path, vision: VisionConfig, recent_bytes: int = 0, memory: ImageMemory | None = None
    ) -> None:
        self.settings = read_image_settings(directory, vision)
        self._memory = memory or ImageMemory()
        self._recent: RecentPixels[PreparedImage] = RecentPixels(
            recent_bytes, lambda image: image.pixel_values.nbytes, self._memory.pixels
        )

    def __call__(
        self, source: Any, *, max_pixels: int | None = None, place: str = "image", **others: int | None
    ) -> PreparedImage:
        """Decode, resize and cut into patches; files seen lately are remembered by their bytes.

        Args:
            source: See `open_image`.
            max_pixels: At most this many pixels after resizing; None for the checkpoint's own limit.
            others: What else `Resizing` has.
        Raises:
            MediaError: See `open_image`; or the image is too long and thin for the model, or for `max_pixels`.
            OptionError: `max_pixels` is below the checkpoint's minimum, or below `min_pixels`.
        """
        wish = Resizing(max_pixels, **others)
        self._check(wish, place)
        decoded = _decoded(source, place)
        if decoded is not None:
            image, _, label = decoded
            return self._decode(image, wish, place, label)
        data, label = read_image_bytes(source, place)
        key = (hashlib.blake2b(data, digest_size=32).digest(), wish)
        found = self._recent.find(key)
        if found is not None:
            return found
        prepared = self._decode(read_header(data, place, label), wish, place, label)
        self._recent.keep(key, prepared)
        return prepared

    def reclaim(self, nbytes: int) -> int:
        """Give back so many bytes of pixels, as far as there are as many; returns how many it was."""
        return self._recent.reclaim(nbytes)

    def _check(self, wish: Resizing, place: str) -> None:
        """Before anything is read."""
        if wish.max_pixels is None:
            return
        if wish.max_pixels < self.settings.shortest_edge:
            raise OptionError(
                f"{place}: max_pixels: expected at least {self.settings.shortest_edge} (the checkpoint's minimum), "
                f"found {wish.max_pixels}"
            )
        if wish.max_pixels < (wish.min_pixels or 0):
            raise OptionError(
                f"{place}: min_pixels: expected at most max_pixels, {wish.max_pixels}, found {wish.min_pixels}"
            )

    def _decode(self, image: "Image", wish: Resizing, place: str, label: str) -> PreparedImage:
        """An image that may not be decoded yet; its header says how much memory that takes."""
        pixels = image.width * image.height
        wanted = (wish.resized_height or image.height) * (wish.resized_width or image.width)
        low = max(self.settings.shortest_edge, wish.min_pixels or 0)
        resized = min(max(wanted, low), wish.max_pixels or self.settings.longest_edge)
        if FULL_SIZE_PIXELS < pixels <= MAX_SOURCE_PIXELS and image.format in ("JPEG", "MPO"):
            scale = REDUCED_OVERSAMPLING * math.sqrt(resized / pixels)
            image.draft(None, (math.ceil(scale * image.width), math.ceil(scale * image.height)))
            pixels = image.width * image.height
        # Pillow has four bytes a pixel, and a copy each for turning and for the colour mode; then three channels in
        # 32 bits, and as patches of two frames, with copies.
        with self._memory.decoding(3 * 4 * pixels + 3 * 3 * 8 * resized, place):
            return self._prepare(_upright(image, place, label), wish, place)

    def _prepare(self, image: "Image", wish: Resizing, place: str) -> PreparedImage:
        settings = self.settings
        height, width = wish.resized_height or image.height, wish.resized_width or image.width
        try:
            rows, columns = settings.resized(height, width, wish.max_pixels, wish.min_pixels)
        except ValueError as error:
            raise MediaError(f"{place}: {error}") from error
        if wish.max_pixels is not None and rows * columns > wish.max_pixels:
            raise MediaError(
                f"{place}: expected a shape that fits into {wish.max_pixels} pixels, found {width} x {height}, "
                f"which takes {rows * columns}"
            )
        resized = np.asarray(to_rgb(image).resize((columns, rows), settings.resample))
        # A still image fills all frames that are seen together.
        frames = np.broadcast_to(resized, (settings.temporal_patch_size, *resized.shape))
        ordered, grid = cut_into_patches(frames, settings.patch_size, settings.merge_size)
        values = np.stack([value[ordered[:, channel]] for channel, value in enumerate(settings.values)], axis=1)
        return prepared(values.reshape(len(values), -1), grid, settings.merge_size)


def prepared(pixels: NDArray[np.float32], grid_thw: tuple[int, int, int], merge_size: int) -> PreparedImage:
    """Patches with their grid, and a hash of both."""
    digest = hashlib.blake2b(pixels.data, digest_size=16)
    digest.update("x".join(map(str, grid_thw)).encode())
    return PreparedImage(pixels, grid_thw, merged_grid(grid_thw, merge_size), digest.hexdigest())
