"""Flags that several commands share, under the names of mlx-lm's and mlx-vlm's."""

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mlx_qwen35 import ModelKit

from mlx_qwen35.cli.habits import hint
from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import shorten
from mlx_qwen35.prompts.efforts import EFFORTS

MODEL_VARIABLE = "MLX_QWEN35_MODEL"
KEY_VARIABLE = "MLX_QWEN35_API_KEY"
MODEL_HELP = f"checkpoint directory or hub id; default: {MODEL_VARIABLE}, or the small model in the package"


class Parser(argparse.ArgumentParser):
    """One whose help tells every default; what a flag does without a fixed one stands in its own words."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Defaults, **options)

    def parse_known_args(  # type: ignore[override]  # of two overloads, which is said in one
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse has it, but what a command does not know is told by that command, in one line."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            like = hint(unknown, self)
            self.exit(
                2, f"{self.prog}: unrecognized arguments: {' '.join(unknown)}{f' ({like})' if like else ''}; "
                f"{self.prog} --help has its flags\n",
            )  # fmt: skip
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """What is wrong, in one line and the words of all other errors: forty flags' usage would hide it."""
        for kind, words in (("int", "a whole number"), ("float", "a number")):
            message = message.replace(f"invalid {kind} value: ", f"expected {words}, found ")
        message = re.sub(r"invalid choice: (.*?) \(choose from (.*)\)", _wrong_choice, message)
        inside = "commands" if self._subparsers is not None else "flags"
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}; {self.prog} --help has its {inside}\n")


def _wrong_choice(match: re.Match[str]) -> str:
    # Which of them has quotes differs from one Python to the next.
    found, known = match[1].strip("'"), match[2].replace("'", "").split(", ")
    close = difflib.get_close_matches(found, known, 1)
    return f"expected one of {', '.join(known)}, found {found}{f' (did you mean {close[0]}?)' if close else ''}"


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = not action.default or "default" in (action.help or "")
        return action.help if told else super()._get_help_string(action)


def add_model_name(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint."""
    # llama.cpp's -hf would otherwise be taken for -h.
    parser.add_argument("--model", "-hf", help=MODEL_HELP)


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
    parser.add_argument(
        "--adapter-path",
        metavar="DIRECTORY",
        help="directory of an adapter made by mlx_lm.lora, mlx-vlm or peft; default: none",
    )
    parser.add_argument(
        "--chat-template", "--chat-template-file", metavar="FILE",
        help="Jinja template in place of the checkpoint's own, or its text; default: its own",
    )  # fmt: skip
    parser.add_argument(
        "--max-pixels", type=int, metavar="N",
        help="at most this many pixels per image after resizing; default: as the checkpoint has it",
    )  # fmt: skip
    parser.add_argument("--exact", action="store_true", help="text to the last bit as mlx-lm has it, and slower")
    parser.add_argument(
        "--gated-delta",
        choices=("native", "chunked", "fast"),
        help="how GDN layers read a prompt; default: the best",
    )
    parser.add_argument(
        "--speculate",
        choices=("off", "mtp", "lookup", "auto"),
        help="draft tokens, which changes no answer: by the checkpoint's MTP module, by what stands in prompt "
        "and answer, by both as far as it pays; default: auto",
    )
    parser.add_argument(
        "--draft-tokens",
        "--num-draft-tokens",
        type=int,
        metavar="N",
        help="tokens that are drafted at once, up to 7; default: 2 with mtp, else 7",
    )
    parser.add_argument(
        "--mtp-model", metavar="MODEL", help="file, directory or hub id of the MTP head; default: the model's own"
    )
    _add_memory_flags(parser)


def _add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """What is kept of what was read, in which form, and how much room there is."""
    parser.add_argument(
        "--prompt-cache-bytes",
        type=size,
        metavar="SIZE",
        help="memory for what was read before, like 512MB or 4GB; 0 remembers nothing; default: an eighth of all",
    )
    parser.add_argument(
        "--prompt-cache-dir",
        metavar="DIRECTORY",
        help="a directory that is there, for conversations that memory has no room for and for the next start; "
        "several processes may share it; default: none, they are forgotten",
    )
    parser.add_argument(
        "--prompt-cache-dir-bytes",
        type=size,
        metavar="SIZE",
        help="at most this much there; default: ten times --prompt-cache-bytes",
    )
    parser.add_argument(
        "--prompt-cache-write-bytes",
        type=size,
        metavar="SIZE",
        help="at most this much written there in an hour; default: 8GB",
    )
    parser.add_argument(
        "--max-context", type=int, metavar="N",
        help="at most this many tokens in a prompt and its answer; default: what the model was trained on",
    )  # fmt: skip
    parser.add_argument(
        "--memory-limit", type=size, metavar="SIZE", help="at most this much memory in all; default: what there is"
    )
    parser.add_argument(
        "--kv-bits", type=int, choices=(8, 4), help="keys and values with so few bits; default: as they are"
    )
    parser.add_argument(
        "--kv-group-size",
        type=int,
        choices=(32, 64, 128),
        help="elements that share a scale with --kv-bits; default: 64",
    )


def size(text: str) -> int:
    """A number of bytes as people write it: 1000000, 512MB, 4GB (powers of ten), 4GiB (powers of two)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size like 512MB or 4GB, found {text!r}")
    power = " KMGT".index(match[2].upper() or " ")
    return int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)


def add_generation_flags(parser: argparse.ArgumentParser) -> None:
    """How one answer, or those of one conversation, are written."""
    add_answer_flags(parser)
    parser.add_argument(
        "--prefill-step-size", type=int, metavar="N",
        help="tokens of the prompt that are read at once; default: 2048, on the CPU 512",
    )  # fmt: skip
    parser.add_argument("--system-prompt", metavar="TEXT", help="system message; default: none")


def add_answer_flags(parser: argparse._ActionsContainer) -> None:
    """How answers are written; what is not given comes from generation_config.json."""
    own = "default: as the checkpoint has it"
    parser.add_argument(
        "--max-tokens", "-m", type=int, metavar="N", help=f"at most this many tokens in the answer; {own}, or else 4096"
    )
    parser.add_argument(
        "--temperature", "--temp", type=float, metavar="T",
        help=f"0 always takes the most likely token; {own}, or else 0",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=float, metavar="P", help=f"keep the most likely tokens up to this probability; {own}, or else 1"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help=f"keep this many tokens; {own}, or else all")
    parser.add_argument(
        "--min-p", type=float, metavar="P",
        help=f"keep tokens at least this likely relative to the best; {own}, or else 0",
    )  # fmt: skip
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="X",
        help=f"divide the logits of tokens already written; {own}, or else 1",
    )  # fmt: skip
    parser.add_argument(
        "--presence-penalty", type=float, metavar="X",
        help="subtract from the logits of tokens already written; default: 0",
    )  # fmt: skip
    parser.add_argument(
        "--frequency-penalty", type=float, metavar="X", help="the same, once per occurrence; default: 0"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="make sampling repeatable; default: another each time")
    parser.add_argument(
        "--stop", action="append", metavar="TEXT", help="end the answer at this text; repeatable; default: none"
    )
    _add_thinking_flags(parser)


def _add_thinking_flags(parser: argparse._ActionsContainer) -> None:
    """Whether answers begin with reasoning, and what else the chat template may be told."""
    thinking = parser.add_mutually_exclusive_group()
    thinking.add_argument(
        "--think",
        "--enable-thinking",
        action="store_true",
        default=None,
        help="let the answer begin with reasoning; default: as the chat template has it",
    )
    thinking.add_argument(
        "--no-think", dest="think", action="store_false", default=None, help="answer without reasoning"
    )
    thinking.add_argument(
        "--reasoning-effort",
        choices=EFFORTS,
        metavar="LEVEL",  # all of them are wider than a terminal
        help=f"how much to think: {', '.join(EFFORTS)}; the template decides what that means; default: not said",
    )
    parser.add_argument(
        "--thinking-budget", type=int, metavar="N",
        help="at most this many tokens of reasoning; default: what the effort says, or no limit",
    )  # fmt: skip
    # The further names are those of mlx_lm.server, mlx_lm.generate and vLLM.
    parser.add_argument(
        "--chat-template-kwargs", "--chat-template-args", "--chat-template-config", "--default-chat-template-kwargs",
        type=variables, default={}, metavar="JSON",
        help='variables of the chat template, like \'{"preserve_thinking": true}\'; default: none',
    )  # fmt: skip


def variables(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {shorten(repr(text))}")
    return found


def rendering_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ModelKit.process_prompt` that the flags set.

    Raises:
        OptionError: Flags contradict each other.
    """
    template = dict(options.chat_template_kwargs)
    think, effort = options.think, options.reasoning_effort
    if "enable_thinking" in template:
        wanted = template.pop("enable_thinking")
        if not isinstance(wanted, bool) or effort is not None or think not in (None, wanted):
            raise OptionError("chat_template_kwargs: expected one word on whether to think, and true or false")
        think = wanted
    if effort is None and template.get("reasoning_effort") in EFFORTS:
        # As an effort a request may say otherwise.
        effort = template.pop("reasoning_effort")
    return {"enable_thinking": think, "reasoning_effort": effort, "chat_template_kwargs": template}


def video_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of videos, as a video part says it."""
    given = {"fps": options.video_fps, "min_frames": options.min_frames, "max_frames": options.max_frames}
    return {name: value for name, value in given.items() if value is not None}


def load_kit(options: argparse.Namespace) -> "ModelKit":
    """The kit that the flags ask for.

    Raises:
        CheckpointError: It cannot be loaded.
        OptionError: Its chat template has no such variables.
    """
    from mlx_qwen35 import ModelKit
    from mlx_qwen35.cli.compiling import watch_compiler

    kit = ModelKit.load(
        model_of(options),
        adapter_path=options.adapter_path,
        chat_template=options.chat_template,
        max_pixels=options.max_pixels,
        prompt_cache_bytes=options.prompt_cache_bytes,
        prompt_cache_dir=options.prompt_cache_dir,
        prompt_cache_dir_bytes=options.prompt_cache_dir_bytes,
        prompt_cache_write_bytes=options.prompt_cache_write_bytes,
        max_context=options.max_context,
        memory_limit=options.memory_limit,
        exact=options.exact,
        gated_delta=options.gated_delta,
        speculate=options.speculate or "auto",
        draft_tokens=options.draft_tokens,
        mtp_path=options.mtp_model,
        kv_bits=options.kv_bits,
        kv_group_size=options.kv_group_size,
    )
    if unknown := sorted(set(rendering_arguments(options)["chat_template_kwargs"]) - kit.tokenizer.settable_variables):
        kit.close()
        raise OptionError(f"chat_template_kwargs: the chat template has no {', '.join(unknown)}")
    watch_compiler(kit)
    return kit


def add_media(parser: argparse.ArgumentParser, what_for: str) -> None:
    """Pictures and videos, as many as follow, and again."""
    for name in ("image", "video"):
        parser.add_argument(
            f"--{name}", action="extend", nargs="+", default=[], metavar="PATH",
            help=f"{name}s {what_for}; default: none",
        )  # fmt: skip
    own = "default: as the checkpoint has it"
    # The second names are those of mlx_vlm.generate.
    parser.add_argument(
        "--video-fps", "--fps", type=float, metavar="N", help=f"frames a second of a video to show; {own}"
    )
    for end, which in (("min", "at least"), ("max", "at most")):
        parser.add_argument(
            f"--{end}-frames", f"--video-{end}-frames", type=int, metavar="N",
            help=f"frames of a video to show, {which}; {own}",
        )  # fmt: skip


def generation_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `ModelKit.stream` that the flags set, checked before a model is loaded.

    Raises:
        OptionError: One is out of range.
    """
    from mlx_qwen35.upstream import import_decoder

    # As for any of the package's public names: what follows would import the whole of mlx_lm.
    import_decoder()
    from mlx_qwen35.answers.sampling import SamplingOptions, whole_number
    from mlx_qwen35.answers.text import check_stop

    given: dict[str, Any] = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
        "stop": options.stop,
        "prefill_step_size": options.prefill_step_size,
        "thinking_budget": options.thinking_budget,
    }
    given = {name: value for name, value in given.items() if value is not None}
    check_stop(given.get("stop"))
    for name, least in (("max_tokens", 1), ("prefill_step_size", 1), ("thinking_budget", 0)):
        whole_number(name, given.get(name, 1), least)
    SamplingOptions(**{field.name: given[field.name] for field in fields(SamplingOptions) if field.name in given})
    return given
