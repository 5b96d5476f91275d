"""Image files with bytes changed, cut, doubled and put together."""

import io
import time
import warnings
from collections import Counter
from random import Random

from PIL import Image

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import Qwen35Error
from mlx_qwen35.prompts.images import ImagePreprocessor

# With the six that are decoded, some that must not be.
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "DDS", "ICO", "JPEG2000", "PPM", "TGA")
MODES = ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "LA")
# Seconds that one small file may take.
MOST_SECONDS = 5.0


def run(seconds: float, seed: int) -> list[str]:
    """What went wrong: other exceptions than the package's own, and files that took too long."""
    vision = ModelConfig.from_file(BOX / "config.json").vision
    assert vision is not None
    preprocessor = ImagePreprocessor(BOX, vision)
    rng = Random(seed)
    files = _files(rng)
    outcomes: Counter[str] = Counter()
    problems: dict[str, str] = {}
    # What the first one has to import takes longer than many pictures.
    preprocessor(Image.new("RGB", (32, 32)))
    deadline = time.monotonic() + seconds
    # Of Pillow's, about tags that it skips.
    warnings.simplefilter("ignore", UserWarning)
    while time.monotonic() < deadline:
        data = _damage(rng, files)
        began = time.monotonic()
        try:
            preprocessor(data)
            outcomes["image"] += 1
        except Qwen35Error:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes["failed"] += 1
            problems.setdefault(type(error).__name__, f"{type(error).__name__}: {error}: {data[:400].hex()}")
        if time.monotonic() - began > MOST_SECONDS:
            problems.setdefault("slow", f"{time.monotonic() - began:.1f} s: {data[:400].hex()}")
    print(f"pictures: {dict(outcomes)}", flush=True)
    return list(problems.values())


def _files(rng: Random) -> list[bytes]:
    """Small files of every kind and mode that Pillow can write."""
    found = []
    for kind in KINDS:
        for mode in MODES:
            size = (rng.randint(1, 40), rng.randint(1, 40))
            pixels = Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))
            exif = Image.Exif()
            exif[0x0112] = rng.randint(0, 9)
            exif[0x010E] = "a description"
            file = io.BytesIO()
            try:
                pixels.convert(mode).save(file, kind, exif=exif.tobytes())
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found.append(file.getvalue())
    return found


def _damage(rng: Random, files: list[bytes]) -> bytes:
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data)) if data else 0
        how = rng.randrange(7)
        if how == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1 and data:
            data[at] = rng.choice([0, 1, 127, 128, 254, 255])
        elif how == 2:
            data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\1\0"])
        elif how == 3:
            del data[at : at + rng.randint(1, 40)]
        elif how == 4:
            data[at:at] = rng.randbytes(rng.randint(1, 40))
        elif how == 5:
            other = rng.choice(files)
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data = data[:at]
    return bytes(data)
