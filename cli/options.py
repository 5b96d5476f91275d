"""Flags that several commands share, under the names of mlx-lm's and mlx-vlm's."""

import argparse
import os
import re
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_qwen35.model_kit import ModelKit

from mlx_qwen35.prompts.efforts import EFFORTS

MODEL_VARIABLE = "MLX_QWEN35_MODEL"
KEY_VARIABLE = "MLX_QWEN35_API_KEY"


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint."""
    parser.add_argument(
        "--model",
        help=f"checkpoint directory or hub id; default: {MODEL_VARIABLE}, or the small model in the package",
    )


def model_of(options: argparse.Namespace) -> str:
    """The checkpoint that the flags or the environment name, or the one in the package, with a notice."""
    from mlx_qwen35.checkpoints.files import BOX

    model = options.model or os.environ.get(MODEL_VARIABLE)
    if model:
        return str(model)
    print(
        "mlx-qwen35: no model named, so this is the small one in the package, which knows shapes and digits; "
        f"name another with --model or {MODEL_VARIABLE}",
        file=sys.stderr,
    )
    return str(BOX)


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, and how it is loaded."""
    add_model_name(parser)
    parser.add_argument("--adapter-path", help="directory of an adapter made by mlx_lm.lora, mlx-vlm or peft")
    parser.add_argument("--max-pixels", type=int, help="at most this many pixels per image after resizing")
    parser.add_argument(
        "--prompt-cache-bytes",
        type=size,
        metavar="SIZE",
        help="memory for what was read before, like 512MB or 4GB; 0 remembers nothing; default: an eighth of all",
    )
    parser.add_argument(
        "--prompt-cache-dir", metavar="DIRECTORY", help="where conversations go that memory has no room for"
    )
    parser.add_argument("--max-context", type=int, help="at most this many tokens in a prompt and its answer")
    parser.add_argument(
        "--memory-limit", type=size, metavar="SIZE", help="at most this much memory in all; default: what there is"
    )
    parser.add_argument("--exact", action="store_true", help="text to the last bit as mlx-lm has it, and slower")
    parser.add_argument(
        "--gated-delta",
        choices=("native", "chunked", "fast"),
        help="how GDN layers read a prompt; default: the best",
    )
    parser.add_argument(
        "--speculate",
        choices=("off", "mtp", "lookup", "auto"),
        help="guess tokens ahead, which changes no answer: by the checkpoint's MTP module, by what stands in prompt "
        "and answer, by both as far as it pays; default: off",
    )
    parser.add_argument("--draft-tokens", type=int, metavar="N", help="tokens that are guessed at once, up to 7")
    parser.add_argument("--mtp-model", help="file, directory or hub id of the MTP head, in place of the model's own")


def size(text: str) -> int:
    """A number of bytes as people write it: 1000000, 512MB, 4GB (powers of ten), 4GiB (powers of two)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size like 512MB or 4GB, found {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)


def add_generation_flags(parser: argparse.ArgumentParser) -> None:
    """How an answer is written; what is not given comes from generation_config.json."""
    parser.add_argument("--max-tokens", "-m", type=int, help="at most this many tokens in the answer")
    parser.add_argument("--temp", type=float, help="temperature; 0 always takes the most likely token")
    parser.add_argument("--top-p", type=float, help="keep the most likely tokens up to this probability")
    parser.add_argument("--top-k", type=int, help="keep this many tokens")
    parser.add_argument("--min-p", type=float, help="keep tokens at least this likely relative to the best")
    parser.add_argument("--repetition-penalty", type=float, help="divide the logits of tokens already written")
    parser.add_argument("--presence-penalty", type=float, help="subtract from the logits of tokens already written")
    parser.add_argument("--frequency-penalty", type=float, help="the same, once per occurrence")
    parser.add_argument("--seed", type=int, help="make sampling repeatable")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end the answer at this text; repeatable")
    parser.add_argument("--prefill-step-size", type=int, help="tokens of the prompt that are read at once")
    parser.add_argument("--system-prompt", help="system message")
    thinking = parser.add_mutually_exclusive_group()
    thinking.add_argument("--think", action="store_true", default=None, help="let the answer begin with reasoning")
    thinking.add_argument("--no-think", dest="think", action="store_false", help="answer without reasoning")
    thinking.add_argument(
        "--reasoning-effort", choices=EFFORTS, help="how much to think; the template decides what that means"
    )


def add_media_flags(parser: argparse.ArgumentParser, where: str) -> None:
    """Pictures and videos, and how many frames of a video are shown.

    Args:
        where: What they are for.
    """
    parser.add_argument(
        "--image", action="append", default=[], metavar="PATH", help=f"an image {where}; repeatable, in order"
    )
    parser.add_argument(
        "--video", action="append", default=[], metavar="PATH", help=f"a video {where}; repeatable, behind the images"
    )
    parser.add_argument("--video-fps", type=float, metavar="N", help="frames a second of a video to show")
    parser.add_argument("--min-frames", type=int, help="frames of a video to show, at least")
    parser.add_argument("--max-frames", type=int, help="frames of a video to show, at most")


def video_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of videos, as a video part says it."""
    given = {"fps": options.video_fps, "min_frames": options.min_frames, "max_frames": options.max_frames}
    return {name: value for name, value in given.items() if value is not None}


def load_kit(options: argparse.Namespace) -> "ModelKit":
    """The kit that the flags ask for.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    from mlx_qwen35.cli.compiling import watch_compiler
    from mlx_qwen35.model_kit import ModelKit

    kit = ModelKit.load(
        model_of(options),
        adapter_path=options.adapter_path,
        max_pixels=options.max_pixels,
        prompt_cache_bytes=options.prompt_cache_bytes,
        prompt_cache_dir=options.prompt_cache_dir,
        max_context=options.max_context,
        memory_limit=options.memory_limit,
        exact=options.exact,
        gated_delta=options.gated_delta,
        speculate=options.speculate or "off",
        draft_tokens=options.draft_tokens,
        mtp_path=options.mtp_model,
    )
    watch_compiler(kit)
    return kit


def generation_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ModelKit.stream` that the flags set."""
    given = {
        "max_tokens": options.max_tokens,
        "temperature": options.temp,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
        "stop": options.stop,
        "prefill_step_size": options.prefill_step_size,
    }
    return {name: value for name, value in given.items() if value is not None}
