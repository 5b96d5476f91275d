"""What people type who come from other programs."""

import argparse
import contextlib
import re
from pathlib import Path
from unittest import mock

import pytest

from mlx_qwen35.cli import habits
from mlx_qwen35.cli.completion import all_actions
from mlx_qwen35.cli.main import build_parser, main, parse
from mlx_qwen35.cli.options import add_generation_flags


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("chat --max-kv-size 4096", "--max-kv-size: see --max-context"),
        ("generate -c 4096", "-c: see --max-context"),
        ("generate --n-predict=5", "--n-predict: see --max-tokens"),
        ("serve --draft-model a/b", "--draft-model: see --speculate, --mtp-model"),
        ("serve --parallel 4 --alias it", "--parallel: see --max-rows; --alias: see --served-model-name"),
        ("serve --system-prompt hi", "--system-prompt: requests say it, as messages"),
        ("chat --trust-remote-code", "--trust-remote-code: not needed: no code of a checkpoint is run"),
        ("serve a/b", "a checkpoint comes behind --model"),
        ("generate hello", "a checkpoint comes behind --model, a prompt behind -p"),
    ],
)
def test_a_flag_of_another_program_is_told_what_it_is_here(
    capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    command, *further = line.split()
    assert refused(capsys, command, *further) == (
        f"mlx-qwen35 {command}: unrecognized arguments: {' '.join(further)} ({told}); "
        f"mlx-qwen35 {command} --help has its flags\n"
    )


def test_the_command_that_does_not_know_a_flag_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "models", "pull", "a/b", "--max-kv-size", "5")
    assert told == (
        "mlx-qwen35 models pull: unrecognized arguments: --max-kv-size 5; mlx-qwen35 models pull --help has its flags\n"
    )


def test_every_flag_and_command_that_is_named_exists() -> None:
    parser = build_parser()
    known = {flag for action in all_actions(parser) for flag in action.option_strings}
    named = {ours for names in habits.FLAGS.values() for ours in names}
    named |= {flag for words in (*habits.NEEDLESS.values(), *habits.COMMANDS.values())
              for flag in re.findall(r"--[a-z-]+", words)}  # fmt: skip
    assert named <= known
    (commands,) = (action for action in parser._actions if action.dest == "command")
    assert {line.split()[0] for line in habits.COMMANDS.values()} <= set(commands.choices or ())


def test_a_chat_s_flags_of_an_answer_are_a_server_s_too_or_a_request_s() -> None:
    parser = argparse.ArgumentParser()
    add_generation_flags(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    served = commands.choices["serve"]._option_string_actions
    assert flags - served.keys() == set(habits.PER_REQUEST)


def test_every_field_that_requests_have_exists() -> None:
    from mlx_qwen35.server.protocols.chat_completions import ChatCompletionRequest

    assert set(habits.PER_REQUEST.values()) <= set(ChatCompletionRequest.model_fields)


@pytest.mark.parametrize(
    ("line", "named", "value"),
    [
        ("generate -hf a/b", "model", "a/b"),
        ("chat --enable-thinking", "think", True),
        ("chat --num-draft-tokens 3", "draft_tokens", 3),
        ("generate --fps 2", "video_fps", 2.0),
        ("generate --video-min-frames 4", "min_frames", 4),
        ("generate --video-max-frames 8", "max_frames", 8),
        ("serve --decode-concurrency 4", "max_rows", 4),
        ("serve --max-num-seqs 4", "max_rows", 4),
        ("serve --log-level INFO", "log_level", "info"),
        ("convert --hf-path a --mlx-path b -q", "quantize", True),
    ],
)
def test_the_parents_names_of_the_same_flags(line: str, named: str, value: object) -> None:
    assert getattr(parse(line.split()), named) == value


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("server --port 1", "server: expected a command, like serve"),
        ("pull a/b", "pull: expected a command, like models pull ID"),
        ("--model a/b", "--model: expected a command before it, like chat, generate or serve"),
    ],
)
def test_a_line_that_begins_with_no_command(capsys: pytest.CaptureFixture[str], line: str, told: str) -> None:
    assert refused(capsys, *line.split()) == (f"mlx-qwen35: {told}; mlx-qwen35 --help has its commands\n")


@pytest.mark.parametrize(("line", "like"), [("help chat", "chat --help"), ("help", "--help"), ("version", "-V")])
def test_help_and_version_are_commands_too(capsys: pytest.CaptureFixture[str], line: str, like: str) -> None:
    said = []
    for words in (line, like):
        with contextlib.suppress(SystemExit):
            parse(words.split())
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(("line", "like"), [("models ls --json", "list"), ("models remove a/b", "rm")])
def test_actions_have_the_names_of_other_programs(line: str, like: str) -> None:
    command, _, *further = line.split()
    assert parse(line.split()).run == parse([command, like, *further]).run


@pytest.mark.parametrize(("line", "bits"), [("-q", 4), ("-q --q-bits 8", 8), ("-q --q-mode mxfp8", None), ("", None)])
def test_q_quantises_to_4_bits_where_nothing_else_is_said(tmp_path: Path, line: str, bits: int | None) -> None:
    with mock.patch("mlx_qwen35.conversion.convert", return_value=tmp_path) as convert:
        assert main(["convert", "--hf-path", "a", "--mlx-path", "b", *line.split()]) == 0
    assert convert.call_args.kwargs["bits"] == bits
