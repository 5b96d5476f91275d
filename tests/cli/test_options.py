"""Flags."""

import argparse
import re
from unittest import mock

import pytest

from mlx_qwen35.bench import kv, restart, serve, speed, video
from mlx_qwen35.cli.completion import all_actions
from mlx_qwen35.cli.main import build_parser
from mlx_qwen35.cli.options import size
from mlx_qwen35.patches.operations import CpuOperations, Operations
from mlx_qwen35.runtime import engine, loading
from mlx_qwen35.runtime.regulator import DEEPEST
from mlx_qwen35.runtime.speculation import DRAFT_TOKENS
from mlx_qwen35.state.kv_quantization import KV_GROUP_SIZE


def test_every_flag_that_takes_a_value_tells_its_default() -> None:
    parser = build_parser()
    formatter = parser._get_formatter()
    flags = [action for action in all_actions(parser) if action.option_strings and action.nargs != 0]
    assert len(flags) > 100
    silent = {
        action.option_strings[0]
        for action in flags
        # Where there is no help at all, argparse shows none of a default either.
        if not action.help or not (action.required or "default" in (formatter._get_help_string(action) or ""))
    }
    assert silent == set()


def test_a_flag_that_turns_something_off_tells_no_default_of_its_own() -> None:
    """argparse takes True for that of `store_false`, though it is another flag's that holds."""
    for action in all_actions(build_parser()):
        assert action.default is not True or isinstance(action, argparse.BooleanOptionalAction), action.option_strings


def test_defaults_are_told_once() -> None:
    parser = build_parser()
    formatter = parser._get_formatter()
    for action in all_actions(parser):
        if not isinstance(action, argparse._HelpAction):
            assert (formatter._get_help_string(action) or "").count("default: ") <= 1, action.option_strings


def test_a_default_in_words_is_the_one_that_holds() -> None:
    """Of flags whose default is no argument of the parser, because what knows it is imported late."""
    on_gpu, on_cpu = Operations.prefill_step_size, CpuOperations.prefill_step_size
    told = {
        "--draft-tokens": {f"{DRAFT_TOKENS} with mtp, else {DEEPEST}", "as everywhere"},
        "--max-rows": {str(engine.MAX_ROWS)},
        "--max-waiting": {str(engine.MAX_WAITING)},
        "--prefill-step-size": {str(engine.PREFILL_STEP_SIZE), f"{on_gpu}, on the CPU {on_cpu}"},
        "--kv-group-size": {str(KV_GROUP_SIZE)},
        "--prompt-cache-dir-bytes": {"ten times --prompt-cache-bytes"},
        "--prompt-cache-write-bytes": {f"{loading.WRITE_BYTES // 10**9}GB"},
        "--requests": {",".join(map(str, serve.AT_ONCE))},
        "--frames": {",".join(map(str, video.FRAMES))},
        "--contexts": {",".join(map(str, kv.CONTEXTS))},
        "--tokens": {str(restart.TOKENS), str(speed.TOKENS), str(video.TOKENS)},
        "--side": {str(speed.SIDE)},
    }
    assert loading.DISK_FACTOR == 10
    found: dict[str, set[str]] = {}
    for action in all_actions(build_parser()):
        for flag in action.option_strings:
            if flag in told and action.default is None:
                found.setdefault(flag, set()).add((action.help or "").rpartition("default: ")[2])
    assert found == told


def test_a_default_of_the_parser_is_the_one_in_words() -> None:
    counted = 0
    for action in all_actions(build_parser()):
        words = (action.help or "").rpartition("default: ")[2]
        if isinstance(action.default, int | float) and words[:1].isdigit():
            counted += 1
            assert size(words.split(";")[0]) == action.default, action.option_strings
    assert counted > 8


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "chat -m x",
            "chat: --max-tokens/-m: expected a whole number, found 'x'; mlx-qwen35 chat --help has its flags",
        ),
        ("chat --temp x", "chat: --temperature/--temp: expected a number, found 'x'; mlx-qwen35 chat --help has its"),
        ("convert -q", "convert: the following arguments are required: --model/--hf-path, --out/--mlx-path; mlx-"),
        ("chat --kv-bits 3", "chat: --kv-bits: expected one of 8, 4, found 3; mlx-qwen35 chat --help has its flags"),
        ("models pul", "ACTION: expected one of list, ls, pull, rm, remove, found pul (did you mean pull?); mlx-"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(line.split())
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert told in said


def test_help_is_no_wider_than_the_terminal() -> None:
    parser = build_parser()
    (commands,) = (action for action in parser._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    with mock.patch.dict("os.environ", COLUMNS="80"):
        shown = [command.format_help() for command in (parser, *commands.choices.values())]
    wide = [line for text in shown for line in text.splitlines() if len(line) > 80]
    # Which names Python repeats the JSON behind differs from one Python to the next.
    assert [line for line in wide if not re.match(r"  --chat-template-kwargs( JSON)?,", line)] == []
