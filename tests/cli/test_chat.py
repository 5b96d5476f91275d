"""The REPL in a pseudo-terminal, and fed from a pipe."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from PIL import Image

from mlx_qwen35.cli.chat_commands import SETTINGS
from mlx_qwen35.cli.conversation import Conversation
from mlx_qwen35.cli.main import parse
from mlx_qwen35.prompts.tokenizer import Tokenizer
from tests.cli.conftest import UNCOMPILED
from tests.cli.test_commands import Done, run
from tests.tiny import DENSE, Shape, write_checkpoint


@pytest.fixture
def picture(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Another one for each test, which no chat has seen before."""
    path = tmp_path / "my picture.png"
    Image.new("RGB", (96, 64), f"#{zlib.crc32(request.node.nodeid.encode()) & 0xFFFFFF:06x}").save(path)
    return path


class Terminal:
    """A chat in a pseudo-terminal. What is typed before the prompt is there waits in the terminal."""

    def __init__(self, model: Path, home: Path, *arguments: str, **environment: str) -> None:
        environment = {**os.environ, "HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        environment.setdefault("NO_COLOR", "")
        command = ["-m", "mlx_qwen35.cli.main", "chat", "--model", str(model), *arguments]
        self.child: Any = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", timeout=120, dimensions=(50, 400)
        )
        self.child.expect(">>>")
        self.before_prompt: str = self.child.before

    def say(self, line: str, shows: str) -> None:
        """Type a line, in place of one that was kept, and wait until something is shown (a regular expression)."""
        self.child.send(f"\x15{line}\r")
        self.child.expect(shows)

    def interrupt(self, shows: str) -> None:
        """Ctrl-C."""
        self.child.sendintr()
        self.child.expect(shows)

    def forget(self, folder: Path) -> None:
        """Begin anew, with the settings of a fresh chat."""
        Conversation().save(folder / "nothing.json")
        self.say(f"/load {folder}/nothing.json", shows="0 messages from")

    def end(self) -> None:
        """Whatever it does, and however slow the machine is."""
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
            self.child.wait()
        self.child.close()

    def leave(self) -> int:
        """Ctrl-D at the prompt; returns the exit code. Sent earlier, the terminal would swallow it."""
        self.child.expect(">>>")
        self.child.sendeof()
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


@pytest.fixture(scope="module")
def shared(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """One process for many tests: most of its time goes to starting it."""
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path_factory.mktemp("home"), "-m", "6", "--temp", "0")
    yield terminal
    terminal.end()


@pytest.fixture
def terminal(shared: Terminal, tmp_path: Path) -> Terminal:
    """A chat about nothing yet."""
    shared.forget(tmp_path)
    return shared


@pytest.fixture(scope="module")
def unending(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A chat that reads a token at a time, and writes answers without end."""
    flags = ("-m", "100000", "--temp", "0", "--prefill-step-size", "1", "--no-prefill-ahead")
    terminal = Terminal(endless, tmp_path_factory.mktemp("home"), *flags, **UNCOMPILED)
    yield terminal
    terminal.end()


def test_a_conversation_with_images(terminal: Terminal, picture: Path) -> None:
    terminal.say("hello there", shows=r"6 tokens at .* tokens/s")
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("what is this?", shows=r"prompt tokens \(6 image\)")
    escaped = str(picture).replace(" ", "\\ ")
    terminal.say(f"{escaped} and this?", shows=r"prompt tokens \(12 image\)")
    terminal.say(f"/image {escaped} and now?", shows=r"prompt tokens \(18 image\)")


def test_commands(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("/help", shows="/image PATH")
    terminal.say("/think off", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/think maybe", shows="/think: expected on or off, found maybe")
    terminal.say("/effort low", shows="effort: low")
    terminal.say("/effort hgih", shows="/effort: expected one of none, minimal, low, .*, found hgih")
    terminal.say("/think", shows="reasoning is off")
    terminal.say("/effort", shows="effort: as the model has it")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("hello", shows="tokens/s")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("/nothing", shows="/nothing: no such command")
    terminal.say("/image /nowhere.png", shows="No such file or directory")
    terminal.say("/load /nowhere.json", shows="cannot be read")


def questions(terminal: Terminal, path: Path) -> list[str]:
    """What the chat was asked so far, from a file that it saves."""
    terminal.say(f"/save {path}", shows="saved to")
    turns = json.loads(path.read_text())["messages"]
    return [turn["content"][-1]["text"] for turn in turns if turn["role"] == "user"]


def test_several_lines(terminal: Terminal, tmp_path: Path) -> None:
    """Alt-Enter, which some terminals send with a line feed; and a paste."""
    terminal.say("one\x1b\rtwo\x1b\nthree", shows="tokens/s")
    terminal.child.expect(">>>")
    terminal.say("\x1b[200~four\rfive\n\x1b[201~six", shows="tokens/s")
    assert questions(terminal, tmp_path / "chat.json") == ["one\ntwo\nthree", "four\nfive\nsix"]


@pytest.mark.thorough
def test_ctrl_z_stops_an_editing_chat_and_fg_goes_on_with_the_line(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """In a shell: without job control nothing may stop."""
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PS1": "shell$ "}
    environment |= {"NO_COLOR": "", "BASH_SILENCE_DEPRECATION_WARNING": "1"}
    shell = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"], env=environment, encoding="utf-8", timeout=120, dimensions=(50, 400)
    )
    try:
        shell.expect_exact("shell$ ")
        shell.sendline(f"{sys.executable} -m mlx_qwen35.cli.main chat --model {checkpoint_dir(DENSE)} -m 6")
        shell.expect(">>>")
        shell.send("/system it goes")
        shell.expect("it goes")
        shell.send("\x1a")
        shell.expect("Stopped")
        shell.expect_exact("shell$ ")
        shell.sendline("fg")
        shell.expect(">>> .*it goes")
        shell.send(" on\r")
        shell.expect("system message: it goes on")
        shell.expect(">>>")
        shell.send("\x04")
        shell.expect_exact("shell$ ")
    finally:
        shell.close(force=True)


def test_what_is_typed_ahead_waits_and_is_not_shown(unending: Terminal, tmp_path: Path) -> None:
    """Through a Ctrl-C as well: two lines, and a paste of two that is one message."""
    unending.forget(tmp_path)
    unending.child.send("hello there\r")
    unending.child.expect("\x1b\\[2m")
    # A terminal that brackets what is pasted goes on doing so.
    assert unending.child.before.rindex("\x1b[?2004h") > unending.child.before.rindex("\x1b[?2004l")
    unending.child.send("/system typed\r\x1b[200~ahead\rof time\x1b[201~")
    unending.interrupt(shows="stopped")
    assert "typed" not in unending.child.before
    unending.child.expect("system message: typed")
    unending.child.expect("of time")
    unending.child.send("\r")
    unending.child.expect("\x1b\\[2m")
    unending.interrupt(shows="stopped")
    assert questions(unending, tmp_path / "ahead.json") == ["hello there", "ahead\nof time"]


def test_a_line_that_cannot_be_sent_is_there_to_be_mended(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    terminal.say("/no/such.png what is it?", shows="/no/such.png: No such file")
    terminal.child.expect("/no/such.png what is it\\?")
    terminal.child.send("\x01 \r")  # to its beginning: a space sends it as it is
    terminal.child.expect("tokens/s")
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:50])
    terminal.say(f"'{picture}' {broken} what?", shows=r"broken.png( \(\d+ characters\))?: ")
    terminal.child.expect("broken.png what")
    broken.unlink()
    terminal.say(f"'{picture}' what?", shows=r"prompt tokens \(6 image\)")
    assert questions(terminal, tmp_path / "chat.json") == ["/no/such.png what is it?", "what?"]


@pytest.mark.thorough
def test_a_video_dropped_or_named(terminal: Terminal, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "white")]
    path = tmp_path / "a clip.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500)
    terminal.say(f"{path} what happens?", shows=r"goes with the next message[\s\S]* \(\d+ video\)")
    terminal.say(f"/video {path}", shows="a clip.gif: goes with the next message")
    terminal.say("and here?", shows=r"prompt tokens \(\d+ video\)")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypmp42 and nothing else")
    terminal.say(f"{broken} what happens?", shows=r"\n[^:]*broken.mp4( \(\d+ characters\))?: ")
    terminal.child.expect("broken.mp4 what happens")
    terminal.say("and now?", shows="tokens/s")
    assert questions(terminal, tmp_path / "chat.json") == ["what happens?", "and here?", "and now?"]


def test_taking_back_and_repeating(terminal: Terminal, tmp_path: Path) -> None:
    terminal.say("one", shows="tokens/s")
    terminal.say("/regenerate", shows=r"tokens/s.*the answer stays the same: temperature 0")
    terminal.say("two", shows="tokens/s")
    terminal.say("/undo", shows="forgotten: two")
    terminal.say("/edit", shows=">>>.*one")
    terminal.child.send(" more\r")
    terminal.child.expect("tokens/s")
    assert questions(terminal, tmp_path / "chat.json") == ["one more"]
    terminal.say("/undo", shows="forgotten: one more")
    terminal.say("/undo", shows="expected a question, found none yet")


def test_only_an_answer_that_stays_the_same_is_said_to(terminal: Terminal) -> None:
    terminal.say("one", shows="tokens/s")
    terminal.say("/max-tokens 3", shows="max_tokens: 3")
    terminal.say("/regenerate", shows=" 3 tokens at .* tokens/s")
    terminal.say("/max-tokens 6", shows="max_tokens: 6")
    assert "stays the same" not in terminal.child.before


def test_what_waits_for_the_next_message_is_taken_back_first(terminal: Terminal, picture: Path) -> None:
    terminal.say("one", shows="tokens/s")
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("/undo", shows=r"forgotten: what was to go with the next message \(1\)")
    terminal.say("/undo", shows="forgotten: one")
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("/undo", shows=r"forgotten: what was to go with the next message \(1\)")
    terminal.say("/undo", shows="expected a question, found none yet")


def test_leaving_and_overwriting_are_asked_about(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("mine")
    terminal.say(f"/save {tmp_path}/mine.json", shows=r"mine.json is there already. Overwrite it\? \[y/N\]")
    terminal.child.send("\r")
    terminal.child.expect("not saved")
    assert (tmp_path / "mine.json").read_text() == "mine"
    terminal.say(f"/save {tmp_path}/mine.json", shows=r"Overwrite it\? \[y/N\]")
    terminal.child.send("y\r")
    terminal.child.expect("saved to")
    assert json.loads((tmp_path / "mine.json").read_text())["messages"] == []
    terminal.say("exit", shows=r"Leave the chat\? \[y/N\]")
    terminal.child.send("n\r")
    terminal.child.expect(">>>")
    terminal.child.sendintr()
    terminal.child.expect(r"/exit leaves; so does Ctrl-D")


def test_tab_completes_commands_and_paths(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "chat.json").write_text("{")
    terminal.say(f"/loa\t{tmp_path}/a\tch\t", shows="a folder/chat.json: expected a saved chat")


@pytest.mark.thorough
def test_where_no_escapes_are_wanted_none_is_written(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """With history, completion and mending all the same."""
    history = tmp_path / ".mlx_qwen35" / "history"
    history.parent.mkdir()
    history.write_text("\n# 2026-01-01 12:00:00.000000\n+/system remembered\n")
    shown = io.StringIO()
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path, "-m", "6", "--temp", "0", NO_COLOR="1")
    terminal.child.logfile_read = shown
    terminal.child.send("\x1b[A\r")
    terminal.child.expect("system message: remembered")
    terminal.say("hello", shows="tokens/s")
    terminal.say("/no/such.png", shows="No such file")
    terminal.child.expect(">>> /no/such.png")
    terminal.child.sendintr()
    terminal.say("/thi\toff", shows="reasoning is off")
    assert terminal.leave() == 0
    assert "\x1b" not in terminal.before_prompt + shown.getvalue()
    assert [line[1:] for line in history.read_text().splitlines() if line.startswith("+")][1:3] == [
        "/system remembered", "hello",
    ]  # fmt: skip


def test_a_following_turn_knows_what_was_read(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    """Within a chat, and after /save and /load in another one."""
    terminal.say(f"/image {picture}", shows="goes with the next message")
    terminal.say("what is this?", shows=r"1 of 1 images encoded in")
    terminal.say("and now?", shows=r"prompt tokens \(6 image\), \d+ known, 0 of 1 images encoded in")
    terminal.say(f"/save {tmp_path}/chat.json", shows=r"tokens that were read of it to .*chat\.json\.session")
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(
        f"/load {tmp_path}/chat.json", shows=r"4 messages from .*chat\.json; \d+ tokens need not be read again"
    )
    terminal.say("go on", shows=r"\d+ known, 0 of 1 images")
    session = tmp_path / "chat.json.session"
    session.write_bytes(session.read_bytes()[:-9])
    terminal.say(f"/load {tmp_path}/chat.json", shows="they will be read again: .*cut short")


def test_ctrl_c_stops_the_answer_and_not_the_program(unending: Terminal, tmp_path: Path) -> None:
    unending.forget(tmp_path)
    unending.child.send("hello there\r")
    unending.child.expect("\x1b\\[2m")
    unending.interrupt(shows="stopped")
    unending.child.send("half a line")
    unending.child.expect("half a line")
    unending.child.sendintr()
    unending.say("/think off", shows="reasoning is off")


@pytest.mark.thorough
def test_a_long_prompt_shows_a_bar_and_can_be_stopped(unending: Terminal, tmp_path: Path) -> None:
    """Ctrl-C while the prompt is read: the question is taken back, and the next one is answered."""
    # Minutes long.
    conversation = Conversation()
    conversation.ask("the quick brown fox " * 8000)
    conversation.answer("and so on", "")
    conversation.save(tmp_path / "long.json")
    unending.say(f"/load {tmp_path}/long.json", shows="2 messages from")
    unending.say("go on", shows=r"reading the prompt .* [1-9]\d*/\d{5} tokens")
    unending.interrupt(shows="stopped")
    unending.say(f"/save {tmp_path}/chat.json", shows="saved to")
    assert len(json.loads((tmp_path / "chat.json").read_text())["messages"]) == 2
    unending.say("/clear", shows="the conversation is empty")
    unending.say("hello there", shows="\x1b\\[2m")
    unending.interrupt(shows="stopped")


@pytest.mark.thorough
def test_history_is_kept(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """Where a flag says: an earlier chat's line comes back with the Up key, and this chat's are written behind it."""
    history = tmp_path / "mine"
    history.write_text("\n# 2026-01-01 12:00:00.000000\n+/system remembered words\n")
    terminal = Terminal(checkpoint_dir(DENSE), tmp_path, "--history", str(history))
    terminal.say("\x1b[A", shows="system message: remembered words")
    terminal.say("/system other words", shows="system message: other words")
    assert terminal.leave() == 0
    lines = [line for line in history.read_text().splitlines() if line.startswith("+")]
    assert not (tmp_path / ".mlx_qwen35").exists()
    assert lines == ["+/system remembered words", "+/system other words"]


@pytest.mark.thorough
def test_lines_may_come_from_a_pipe(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    lines = f"hello\n/image {picture}\nwhat?\n/bad\n/quit\nnever asked\n"
    command = [sys.executable, "-m", "mlx_qwen35.cli.main", "chat", "--model", str(checkpoint_dir(DENSE))]
    command += ["-m", "4", "--no-think"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) >= 2
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("tokens/s") == 2
    assert "/bad: no such command" in done.stderr


def talk(model: Path, lines: str | bytes, *arguments: str) -> Done:
    """Lines from a pipe, to a chat in this process."""
    return run("chat", "--model", str(model), *arguments, stdin=lines)


def test_an_image_for_the_first_message(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    done = talk(checkpoint_dir(DENSE), "what?\n", "-m", "2", "--image", str(picture))
    assert "(6 image)" in done.stderr


def test_a_video_for_the_first_message(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """The second question encodes nothing of it; a later video is shown as the flags say."""
    clip = tmp_path / "clip.gif"
    frames = [Image.new("RGB", (64, 32), (50 * number, 0, 0)) for number in range(4)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=500, loop=0)
    lines = f"what?\nand now?\n/clear\n{clip} and this?\n"
    done = talk(checkpoint_dir(DENSE), lines, "-m", "2", "--video", str(clip), "--max-frames", "2")
    assert re.search(r"\(\d+ video\), 2 of 2 frames encoded in", done.stderr), done.stderr
    assert re.search(r"\(\d+ video\), \d+ known, 0 of 2 frames encoded in", done.stderr), done.stderr
    # What the flags say holds for those that come later, too.
    assert len(re.findall(r"of 2 frames encoded in", done.stderr)) == 3, done.stderr


def test_an_image_for_a_model_that_cannot_see_is_refused_at_once(tmp_path: Path, picture: Path) -> None:
    model = write_checkpoint(tmp_path / "model", replace(DENSE, name="text-only", text_only=True))
    done = talk(model, f"/image {picture}\nhello\n", "-m", "2")
    assert "this checkpoint cannot see images" in done.stderr
    assert done.stderr.count("tokens/s") == 1


def test_variables_of_the_template_are_those_of_every_turn(
    checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """A saved chat does not hold them, as it does not hold the template."""
    template = tmp_path / "own.jinja"
    template.write_text("{% for message in messages %}{{ word }} {% endfor %}")
    flags = ["--chat-template", str(template), "--chat-template-kwargs", '{"word": "hello hello hello"}', "-m", "1"]
    lines = f"one\n/save {tmp_path}/chat.json\n/load {tmp_path}/chat.json\ntwo\n/regenerate\n"
    done = talk(checkpoint_dir(DENSE), lines, *flags)
    sizes = [int(size) for size in re.findall(r"(\d+) prompt tokens", done.stderr)]
    expected = [len(Tokenizer(checkpoint_dir(DENSE)).encode("hello hello hello " * turns)) for turns in (1, 3, 3)]
    assert sizes == expected


def test_a_dropped_url_a_saved_picture_and_a_loaded_one(terminal: Terminal, picture: Path, tmp_path: Path) -> None:
    terminal.say(f"{picture.as_uri()} what is this?", shows=r"prompt tokens \(6 image\)")
    terminal.say(f"/save {tmp_path}/chat.json", shows="saved to")
    picture.unlink()
    terminal.say("/clear", shows="the conversation is empty")
    terminal.say(f"/load {tmp_path}/chat.json", shows="2 messages from")
    terminal.say("and now?", shows=r"prompt tokens \(6 image\)")


def test_reasoning_is_switched_from_what_the_template_does(terminal: Terminal) -> None:
    terminal.say("/think", shows="reasoning is off")
    terminal.say("/think", shows="reasoning is on")
    terminal.say("/system be brief", shows="system message: be brief")
    terminal.say("/system none", shows="system message: none")


@pytest.mark.thorough
def test_generate_on_a_terminal_shows_reasoning_and_status(checkpoint_dir: Callable[[Shape], Path]) -> None:
    command = ["-m", "mlx_qwen35.cli.main", "generate", "--model", str(checkpoint_dir(DENSE)), "-p", "hi", "-m", "5"]
    child = pexpect.spawn(sys.executable, command, env={**os.environ, "TERM": "xterm"}, encoding="utf-8", timeout=20)
    child.expect("\x1b\\[2m")
    child.expect("5 tokens at")
    child.expect(pexpect.EOF)


@pytest.mark.thorough
def test_a_home_that_cannot_be_written_does_not_matter(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file where a directory is expected")
    terminal = Terminal(checkpoint_dir(DENSE), home, "-m", "2")
    terminal.say("hello", shows="tokens/s")
    terminal.say("/quit", shows=pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 0


def test_a_name_that_no_file_can_have_does_not_end_the_chat(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Nor do other paths about which the system says nothing, as in a directory that is not this user's."""
    name = "n" * 300
    done = talk(checkpoint_dir(DENSE), f"/load {name}\n/save {name}\n/image {name}\n/{name}\none\n")
    assert done.returncode == 0
    assert done.stderr.count("File name too long") == 3
    assert f"/{name}: no such command" in done.stderr
    assert "tokens/s" in done.stderr


def test_text_that_is_not_utf8_is_told(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = talk(checkpoint_dir(DENSE), b"hello\xff\n", "-m", "2")
    assert done.returncode == 2
    assert "standard input: expected text" in done.stderr


def test_windows_line_ends_are_line_ends(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = talk(checkpoint_dir(DENSE), b"/think off\r\n/quit\r\n")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "reasoning is off")


def test_settings_are_read_checked_and_undone(checkpoint_dir: Callable[[Shape], Path]) -> None:
    lines = {
        "/set temperature 1.5": "temperature: 1.5",
        "/set top-k=7": "top_k: 7",
        "/max-tokens 3": "max_tokens: 3",
        "/set temperature -1": "temperature: expected at least 0, found -1",
        "/set temperature hot": "temperature: expected a number, found 'hot'",
        "/max-tokens 0": "max_tokens: expected a whole number of at least 1, found 0",
        "/set temprature 1": "/set: expected one of frequency_penalty, ",
        "/set temperature": "temperature: 1.5",
        "/set temperature default": "temperature: as the model has it (0.0)",
        "/set max_tokens default": "max_tokens: as the model has it (4096)",
        "/set seed": "seed: as the model has it",
        "hello": " tokens at ",
        "/set": "top_k               7",
        "/regenerat": "/regenerat: no such command; /regenerate is one; /help lists them",
    }
    done = talk(checkpoint_dir(DENSE), "\n".join(lines))
    said = iter(done.stderr.splitlines())
    for line, expected in lines.items():
        assert any(expected in other for other in said), line


def test_help_and_leaving_have_the_names_of_other_programs(checkpoint_dir: Callable[[Shape], Path]) -> None:
    done = talk(checkpoint_dir(DENSE), "/?\n/bye\n/nope\n")
    assert "/regenerate" in done.stderr
    assert "no such command" not in done.stderr
    assert " tokens at " not in done.stderr


def test_a_file_that_is_no_text_is_no_saved_chat(checkpoint_dir: Callable[[Shape], Path], picture: Path) -> None:
    said = talk(checkpoint_dir(DENSE), f"/load {picture}\n").stderr
    assert f"{picture}: expected a saved chat, found what is no text\n" in said


def test_every_setting_reaches_the_answer(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """What /set takes, `ModelKit.stream` takes too."""
    settings = "\n".join(f"/set {name} 1" for name in SETTINGS)
    done = talk(checkpoint_dir(DENSE), f"{settings}\nhello\n")
    assert "1 tokens at" in done.stderr
    assert "expected" not in done.stderr


def test_the_help_is_as_narrow_as_the_terminal(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    lines = talk(checkpoint_dir(DENSE), "/help\n").stderr.splitlines()
    assert 45 < max(map(len, lines)) <= 50


def test_the_help_keeps_its_columns_at_80(checkpoint_dir: Callable[[Shape], Path]) -> None:
    lines = talk(checkpoint_dir(DENSE), "/help\n").stderr.splitlines()
    assert len(lines) > 20
    assert max(map(len, lines)) <= 80
    assert all(line[:17].rstrip() + " " == line[:17][: len(line[:17].rstrip()) + 1] for line in lines)
    for command in (
        "/regenerate",
        "/undo",
        "/edit",
        "/set NAME VALUE",
        "/max-tokens",
        "/effort",
        "/video",
        "/copy",
        "/exit",
    ):
        assert any(line.startswith(command) for line in lines)


def test_a_word_behind_exit_leaves_too_and_a_space_before_it_is_a_message(
    checkpoint_dir: Callable[[Shape], Path],
) -> None:
    done = talk(checkpoint_dir(DENSE), " /exit\n/exit now\n/nothing\n", "-m", "2")
    assert done.stderr.count("tokens/s") == 1
    assert "/nothing" not in done.stderr


def test_an_answer_is_copied(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """By the first of the programs that is there."""
    copied = tmp_path / "copied"
    program = tmp_path / "pbcopy"
    program.write_text(f"#!/bin/sh\ncat > {copied}\n")
    program.chmod(0o755)
    command = ("-m", "4", "--no-think")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.defpath}")
        done = talk(checkpoint_dir(DENSE), "hi\n/copy\n", *command)
        assert f"copied: {len(copied.read_text())} characters" in done.stderr
        assert copied.read_text() + "\n" == done.stdout
        patch.setenv("PATH", str(tmp_path / "nowhere"))
        assert "expected a clipboard" in talk(checkpoint_dir(DENSE), "hi\n/copy\n", *command).stderr


def test_what_nobody_can_be_asked_about_is_not_done(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = talk(checkpoint_dir(DENSE), f"/save {tmp_path}/mine\nexit\n", "-m", "2")
    assert "/save: expected a file that is not there yet" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"
    assert done.stderr.count("tokens/s") == 1  # `exit` is a word like others in a pipe


def test_the_history_may_be_nowhere() -> None:
    assert parse(["chat"]).history == Path("~/.mlx_qwen35/history")
    assert parse(["chat", "--no-history"]).history is None
    shown = " ".join(run("chat", "--help").stdout.split())
    assert "--history FILE keeps what you type (default: ~/.mlx_qwen35/history)" in shown
