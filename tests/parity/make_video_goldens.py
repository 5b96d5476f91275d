"""Write the golden file of videos: what transformers' own classes make of every case.

They need torchvision, and the tests do not; in an environment of their own:

pip install torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 pillow safetensors
python -m tests.parity.make_video_goldens
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.video_utils import VideoMetadata

from tests.parity.video_cases import CASES, PROMPTS, PUBLISHED, RATES, SAMPLINGS, TOTALS, VideoCase, sizes
from tests.tiny import write_processor, write_tokenizer

GOLDEN = Path(__file__).parent / "goldens" / "videos.npz"


def processor_of(settings: dict[str, Any]) -> Qwen3VLVideoProcessor:
    """Read from a checkpoint's file, as transformers reads it."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "video_preprocessor_config.json").write_text(json.dumps(settings))
        return Qwen3VLVideoProcessor.from_pretrained(
            root, cap_pixels_per_frame=settings.get("cap_pixels_per_frame", False)
        )


def metadata_of(case: VideoCase) -> dict[str, Any]:
    """What a caller says about a video."""
    return {
        "total_num_frames": case.shape[0], "fps": case.fps or 2.0, "frames_indices": list(range(case.shape[0])),
    }  # fmt: skip


def pixels_of(case: VideoCase) -> dict[str, np.ndarray]:
    """Grid, patches and times; patches as the bytes that they were before they were normalised, which loses nothing."""
    processor = processor_of(case.settings)
    found = processor(
        [case.frames()], video_metadata=[metadata_of(case)], do_sample_frames=case.fps is not None,
        return_metadata=True, return_tensors="np",
    )  # fmt: skip
    patches = np.asarray(found["pixel_values_videos"])
    mean, std = (
        np.repeat(np.asarray(case.settings[name], dtype=np.float64), patches.shape[1] // 3)
        for name in ("image_mean", "image_std")
    )
    values = ((patches * std + mean) * 255).round()
    assert np.abs((values / 255 - mean) / std - patches).max() < 1e-6
    metadata = found["video_metadata"][0]
    helper = Qwen3VLProcessor._calculate_timestamps
    times = helper(None, list(metadata.frames_indices), metadata.fps, processor.temporal_patch_size)
    return {
        "pixels": values.astype(np.uint8), "grid": np.asarray(found["video_grid_thw"][0], dtype=np.int32),
        "times": np.asarray(times),
    }  # fmt: skip


def ids_of(text: str, videos: list[str], images: list[tuple[int, int]], processor: Qwen3VLProcessor) -> np.ndarray:
    """A prompt's ids, placeholders and times written out."""
    sampled = [CASES[name].fps is not None for name in videos]
    arrays, metadata = [], []
    for name, wanted in zip(videos, sampled, strict=True):
        case, frames, said = CASES[name], CASES[name].frames(), metadata_of(CASES[name])
        if wanted:
            said["frames_indices"] = processor.video_processor.sample_frames(
                VideoMetadata(total_num_frames=case.shape[0], fps=case.fps)
            ).tolist()
            frames = frames[said["frames_indices"]]
        arrays.append(frames)
        metadata.append(said)
    found = processor(
        text=[text], images=[np.zeros((*size, 3), np.uint8) for size in images] or None, videos=arrays,
        video_metadata=metadata, do_sample_frames=False, return_tensors="np",
    )  # fmt: skip
    return np.asarray(found["input_ids"][0], dtype=np.int32)


def resized_to(settings: dict[str, Any]) -> np.ndarray:
    """Height and width after resizing, zeros where the reference refuses."""
    processor, found = processor_of(settings), []
    size = settings["size"]
    for t, h, w in sizes():
        limit = size["longest_edge"]
        if settings.get("cap_pixels_per_frame"):
            # `Qwen3VLVideoProcessor.resize`, which computes it before it resizes.
            cap = min(processor.max_video_tokens * 32 * 32, limit // t)
            limit = max(cap, int(size["shortest_edge"] * 1.05)) * t
        try:
            found.append(smart_resize(t, h, w, 2, 32, size["shortest_edge"], limit))
        except ValueError:
            found.append((0, 0))
            continue
        patches = processor.get_num_of_video_patches(t, h, w, settings)
        assert patches == (t + t % 2) // 2 * found[-1][0] * found[-1][1] // 256
    return np.asarray(found, dtype=np.int32)


def main() -> None:
    """Overwrite the golden file."""
    arrays: dict[str, np.ndarray] = {}
    for name, case in CASES.items():
        arrays |= {f"{name}/{part}": value for part, value in pixels_of(case).items()}
    processor = processor_of(PUBLISHED)
    for fps, low, high in SAMPLINGS:
        rows = []
        for total in TOTALS:
            for rate in RATES:
                processor.min_frames, processor.max_frames = low, high
                indices = processor.sample_frames(VideoMetadata(total_num_frames=total, fps=rate), fps=fps)
                rows.append([len(indices), *np.asarray(indices)[:: max(1, len(indices) // 8)][:8].tolist()])
        arrays[f"sampled/{fps}"] = np.asarray([row + [-1] * (9 - len(row)) for row in rows], dtype=np.int32)
    for capped in (False, True):
        settings = PUBLISHED | {"size": {"longest_edge": 2**22, "shortest_edge": 2**16}, "cap_pixels_per_frame": capped}
        arrays[f"resized/{capped}"] = resized_to(settings)
    with tempfile.TemporaryDirectory() as root:
        write_tokenizer(Path(root))
        write_processor(Path(root))
        whole = Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessorPil.from_pretrained(root),
            tokenizer=AutoTokenizer.from_pretrained(root),
            video_processor=processor_of(PUBLISHED),
        )
        for name, (text, videos, images) in PROMPTS.items():
            arrays[f"ids/{name}"] = ids_of(text, videos, images, whole)
    np.savez_compressed(GOLDEN, **arrays)  # type: ignore[arg-type]
    print(f"{len(CASES)} videos, {len(PROMPTS)} prompts, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main()
