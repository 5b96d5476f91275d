"""Images: the same pixels as transformers, and a clear word about everything that is no image."""

import base64
import io
import json
import struct
import sys
import weakref
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from mlx_qwen35.checkpoints.config import VisionConfig
from mlx_qwen35.errors import CheckpointError, MediaError, OptionError
from mlx_qwen35.prompts.images import (
    ImageMemory,
    ImagePreprocessor,
    PreparedImage,
    check_pixels,
    open_image,
)
from tests.tiny import write_processor


@pytest.fixture
def preprocessor(tmp_path: Path, vision: VisionConfig) -> ImagePreprocessor:
    write_processor(tmp_path)
    return ImagePreprocessor(tmp_path, vision)


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(seed))
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (31, 200), (500, 333), (20, 20), (640, 40), (1024, 768)])
def test_pixels_equal_transformers(preprocessor: ImagePreprocessor, tmp_path: Path, size: tuple[int, int]) -> None:
    """Grids equal, pixels to 1e-6, against Qwen2VLImageProcessorPil from the same file."""
    from transformers import Qwen2VLImageProcessorPil

    image = noise(*size)
    expected = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[image], return_tensors="np")
    prepared = preprocessor(image)
    assert prepared.grid_thw == tuple(expected["image_grid_thw"][0])
    np.testing.assert_allclose(prepared.pixel_values, expected["pixel_values"], atol=1e-6, rtol=0)
    t, h, w = prepared.grid_thw
    assert prepared.merged_grid_thw == (t, h // 2, w // 2)
    assert prepared.tokens == t * h * w // 4


def test_every_kind_of_source_gives_the_same_image(preprocessor: ImagePreprocessor, tmp_path: Path) -> None:
    image = noise(96, 64)
    data = encoded(image)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    quoted = url.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D").replace("image%2Fpng", "image/png")
    assert quoted != url
    sources = [image, data, path, str(path), path.as_uri(), url, quoted, bytearray(data), memoryview(data)]
    hashes = {preprocessor(source).content_hash for source in sources}
    assert len(hashes) == 1
    assert preprocessor(noise(96, 64, seed=1)).content_hash not in hashes


def test_the_hash_knows_the_shape(preprocessor: ImagePreprocessor) -> None:
    """Two grids of one colour have the same pixels in another arrangement."""
    wide, tall = (preprocessor(Image.new("RGB", size, "red")) for size in ((128, 64), (64, 128)))
    assert wide.pixel_values.tobytes() == tall.pixel_values.tobytes()
    assert wide.content_hash != tall.content_hash


# By the sides that the first row and the first column of the file show, as the standard defines them.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(preprocessor: ImagePreprocessor, orientation: int) -> None:
    """Against a picture turned by hand; also where the caller opened the file."""
    image = noise(128, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    turned = UPRIGHT[orientation](np.asarray(image))
    np.testing.assert_array_equal(np.asarray(open_image(data, "image")), turned)
    prepared = preprocessor(data)
    assert prepared.grid_thw == ((1, 4, 8) if orientation < 5 else (1, 8, 4))
    assert prepared.content_hash == preprocessor(Image.fromarray(turned)).content_hash
    with Image.open(io.BytesIO(data)) as opened:
        assert preprocessor(opened).content_hash == prepared.content_hash


def test_transparency_is_composed_on_white(preprocessor: ImagePreprocessor) -> None:
    """RGBA and a palette with a transparent entry; dropping alpha would show black."""
    rgba = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    data = encoded(palette, "PNG", transparency=0)
    white = preprocessor(Image.new("RGB", (64, 64), "white")).content_hash
    assert preprocessor(rgba).content_hash == white
    assert preprocessor(data).content_hash == white
    half = preprocessor(Image.new("RGBA", (64, 64), (0, 0, 0, 128)))
    assert np.allclose(half.pixel_values, 127 / 127.5 - 1, atol=0.02)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "LA", "YCbCr"])
def test_other_modes_become_rgb(preprocessor: ImagePreprocessor, mode: str) -> None:
    prepared = preprocessor(noise(64, 64).convert(mode))
    assert prepared.pixel_values.shape == (16, 3 * 2 * 16 * 16)


def deep(dtype: Any, low: float, high: float) -> Image.Image:
    """Grey values of more than eight bits, in the mode that Pillow has for their type."""
    values = np.random.Generator(np.random.PCG64(0)).uniform(low, high, (64, 96))
    return Image.fromarray(values.astype(dtype))


DEEP = {
    "I;16": deep(np.uint16, 0, 300), "I;16 bright": deep(np.uint16, 0, 2**16), "I": deep(np.int32, -50, 300),
    "I dark": deep(np.int32, 0, 9), "F": deep(np.float32, -50, 300), "F of parts": deep(np.float32, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("image", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("kind", ["PIL", "TIFF", "PNG"])
def test_deeper_modes_are_read_as_transformers_reads_them(
    preprocessor: ImagePreprocessor, tmp_path: Path, image: Image.Image, kind: str
) -> None:
    """Its image processor on the same file: values are clipped to 0 to 255, and not scaled."""
    from transformers import Qwen2VLImageProcessorPil

    if kind == "PNG" and image.mode == "F":
        image = image.convert("I")
    if kind == "PNG" and image.mode == "I":
        image = Image.fromarray(np.asarray(image).clip(0, 2**16 - 1).astype(np.uint16))
    read = image if kind == "PIL" else Image.open(io.BytesIO(encoded(image, kind)))
    assert read.mode == image.mode
    expected = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[read], return_tensors="np")
    found = preprocessor(image if kind == "PIL" else encoded(image, kind))
    np.testing.assert_array_equal(found.pixel_values, expected["pixel_values"])


def test_a_pixel_budget_is_kept(preprocessor: ImagePreprocessor) -> None:
    image = noise(256, 256)
    assert preprocessor(image).tokens == 64
    assert preprocessor(image, max_pixels=128 * 128).tokens == 16
    assert preprocessor(image, max_pixels=32 * 32).tokens == 1
    with pytest.raises(OptionError, match=r"max_pixels: expected at least 1024 .*, found 100"):
        preprocessor(image, max_pixels=100)


def test_an_image_may_have_a_size_of_its_own(preprocessor: ImagePreprocessor) -> None:
    """As by qwen-vl-utils 0.0.14's fetch_image; there its own size is not bounded by the others."""
    image = noise(96, 64)
    assert preprocessor(image).grid_thw == (1, 4, 6)
    assert preprocessor(image, min_pixels=128 * 128).grid_thw == (1, 8, 10)
    assert preprocessor(image, resized_height=200, resized_width=90).grid_thw == (1, 12, 6)
    assert preprocessor(image, resized_height=200, resized_width=90, max_pixels=64 * 64).grid_thw == (1, 4, 2)
    assert preprocessor(image, resized_width=160).grid_thw == (1, 4, 10)
    with pytest.raises(OptionError, match="^image: min_pixels: expected at most max_pixels, 4096, found 5000"):
        preprocessor(image, min_pixels=5000, max_pixels=4096)


def bomb(width: int, height: int) -> bytes:
    """A PNG that announces far more pixels than it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animation() -> bytes:
    return encoded(noise(32, 32), "GIF", save_all=True, append_images=[noise(32, 32, seed=1), noise(32, 32, seed=2)])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", r"0 bytes: expected an image file \(PNG, JPEG, WEBP, GIF, BMP, TIFF\), found an empty file"),
        (b"not an image at all", r"expected an image file .*, found 19 bytes beginning b'not an i'"),
        (encoded(noise(64, 64))[:300], r"300 bytes: the image is damaged"),
        *(
            (beginning + bytes(40), r"bytes: the image is damaged, or of a kind that Pillow does not read")
            for beginning in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\2", b"II*\0\x08\0\0\0")
        ),
        (bomb(30000, 30000), r"178956970 pixels"),
        (bomb(17000, 12000), r"178956970 pixels"),
        (animation(), r"expected a still image, found an animation; send it as a video, or save the frame"),
        ("/nowhere/picture.png", r"/nowhere/picture.png: No such file or directory"),
        ("https://example.com/a.png", r"found https: URL; images are not fetched from the network"),
        ("data:image/png,abc", r"data URL: expected 'data:image/...;base64,...'"),
        ("data:image/png;base64,?", r"data URL: expected base64"),
        ("data:image/png;base64,é", r"data URL: expected base64"),
        (42, r"expected a path, bytes, data URL or PIL image, found int"),
        (noise(3000, 10), r"absolute aspect ratio must be smaller than 200"),
    ],
)
def test_bad_images_are_refused_with_their_place(preprocessor: ImagePreprocessor, source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=rf"^messages\[0\].*{message}"):
        preprocessor(source, place="messages[0].content[1]")


def test_a_picture_in_memory_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of so many pixels are refused by Pillow as well, unless its limit was lifted."""
    monkeypatch.setattr("mlx_qwen35.prompts.images.MAX_SOURCE_PIXELS", 64 * 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(noise(64, 64), "image").size == (64, 64)
    for source in (noise(64, 65), encoded(noise(65, 64))):
        with pytest.raises(MediaError, match=r"expected at most 4096 pixels, found 6[45] x 6[45]"):
            open_image(source, "image")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"


@pytest.mark.parametrize("kind", ["DDS", "ICO", "JPEG2000", "PPM", "TGA", "EPS"])
def test_only_the_documented_formats_are_decoded(kind: str) -> None:
    """Pillow hands EPS to whatever is called gs."""
    data = EPS if kind == "EPS" else encoded(noise(32, 32), kind)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format in (kind, "ICO")  # it is one
    with pytest.raises(MediaError, match=r"expected an image file \(PNG, JPEG, WEBP, GIF, BMP, TIFF\), found"):
        open_image(data, "image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_documented_formats_are_decoded(kind: str) -> None:
    assert open_image(encoded(noise(32, 24), kind), "image").size == (32, 24)


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), struct.error("x"), ZeroDivisionError("x"), EOFError()]
)
@pytest.mark.parametrize("method", ["load", "getexif"])
def test_whatever_a_decoder_raises_the_image_is_damaged(
    monkeypatch: pytest.MonkeyPatch, error: Exception, method: str
) -> None:
    def stumble(image: Image.Image) -> None:
        raise error

    data = encoded(noise(32, 32))
    monkeypatch.setattr(Image.Image, method, stumble)
    with pytest.raises(MediaError, match=r"image: \d+ bytes: the image is damaged \('?[xE]"):
        open_image(data, "image")


def test_a_damaged_orientation_is_refused() -> None:
    """EXIF is TIFF inside; one whose offset leads nowhere."""
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    with pytest.raises(MediaError, match=r"the image is damaged"):
        open_image(encoded(noise(32, 32), "JPEG", exif=exif), "image")


def test_only_enormous_jpegs_are_decoded_at_a_reduced_size(
    preprocessor: ImagePreprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model sees the same shape and nearly the same pixels, for a part of the memory."""
    weighed: list[int] = []
    monkeypatch.setattr(preprocessor._memory, "decoding", lambda nbytes, place: weighed.append(nbytes) or nullcontext())
    smooth = noise(8, 5).resize((1600, 1000), Image.Resampling.BICUBIC)
    files = {kind: encoded(smooth, kind) for kind in ("JPEG", "PNG")}
    whole = {kind: preprocessor(data) for kind, data in files.items()}
    preprocessor.reclaim(2**40)
    monkeypatch.setattr("mlx_qwen35.prompts.images.FULL_SIZE_PIXELS", 1600 * 1000 - 1)
    reduced = {kind: preprocessor(data) for kind, data in files.items()}
    assert reduced["PNG"].content_hash == whole["PNG"].content_hash
    assert reduced["JPEG"].content_hash != whole["JPEG"].content_hash
    assert reduced["JPEG"].grid_thw == whole["JPEG"].grid_thw
    assert np.abs(reduced["JPEG"].pixel_values - whole["JPEG"].pixel_values).mean() < 0.02
    assert weighed[0] == weighed[1] == weighed[3]
    assert weighed[2] < weighed[0] / 1.5


def test_settings_may_stand_in_the_newer_file(tmp_path: Path, vision: VisionConfig) -> None:
    """transformers 5 nests the image processor in processor_config.json."""
    write_processor(tmp_path)
    old = tmp_path / "preprocessor_config.json"
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(old.read_text())}))
    expected = ImagePreprocessor(tmp_path, vision)(noise(300, 200)).content_hash
    old.unlink()
    assert ImagePreprocessor(tmp_path, vision)(noise(300, 200)).content_hash == expected


def test_missing_or_contradicting_settings_are_refused(tmp_path: Path, vision: VisionConfig) -> None:
    with pytest.raises(CheckpointError, match=r"expected preprocessor_config.json .* found none"):
        ImagePreprocessor(tmp_path, vision)
    write_processor(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    for name, right, wrong in (("patch_size", 16, 14), ("temporal_patch_size", 2, 1), ("merge_size", 2, 3)):
        path.write_text(json.dumps(settings | {name: wrong}))
        with pytest.raises(CheckpointError, match=rf"expected {name} {right} as in config.json, found {wrong}"):
            ImagePreprocessor(tmp_path, vision)


def test_limits_may_have_their_older_names(tmp_path: Path, vision: VisionConfig) -> None:
    write_processor(tmp_path)
    expected = ImagePreprocessor(tmp_path, vision)(noise(640, 480))
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    size = settings.pop("size")
    path.write_text(json.dumps(settings | {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}))
    assert ImagePreprocessor(tmp_path, vision)(noise(640, 480)).content_hash == expected.content_hash


def test_a_phone_s_second_picture_is_no_animation(preprocessor: ImagePreprocessor) -> None:
    """MPO: a JPEG with a depth map or a second view behind the photograph."""
    image = noise(64, 64)
    data = encoded(image, "MPO", save_all=True, append_images=[noise(64, 64, seed=1)])
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "is_animated", False)
    assert preprocessor(data).content_hash == preprocessor(encoded(image, "JPEG")).content_hash


@pytest.mark.parametrize("kinds", [[1], [1, 1], [4], [1, 5]], ids=["smaller", "two smaller", "a mask", "its mask"])
def test_a_tiff_file_may_hold_smaller_copies_and_masks(preprocessor: ImagePreprocessor, kinds: list[int]) -> None:
    """As scanners, maps and slides have it; the picture before them is the whole."""
    image = noise(96, 64)
    data = tiff(image, *kinds)
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "is_animated", False)
        assert preprocessor(opened).content_hash == preprocessor(image).content_hash
    assert preprocessor(data).content_hash == preprocessor(image).content_hash


@pytest.mark.parametrize("kinds", [[0], [2], [1, 0]])
def test_a_tiff_file_of_several_pages_is_told_so(preprocessor: ImagePreprocessor, kinds: list[int]) -> None:
    """It is no video, and would be refused as one with the advice to send it as an image."""
    with pytest.raises(MediaError, match=r"found one of several pages; save the page you mean as an image of its own$"):
        preprocessor(tiff(noise(96, 64), *kinds))


def test_an_animation_that_is_no_video_here_is_not_sent_back_and_forth(preprocessor: ImagePreprocessor) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = encoded(noise(32, 32), "AVIF", save_all=True, append_images=[noise(32, 32, seed=1)])
    with pytest.raises(MediaError, match="found an animation; save the frame you mean as an image of its own$"):
        preprocessor(data)


def tiff(image: Image.Image, *kinds: int) -> bytes:
    """A picture in a file with further ones, whose NewSubfileType is given."""
    further = [noise(48, 32, seed=number) for number, _ in enumerate(kinds)]
    for picture, kind in zip(further, kinds, strict=True):
        picture.encoderinfo = {"tiffinfo": {254: kind}}
    return encoded(image, "TIFF", save_all=True, append_images=further)


def test_wrapped_base64_is_read(preprocessor: ImagePreprocessor) -> None:
    data = encoded(noise(64, 64))
    wrapped = base64.encodebytes(data).decode()
    assert "\n" in wrapped
    assert preprocessor(f"data:image/png;base64,{wrapped}").content_hash == preprocessor(data).content_hash


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.new("RGB", (0, 5)), r"expected an image, found 0 x 5 pixels"),
        (Image.new("RGB", (5, 0)), r"expected an image, found 5 x 0 pixels"),
        ("a\0b.png", r"expected a path, found a zero byte"),
        ("A" * 300_000, r"A{40}\.\.\.A{40} \(300000 characters\)"),
        ("/dev/null", r"expected an image file, found a directory or a device"),
        ("/tmp", r"expected an image file, found a directory or a device"),
        ("~nobody-of-this-name/a.png", r"image: ~nobody"),
        *(
            (b"\0\0\0\x18ftyp" + brand + bytes(40), r"found an HEIC file; save it as JPEG or PNG, or install pillow")
            for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")
        ),
        (b"\0\0\0\x18ftypmp42" + bytes(40), r"found a video; send it as one"),
    ],
    ids=[
        "no width",
        "no height",
        "zero byte",
        "bare base64",
        "device",
        "directory",
        "unknown user",
        "HEIC",
        "HEIC of 10 bits",
        "HEIC of several",
        "HEIF",
        "HEIF of several",
        "MP4",
    ],
)
def test_more_sources_that_are_no_image(preprocessor: ImagePreprocessor, source: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        preprocessor(source)
    assert len(str(caught.value)) < 300


def test_a_budget_that_the_shape_cannot_keep_is_refused(preprocessor: ImagePreprocessor) -> None:
    """transformers' resizing keeps the sides at least one patch wide, and so goes over the budget."""
    with pytest.raises(MediaError, match=r"expected a shape that fits into 4096 pixels, found 3000 x 20, which takes"):
        preprocessor(noise(3000, 20), max_pixels=64 * 64)


@pytest.mark.parametrize("value", [0, -1, 4096.5, "64", True, float("nan")])
def test_budgets_that_are_no_number_of_pixels_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="max_pixels: expected a whole number of at least 1"):
        check_pixels(value)


def test_settings_without_sizes_are_refused(tmp_path: Path, vision: VisionConfig) -> None:
    """transformers would take limits of another model."""
    write_processor(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["size"]
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="expected preprocessor_config.json with the image sizes"):
        ImagePreprocessor(tmp_path, vision)


def test_patches_are_cut_as_the_tower_reads_them(preprocessor: ImagePreprocessor) -> None:
    """Against loops: 2 x 2 patches that merge stand together; in a patch channel, frame, row, column."""
    image = noise(96, 64)
    values = (np.asarray(image).astype(np.float64) / 255 - 0.5) / 0.5
    rows = []
    for block_y in range(2):
        for block_x in range(3):
            for y in range(2):
                for x in range(2):
                    top, left = 16 * (2 * block_y + y), 16 * (2 * block_x + x)
                    patch = values[top : top + 16, left : left + 16].transpose(2, 0, 1)
                    rows.append(np.stack([patch, patch], axis=1).ravel())
    np.testing.assert_allclose(preprocessor(image).pixel_values, np.stack(rows), atol=1e-6)


@pytest.fixture
def remembering(tmp_path: Path, vision: VisionConfig) -> Callable[[int], ImagePreprocessor]:
    """Makes preprocessors with room for so many bytes of pixels."""
    write_processor(tmp_path)
    return lambda room: ImagePreprocessor(tmp_path, vision, room)


def test_a_file_seen_lately_is_not_decoded_again(
    remembering: Callable[[int], ImagePreprocessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by its bytes, wherever they come from."""
    data = encoded(noise(96, 64))
    (tmp_path / "a.png").write_bytes(data)
    preprocessor = remembering(2**24)
    first = preprocessor(data)
    other = preprocessor(encoded(noise(96, 64, seed=1)))
    assert other.content_hash != first.content_hash
    monkeypatch.setattr("mlx_qwen35.prompts.images.read_header", lambda *_: pytest.fail("decoded again"))
    assert preprocessor(data) is preprocessor(tmp_path / "a.png") is first


def test_every_pixel_budget_has_pixels_of_its_own(remembering: Callable[[int], ImagePreprocessor]) -> None:
    preprocessor, data = remembering(2**24), encoded(noise(256, 256))
    budgets = [None, 128 * 128, None, 64 * 64, 128 * 128]
    assert [preprocessor(data, max_pixels=budget).tokens for budget in budgets] == [64, 16, 64, 4, 16]


def test_what_is_remembered_is_bounded_and_the_least_recently_used_goes(
    remembering: Callable[[int], ImagePreprocessor],
) -> None:
    """Five files in room for two and a half, of which the first is looked at again and again."""
    files = [encoded(noise(96, 64, seed=seed)) for seed in range(5)]
    size = remembering(0)(files[0]).pixel_values.nbytes
    preprocessor = remembering(5 * size // 2)
    kept: list[weakref.ref[PreparedImage]] = []
    for number, data in enumerate(files):
        kept.append(weakref.ref(preprocessor(data)))
        assert sum(image().pixel_values.nbytes for image in kept if image() is not None) <= 5 * size // 2
        assert preprocessor(files[0]) is kept[0]()
        assert [at for at, image in enumerate(kept) if image() is not None] == sorted({0, number})


def test_without_room_nothing_is_remembered(remembering: Callable[[int], ImagePreprocessor]) -> None:
    preprocessor = remembering(0)
    image = weakref.ref(preprocessor(encoded(noise(96, 64))))
    assert image() is None


def test_a_file_too_large_is_refused_unread(
    preprocessor: ImagePreprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(512 * 2**20 + 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
        with pytest.raises(MediaError, match="expected at most 536870912 bytes, found 536870913"):
            preprocessor(path)
    data = encoded(noise(64, 64))
    path.write_bytes(data)
    monkeypatch.setattr("mlx_qwen35.prompts.images.MAX_SOURCE_BYTES", len(data))
    assert preprocessor(path).content_hash == preprocessor(data).content_hash


def test_avif_is_read_where_pillow_reads_it(preprocessor: ImagePreprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("needs a Pillow with AVIF")
    data = encoded(noise(96, 64), "AVIF", quality=100)
    with Image.open(io.BytesIO(data)) as opened:
        expected = preprocessor(opened.convert("RGB"))
    assert preprocessor(data).content_hash == expected.content_hash
    # What libraries of old write, and may: the general name first, AVIF's behind it.
    assert preprocessor(data[:8] + b"mif1" + data[12:]).content_hash == expected.content_hash
    with pytest.raises(MediaError, match=r"the image is damaged, or of a kind that Pillow does not read"):
        open_image(data[:32], "image")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(MediaError, match=r"found an AVIF file; save it as JPEG or PNG, or install a Pillow that reads"):
        open_image(data, "image")


@pytest.mark.parametrize("registered", [True, False], ids=["its own plug-in", "a package that is installed"])
def test_heic_is_read_where_a_plug_in_reads_it(
    preprocessor: ImagePreprocessor, monkeypatch: pytest.MonkeyPatch, registered: bool
) -> None:
    """One that takes what lies behind the brand for a PNG with a second picture."""
    image = noise(96, 64)
    data = b"\0\0\0\x18ftypheic" + encoded(image)

    def heif(file: Any, name: str) -> Any:
        picture: Any = Image.open(io.BytesIO(file.read()[12:])).copy()
        picture.format, picture.is_animated = "HEIF", True
        return picture

    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", (heif, lambda prefix: prefix[4:8] == b"ftyp"))

    module: Any = ModuleType("pillow_heif")
    module.register_heif_opener = register
    monkeypatch.setitem(sys.modules, "pillow_heif", None if registered else module)
    if registered:
        register()
    assert preprocessor(data).content_hash == preprocessor(image).content_hash


class Weighing(ImageMemory):
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []
        self.kept: list[int] = []

    def decoding(self, nbytes: int, place: str) -> AbstractContextManager[None]:
        self.asked.append((nbytes, place))
        return nullcontext()

    def pixels(self, nbytes: int) -> None:
        self.kept.append(nbytes)


def test_the_memory_of_decoding_is_asked_for_by_what_the_header_says(tmp_path: Path, vision: VisionConfig) -> None:
    """Twelve bytes a pixel of the file, and seventy-two of what it is resized to, which may be more."""
    write_processor(tmp_path)
    memory = Weighing()
    preprocessor = ImagePreprocessor(tmp_path, vision, 2**24, memory)
    shortest, longest = preprocessor.settings.shortest_edge, preprocessor.settings.longest_edge
    assert shortest > 20 * 20
    sizes = [((20, 20), None, shortest), ((96, 64), None, 96 * 64), ((256, 256), 64 * 64, 64 * 64)]
    for number, (size, budget, resized) in enumerate(sizes):
        preprocessor(encoded(noise(*size)), max_pixels=budget, place=f"image {number}")
        assert memory.asked[-1] == (12 * size[0] * size[1] + 72 * min(resized, longest), f"image {number}")
    assert len(memory.asked) == 3
    assert memory.kept[-1] > 0


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_enormous_photographs_keep_twice_what_the_model_sees_in_each_direction(
    preprocessor: ImagePreprocessor, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """By halves, quarters or eighths, as the format allows; a phone's with a second picture too."""
    decoded: list[tuple[int, int]] = []
    monkeypatch.setattr("mlx_qwen35.prompts.images.to_rgb", lambda image: decoded.append(image.size) or image)
    monkeypatch.setattr("mlx_qwen35.prompts.images.FULL_SIZE_PIXELS", 512 * 512 - 1)
    options = {"save_all": True, "append_images": [noise(64, 64)]} if kind == "MPO" else {}
    data = encoded(noise(512, 512), kind, **options)
    for side, expected in ((256, 512), (128, 256), (64, 128), (32, 64)):
        preprocessor(data, max_pixels=side * side)
        assert decoded[-1] == (expected, expected)


def test_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(32, 32))

    def fail(image: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        open_image(data, "image")


def test_schemes_may_be_written_in_capitals(tmp_path: Path) -> None:
    data = encoded(noise(32, 24))
    (tmp_path / "a.png").write_bytes(data)
    url = f"DATA:image/png;base64,{base64.b64encode(data).decode()}"
    for source in (url, (tmp_path / "a.png").as_uri().replace("file:", "FILE:")):
        assert open_image(source, "image").size == (32, 24)


def test_a_stream_is_read_up_to_what_an_image_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(noise(32, 24))
    monkeypatch.setattr("mlx_qwen35.prompts.images.MAX_SOURCE_BYTES", len(data))
    assert open_image(io.BytesIO(data), "image").size == (32, 24)
    with pytest.raises(MediaError, match="image: .*expected at most"):
        open_image(io.BytesIO(data + b"\0"), "image")


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3)], ids=str)
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match=r"expected an array of shape \(H, W, 3\) .*, found one of shape "):
        open_image(np.zeros(shape, np.uint8), "image")


def test_pixels_cannot_be_written(preprocessor: ImagePreprocessor) -> None:
    """Prompts share them."""
    with pytest.raises(ValueError, match="read-only"):
        preprocessor(noise(64, 64)).pixel_values[0, 0] = 1.0


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_the_checkpoint_s_filter_is_used(tmp_path: Path, vision: VisionConfig, resample: int) -> None:
    """Against Qwen2VLImageProcessorPil from the same file, to 1e-6."""
    from transformers import Qwen2VLImageProcessorPil

    write_processor(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": resample}))
    image = noise(100, 70)
    expected = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)(images=[image], return_tensors="np")
    found = ImagePreprocessor(tmp_path, vision)(image)
    np.testing.assert_allclose(found.pixel_values, expected["pixel_values"], atol=1e-6, rtol=0)


def test_avif_that_pillow_was_built_without_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    if not features.check("avif"):
        pytest.skip("needs a Pillow with AVIF")
    from PIL import AvifImagePlugin

    data = encoded(noise(96, 64), "AVIF", quality=100)
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(MediaError, match="found an AVIF file"):
        open_image(data, "image")
