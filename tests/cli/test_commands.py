"""generate, convert and doctor."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.cli.generate import comes_by_itself
from mlx_qwen35.cli.main import main
from mlx_qwen35.cli.options import size
from mlx_qwen35.errors import CheckpointWarning
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.cli.conftest import UNCOMPILED
from tests.tiny import DENSE, MOE, Shape


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, stdin: str | bytes = "", **environment: str) -> Done:
    """A command in this process, which spares it the imports."""
    out, err = io.StringIO(), io.StringIO()
    typed = io.TextIOWrapper(io.BytesIO(stdin), "utf-8") if isinstance(stdin, bytes) else io.StringIO(stdin)
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        mock.patch.dict(os.environ, environment),
        mock.patch("sys.stdin", typed),
    ):
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.new("RGB", (96, 64), "red").save(path)
    return str(path)


@pytest.fixture(scope="module")
def model(checkpoint_dir: Callable[[Shape], Path]) -> str:
    return str(checkpoint_dir(DENSE))


def expected(kit: ModelKit, text: str, image: str | None = None, **options: Any) -> str:
    parts = [{"type": "image", "image": image}] if image else []
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    prompt = kit.process_prompt(messages, enable_thinking=False)
    return kit.generate(prompt, **options).text


def test_generate_prints_the_answer_and_nothing_else(model: str, kit: ModelKit, picture: str) -> None:
    for arguments, image in (([], None), (["--image", picture], picture)):
        done = run("generate", "--model", model, "-p", "hello there", "--no-think", "-m", "9", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == expected(kit, "hello there", image, max_tokens=9) + "\n"


def test_generate_reads_standard_input(model: str, kit: ModelKit) -> None:
    done = run("generate", "--model", model, "--prompt", "-", "--no-think", "-m", "5", stdin="the fox\njumps")
    assert done.stdout == expected(kit, "the fox\njumps", max_tokens=5) + "\n"


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("prompt", "piped", "asked"),
    [
        (["-p", "hello there"], "the fox\n\n", "the fox\n\nhello there"),
        ([], "the fox\n", "the fox\n"),
        (["-p", "-"], "the fox", "the fox"),
        (["-p", "hello there"], " \n", "hello there"),
    ],
)
def test_what_a_pipe_or_a_file_says_stands_before_the_prompt(
    model: str, kit: ModelKit, tmp_path: Path, prompt: list[str], piped: str, asked: str
) -> None:
    (tmp_path / "piped").write_text(piped)
    with (tmp_path / "piped").open() as file, mock.patch("sys.stdin", file), redirect_stdout(io.StringIO()) as out:
        assert main(["generate", "--model", model, *prompt, "--no-think", "-m", "5"]) == 0
    assert out.getvalue() == expected(kit, asked, max_tokens=5) + "\n"


def test_a_pipe_is_read_and_a_socket_is_not() -> None:
    """Programs and remote shells leave sockets open that nobody writes to."""
    reading, writing = os.pipe()
    one, other = socket.socketpair()
    with open(reading) as pipe, one.makefile() as ours, Path(os.devnull).open() as nothing:  # noqa: PTH123
        for stream, read in ((pipe, True), (ours, False), (nothing, False), (io.StringIO(), False)):
            with mock.patch("sys.stdin", stream):
                assert comes_by_itself() is read
    os.close(writing)
    one.close()
    other.close()


@pytest.mark.thorough
def test_flags_are_those_of_both_parents(model: str, kit: ModelKit, picture: str) -> None:
    """mlx-lm's --temp and mlx-vlm's --temperature, and several pictures behind one --image."""
    for flag in ("--temp", "--temperature"):
        done = run("generate", "--model", model, "-p", "hello", "--no-think", "-m", "9", flag, "1.5", "--seed", "4")
        assert done.stdout == expected(kit, "hello", max_tokens=9, temperature=1.5, seed=4) + "\n"
    done = run("generate", "--model", model, "--image", picture, picture, "-p", "hi", "-m", "2", "--json")
    assert json.loads(done.stdout)["stats"]["image_tokens"] == 12


def test_a_video_may_be_asked_about(model: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "white")]
    path = tmp_path / "clip.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500)
    done = run("generate", "--model", model, "--video", str(path), "-p", "what happens?", "-m", "2", "--json")
    assert json.loads(done.stdout)["stats"]["video_tokens"] > 0


@pytest.mark.parametrize("arguments", [[], ["bench"], ["-V"], ["--version"]])
def test_without_a_command_there_is_help(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mlx-qwen35 0.1.0\n" or done.stdout.startswith("usage: mlx-qwen35 ")


def test_generate_as_json(model: str, picture: str) -> None:
    done = run("generate", "--model", model, "-p", "hi", "--image", picture, "--image", picture, "-m", "4", "--json")
    result = json.loads(done.stdout)
    assert result["finish_reason"] == "length"
    assert len(result["tokens"]) == result["stats"]["completion_tokens"] == 4
    assert result["stats"]["image_tokens"] == 12
    assert set(result) >= {"text", "reasoning", "tokens", "finish_reason", "stats"}
    # The second picture is the first one again.
    assert (result["stats"]["images_encoded"], result["stats"]["images_reused"]) == (1, 1)
    assert result["stats"]["cached_tokens"] == 0


def test_videos_on_the_command_line(model: str, kit: ModelKit, picture: str, tmp_path: Path) -> None:
    """Behind the images, in order, sampled as the flags say; progress and one line of cost go to a terminal only."""
    clip = str(tmp_path / "clip.gif")
    frames = [Image.new("RGB", (64, 32), (50 * number, 0, 0)) for number in range(5)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=500, loop=0)
    done = run(
        *("generate", "--model", model, "-p", "hi", "-m", "4", "--json"),
        *("--video", clip, "--image", picture, "--video-fps", "1", "--min-frames", "2", "--max-frames", "3"),
    )
    assert done.returncode == 0, done.stderr
    stats = json.loads(done.stdout)["stats"]
    parts = [{"type": "image", "image": picture}, {"type": "video", "video": clip, "fps": 1, "min_frames": 2}]
    prompt = kit.process_prompt([{"role": "user", "content": [*parts, {"type": "text", "text": "hi"}]}], max_frames=3)
    assert (stats["prompt_tokens"], stats["video_tokens"]) == (len(prompt.input_ids), prompt.video_tokens)
    assert stats["frames_encoded"] == 2 * len(prompt.videos[0])
    done = run("generate", "--model", model, "-p", "hi", "--video", "/no.mp4")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/no.mp4" in done.stderr


def test_flags_reach_the_sampler(model: str, kit: ModelKit) -> None:
    flags = ["--temp", "1.5", "--top-p", "0.9", "--top-k", "30", "--min-p", "0.01", "--seed", "4", "-m", "12"]
    done = run("generate", "--model", model, "-p", "hello", "--no-think", *flags)
    options: dict[str, Any] = {
        "temperature": 1.5,
        "top_p": 0.9,
        "top_k": 30,
        "min_p": 0.01,
        "seed": 4,
        "max_tokens": 12,
    }
    assert done.stdout == expected(kit, "hello", **options) + "\n"
    assert done.stdout != expected(kit, "hello", **options | {"seed": 5}) + "\n"


def test_an_effort_reaches_the_prompt(
    model: str, kit: ModelKit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlx_qwen35.cli.generate.load_kit", lambda _: nullcontext(kit))
    asked: list[str | None] = []
    process_prompt = kit.process_prompt

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options.get("reasoning_effort"))
        return process_prompt(*arguments, **options)

    monkeypatch.setattr(kit, "process_prompt", watched)
    assert main(["generate", "-p", "hi", "-m", "1", "--reasoning-effort", "low"]) == 0
    assert main(["generate", "-p", "hi", "-m", "1"]) == 0
    assert asked == ["low", None]


@dataclass(frozen=True)
class Asked:
    """What stands for an answer, with its prompt."""

    prompt: list[int]


def test_flags_of_the_template_reach_it(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% if enable_thinking %}<think>{% endif %}{{ greeting }} {{ messages[0].content[0].text }}")
    monkeypatch.setattr("mlx_qwen35.ModelKit.generate", lambda kit, prompt, **_: Asked(prompt.input_ids.tolist()))
    line = ["generate", "--model", model, "--json", "-p", "hi", "--chat-template", str(template)]
    asked = []
    for variables in ('{"greeting": "hello"}', '{"greeting": "hello", "enable_thinking": true}'):
        with redirect_stdout(io.StringIO()) as out:
            assert main([*line, "--chat-template-kwargs", variables]) == 0
        asked.append(Tokenizer(Path(model)).decode(json.loads(out.getvalue())["prompt"]))
    assert asked == ["hello hi", "<think>hello hi"]


def test_the_model_may_be_named_by_the_environment(model: str) -> None:
    done = run("generate", "-p", "hi", "-m", "2", MLX_QWEN35_MODEL=model)
    assert done.returncode == 0


@pytest.mark.thorough
def test_a_system_prompt_and_a_pixel_budget_count(model: str, picture: str, tmp_path: Path) -> None:
    def tokens(*arguments: str) -> tuple[int, int]:
        stats = json.loads(run("generate", "--model", model, "-p", "hi", "-m", "1", "--json", *arguments).stdout)[
            "stats"
        ]
        return stats["prompt_tokens"], stats["image_tokens"]

    assert tokens("--system-prompt", "be brief")[0] > tokens()[0]
    large = tmp_path / "large.png"
    Image.new("RGB", (256, 256)).save(large)
    assert tokens("--image", str(large))[1] == 64
    assert tokens("--image", str(large), "--max-pixels", "16384")[1] == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "-p", "hi", "--model", "/nowhere"], "/nowhere: expected an existing directory or a hub id"),
        (["generate", "-p", " ", "--model", "MODEL"], "--prompt: expected some text, found none"),
        (["generate", "-p", "hi", "--model", "MODEL", "--image", "/no.png"], "/no.png: No such file or directory"),
        # Before anything is loaded.
        (["generate", "-p", "a", "--model", "/nowhere", "--image", "/no.png"], "--image: /no.png: No such file or"),
        (["generate", "-p", "a", "--model", "/nowhere", "--video", "no.mp4"], "--video: no.mp4: No such file or"),
        (["generate", "-p", "hi", "--model", "/nowhere", "--temp", "-1"], "temperature: expected at least 0, found -1"),
        (["generate", "-p", "hi", "--model", "/nowhere", "-m", "0"], "max_tokens: expected a whole number of at least"),
        (["generate", "-p", "hi", "--model", "/nowhere", "--stop", ""], "stop: expected strings of at least one"),
        (["chat", "--model", "/nowhere", "--top-p", "2"], "top_p: expected at least 0 and at most 1, found 2"),
        (["generate", "-p", "hi", "--model", "MODEL", "--adapter-path", "/no"], "/no: expected adapter_config.json"),
        (["chat", "--model", "/nowhere"], "/nowhere: expected an existing directory"),
        (["doctor", "/nowhere"], "/nowhere: expected an existing directory"),
        (["doctor", "/nowhere", "--model", "MODEL"], "--model: expected one checkpoint, found /nowhere and "),
        (["convert", "--model", "/nowhere", "--out", "OUT"], "/nowhere: expected an existing directory"),
        (["convert", "--model", "MODEL", "--out", "MODEL"], "expected a directory that does not exist yet"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(
    model: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"MODEL": model, "OUT": str(tmp_path / "out")}
    done = run(*(names.get(argument, argument) for argument in arguments), MLX_QWEN35_MODEL="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mlx-qwen35: ")
    assert message in done.stderr


def test_bad_flags_are_refused_by_name(model: str) -> None:
    done = run("generate", "--model", model, "-p", "hi", "--max-kv-size", "5")
    assert done.returncode == 2
    assert "--max-kv-size" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("1000", 1000), ("512MB", 512_000_000), ("1.5 GiB", 3 * 2**29), ("2g", 2 * 10**9)]
)
def test_sizes_as_people_write_them(text: str, expected: int) -> None:
    assert size(text) == expected


def test_a_size_that_is_none(model: str) -> None:
    done = run("generate", "--model", model, "-p", "hi", "--prompt-cache-bytes", "much")
    assert done.returncode == 2
    assert "expected a size like 512MB or 4GB, found 'much'" in done.stderr


def test_ctrl_c_while_the_commands_are_imported_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen35.cli.main.build_parser", mock.Mock(side_effect=KeyboardInterrupt))
    assert run("models") == Done(130, "", "\n")


def test_ctrl_c_ends_with_130(endless: Path) -> None:
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "generate", "--model", str(endless), "-p", "hi"]
    process = subprocess.Popen(
        [*command, "--no-think", "-m", "1000000", "--temp", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **UNCOMPILED},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, b"\n")


def test_a_closed_pipe_is_no_error(model: str) -> None:
    command = f"{sys.executable} -m mlx_qwen35.cli.main generate --model {model} -p hi --no-think -m 300 | head -c 3"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False)
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 3, b"")


def test_an_answer_that_is_all_reasoning_is_explained(model: str) -> None:
    done = run("generate", "--model", model, "-p", "hi", "-m", "3")
    assert done.stdout == "\n"
    assert "the reasoning was cut before the answer began: raise --max-tokens" in done.stderr


def test_convert_and_doctor(model: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = run("convert", "--model", model, "--out", out, "--bits", "8")
    assert (done.returncode, done.stderr) == (0, "")
    assert out in done.stdout
    done = run("doctor", out)
    assert done.returncode == 0
    for words in (
        "layout:       mlx-vlm",
        "vision:       yes",
        "MTP:          yes",
        "quantisation: bits 8, group_size 64",
        "mlx-lm 0.",
        "different logits",
    ):
        assert words in done.stdout
    assert "FAILED" not in done.stdout
    report = json.loads(run("doctor", out, "--json").stdout)
    assert report["layout"] == "mlx-vlm"
    assert all(check["passed"] for check in report["checks"])


def test_the_doctor_takes_a_model_as_the_other_commands_do(model: str, tmp_path: Path) -> None:
    for arguments, variable in ((["--model", model], "/nowhere"), ([], model)):
        done = run("doctor", "--no-check", "--json", *arguments, MLX_QWEN35_MODEL=variable)
        assert json.loads(done.stdout)["directory"] == model
    done = run("doctor", "--no-check", "--json", MLX_QWEN35_MODEL="")
    assert json.loads(done.stdout)["directory"] == str(BOX)
    assert "no model named, so this is the small one" in done.stderr


def test_what_urls_lead_to_is_seen_when_they_are_read(model: str, picture: str) -> None:
    done = run("generate", "--model", model, "-p", "hi", "--no-think", "-m", "2", "--image", Path(picture).as_uri())
    assert done.returncode == 0


def test_doctor_fails_where_vision_is_blind(tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """A tower whose last layer is zero: images change nothing any more."""
    import shutil

    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(checkpoint_dir(MOE), tmp_path / "blind")
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.visual.merger.linear_fc2.weight", "model.visual.merger.linear_fc2.bias"):
        tensors[name] = tensors[name] * 0
    save_file(tensors, directory / "model.safetensors")
    done = run("doctor", str(directory))
    assert done.returncode == 2
    assert "FAILED: a red and a blue image give different logits" in done.stdout
    assert "the self-check failed" in done.stderr


def test_text_that_is_not_unicode_is_one_line(model: str) -> None:
    done = run("generate", "--model", model, "-p", "a\udcff")
    assert done.returncode == 2
    assert "text: expected valid Unicode" in done.stderr


@pytest.mark.thorough
def test_what_an_outputs_encoding_lacks_is_escaped(model: str) -> None:
    """A terminal or a pipe of the C locale, say: an answer may have any character."""

    def printed(encoding: str, *flags: str) -> str:
        out = io.TextIOWrapper(io.BytesIO(), encoding)
        flags = ("--model", model, "-p", "a", "-m", "8", "--temp", "9", "--seed", "3", "--no-think", *flags)
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            assert main(["generate", *flags]) == 0
        out.flush()
        return out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]

    text = json.loads(printed("utf-8", "--json"))["text"]
    assert not text.isascii()
    assert json.loads(printed("ascii", "--json"))["text"] == text
    assert printed("ascii") == f"{text}\n".encode("ascii", "backslashreplace").decode()


CLOSED = """
import argparse, sys
from mlx_qwen35.cli import main
told = lambda options: print(sys.stdin.read() == "", open("/dev/null").fileno(), sys.stdout.isatty(), file=sys.stderr)
main.parse = lambda arguments: argparse.Namespace(run=told)
sys.exit(main.main([]))
"""


def test_a_stream_that_the_caller_closed_leads_nowhere() -> None:
    """Otherwise the first file that is opened, a checkpoint's, has its number."""
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, CLOSED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "True 3 False\n")


def test_an_empty_path_is_not_the_current_directory(model: str) -> None:
    done = run("generate", "--model", model, "-p", "a", "--prompt-cache-dir", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "prompt_cache_dir: expected a path, found an empty one" in done.stderr


def test_trouble_with_files_is_one_line(model: str) -> None:
    for out in ("/proc/nothing/here", "/etc/passwd/x"):
        done = run("convert", "--model", model, "--out", out)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which only Linux has")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_is_one_line(model: str, flags: list[str]) -> None:
    with Path("/dev/full").open("w") as full, mock.patch("sys.stdout", full):
        errors = io.StringIO()
        with redirect_stderr(errors):
            code = main(["generate", "--model", model, "-p", "hi", "--no-think", "-m", "3", *flags])
        # What is left in the buffer fails no more: that would be the traceback of a process that ends.
        full.flush()
    assert code == 2
    assert errors.getvalue() == "mlx-qwen35: [Errno 28] No space left on device\n"


def test_convert_takes_the_flags_of_mlx_lm(model: str, tmp_path: Path) -> None:
    flags = ["--hf-path", model, "--mlx-path", str(tmp_path / "out"), "--q-bits", "4", "--q-group-size", "32"]
    assert run("convert", *flags).returncode == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["quantization"]["bits"], config["quantization"]["group_size"]) == (4, 32)
    assert config["quantization_config"] == config["quantization"]
    flags = ["--hf-path", model, "--mlx-path", str(tmp_path / "mx"), "--q-mode", "mxfp4"]
    assert run("convert", *flags).returncode == 0
    flags = ["--hf-path", model, "--mlx-path", str(tmp_path / "mixed"), "--quant-predicate", "mixed_3_6"]
    done = run("convert", *flags, "--q-group-size", "128")
    assert done.returncode == 0
    assert "matrices stay as they are, because 128 does not divide their rows" in done.stderr
    flags = ["--hf-path", str(tmp_path / "mx"), "--mlx-path", str(tmp_path / "plain"), "-d"]
    assert run("convert", *flags).returncode == 0
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_what_is_left_out_of_a_checkpoint_is_told_in_a_line(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path]
) -> None:
    directory = shutil.copytree(checkpoint_dir(DENSE), tmp_path / "own")
    (directory / "generation_config.json").write_text('{"max_new_tokens": 0}')
    with warnings.catch_warnings():
        warnings.simplefilter("default", CheckpointWarning)
        done = run("generate", "--model", str(directory), "-p", "hi", "--no-think", "-m", "2")
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    assert done.stderr.startswith(f"mlx-qwen35: {directory}/generation_config.json: max_new_tokens: expected")


def test_the_doctor_says_what_else_there_is_to_say(model: str, tmp_path: Path) -> None:
    shown = run("doctor", model, "--no-check")
    assert shown.stdout.splitlines()[-1] == "Its chat template can be told whether to think, describes tools."
    (tmp_path / "a.png").touch()
    shown = run("doctor", str(tmp_path))
    assert shown.returncode == 2
    assert shown.stderr.strip().endswith("Nothing in it is a checkpoint's: it holds a.png.")
