"""The state of a chat, without a terminal."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_qwen35.cli.conversation import Conversation, is_video
from mlx_qwen35.errors import MediaError, OptionError


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.png", tmp_path / "my (second) picture.JPG", tmp_path / "it's.webp"]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    return paths


def test_images_go_with_the_next_message(pictures: list[Path]) -> None:
    conversation = Conversation(system="be brief")
    conversation.attach(pictures[0])
    conversation.attach(pictures[1])
    conversation.ask("what?")
    conversation.answer("this", "because")
    conversation.ask("and?")
    kinds = [[part["type"] for part in turn["content"]] for turn in conversation.turns if turn["role"] == "user"]
    assert kinds == [["image_url", "image_url", "text"], ["text"]]
    assert conversation.messages()[0] == {"role": "system", "content": "be brief"}
    assert conversation.messages()[2]["reasoning_content"] == "because"


def test_an_unanswered_question_is_taken_back_with_its_images(pictures: list[Path]) -> None:
    conversation = Conversation()
    conversation.attach(pictures[0])
    waiting = list(conversation.waiting)
    conversation.ask("what?")
    assert conversation.take_back() == "what?"
    assert (conversation.turns, conversation.waiting) == ([], waiting)


def test_taking_back_goes_to_the_last_question(pictures: list[Path]) -> None:
    """With everything that followed it; pictures that wait already stay behind its own."""
    conversation = Conversation()
    conversation.ask("one")
    conversation.answer("first", "")
    conversation.attach(pictures[0])
    conversation.ask("two")
    conversation.answer("second", "")
    assert conversation.last_answer() == "second"
    answer = conversation.take_back_answer()
    assert [turn["content"] for turn in answer] == ["second"]
    conversation.turns += answer
    own = conversation.turns[2]["content"][0]
    conversation.attach(pictures[1])
    assert conversation.take_back() == "two"
    assert conversation.waiting[0] == own
    assert len(conversation.waiting) == 2
    assert [turn["role"] for turn in conversation.turns] == ["user", "assistant"]
    assert conversation.take_back() == "one"
    for nothing in (conversation.take_back, conversation.take_back_answer, conversation.last_answer):
        with pytest.raises(OptionError, match="found none yet"):
            nothing()


def test_of_several_pictures_all_are_kept_or_none(pictures: list[Path], tmp_path: Path) -> None:
    conversation = Conversation()
    with pytest.raises(MediaError):
        conversation.attach(pictures[0], tmp_path / "nothing.png")
    assert conversation.waiting == []


def test_a_bad_image_changes_nothing(tmp_path: Path) -> None:
    conversation = Conversation()
    with pytest.raises(MediaError):
        conversation.attach(tmp_path / "nothing.png")
    assert conversation.waiting == []


def test_saving_keeps_everything_even_if_the_image_file_goes(pictures: list[Path], tmp_path: Path) -> None:
    conversation = Conversation(system="s", effort="low")
    conversation.attach(pictures[0])
    conversation.ask("what?")
    conversation.answer("ä 漢", "")
    conversation.save(tmp_path / "chat.json")
    pictures[0].unlink()
    assert Conversation.load(tmp_path / "chat.json") == conversation


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"format": "other", "messages": []}', '{"format": "mlx-qwen35 chat 1"}']
)
def test_files_that_are_no_chat_are_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "chat.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError, match=str(path)):
        Conversation.load(path)


MESSAGES_NO_CHAT_WRITES: list[tuple[Any, str]] = [
    ("x", r"messages\[0\]: expected a message, found 'x'"),
    ({"content": "x"}, r"messages\[0\].role: expected user or assistant, found None"),
    ({"role": ["user"], "content": "x"}, r"messages\[0\].role: "),
    ({"role": "user"}, r"messages\[0\].content: expected text or a list of parts, found None"),
    ({"role": "user", "content": {"type": "text"}}, r"messages\[0\].content: "),
    ({"role": "user", "content": ["x"]}, r"messages\[0\].content\[0\]: expected a part"),
    ({"role": "user", "content": [{"text": "x"}]}, r"content\[0\].type: expected one of text, image_url, video, found"),
    ({"role": "user", "content": [{"type": "text", "text": 5}]}, r"content\[0\].text: expected text, found 5"),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
        r"image_url.url: expected text, found None",
    ),
    ({"role": "user", "content": [{"type": "video", "video": 3}]}, r"content\[0\].video: expected text, found 3"),
    ({"role": "assistant", "content": [{"type": "text", "text": "x"}]}, r"messages\[0\].content: expected text"),
    ({"role": "assistant", "content": "x", "reasoning_content": 3}, r"messages\[0\].reasoning_content: "),
    ({"role": "user", "content": "\ud800"}, "expected a saved chat"),
]


@pytest.mark.parametrize(("message", "expected"), MESSAGES_NO_CHAT_WRITES)
def test_a_message_that_no_chat_writes_is_refused_with_its_place(tmp_path: Path, message: Any, expected: str) -> None:
    (tmp_path / "chat.json").write_text(json.dumps({"format": "mlx-qwen35 chat 1", "messages": [message]}))
    with pytest.raises(OptionError, match=f"chat.json: .*{expected}"):
        Conversation.load(tmp_path / "chat.json")


@pytest.mark.parametrize(
    ("name", "value"), [("system", "[1]"), ("thinking", "1"), ("effort", '"most"'), ("effort", '["low"]'),
                        ("messages", "[" * 100_000), ("system", "9" * 5000), ("system", "NaN")]
)  # fmt: skip
def test_settings_that_no_chat_writes_are_refused(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "chat.json").write_text(f'{{"format": "mlx-qwen35 chat 1", "messages": [], "{name}": {value}}}')
    with pytest.raises(OptionError, match="chat.json: .*expected"):
        Conversation.load(tmp_path / "chat.json")


def test_a_device_is_no_saved_chat() -> None:
    with pytest.raises(OptionError, match=f"^{os.devnull}: expected a file, found a directory or a device$"):
        Conversation.load(os.devnull)


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    Conversation(system="before").save(tmp_path / "chat.json")
    with pytest.raises(OptionError, match="expected valid Unicode in the conversation, found"):
        Conversation(system="\udcff").save(tmp_path / "chat.json")
    assert Conversation.load(tmp_path / "chat.json").system == "before"


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Conversation(system="before").save(tmp_path / "chat.json")
    write = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OptionError, match=r"chat.json: cannot be written \(No space left on device\)"):
        Conversation(system="after").save(tmp_path / "chat.json")
    assert [file.name for file in tmp_path.iterdir()] == ["chat.json"]
    assert Conversation.load(tmp_path / "chat.json").system == "before"


def test_what_is_overwritten_keeps_its_link_and_its_mode(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "chat.json", tmp_path / "chat.json"
    Conversation(system="before").save(file)
    file.chmod(0o600)
    link.symlink_to(file)
    Conversation(system="after").save(link)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o600
    assert Conversation.load(file).system == "after"
    Conversation().save(os.devnull)
    assert not Path(os.devnull).is_file()


def test_saving_to_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        Conversation().save(tmp_path / "missing" / "chat.json")


def test_nothing_is_saved_through_a_link_to_itself(tmp_path: Path) -> None:
    link = tmp_path / "chat.json"
    link.symlink_to(link)
    Conversation(system="one").save(link)
    assert Conversation.load(link).system == "one"


@pytest.mark.parametrize("name", ["n" * 300, "n" * 300 + ".mp4"])
def test_names_that_no_file_can_have_are_told(name: str) -> None:
    with pytest.raises(OptionError, match="File name too long"):
        Conversation.load(name)
    with pytest.raises(MediaError, match="expected a file, found none"):
        Conversation().attach_video(name)
    assert is_video(Path(name)) == name.endswith(".mp4")


def test_images_may_be_named_by_url(pictures: list[Path]) -> None:
    conversation = Conversation()
    conversation.attach(pictures[1].as_uri())
    conversation.attach(conversation.waiting[0]["image_url"]["url"])
    assert conversation.waiting[0] == conversation.waiting[1]


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x.json", "a\0b", "\ud800", ""])
def test_paths_that_cannot_be_resolved_are_told(path: str) -> None:
    for use in (Conversation().save, Conversation.load):
        with pytest.raises(OptionError, match="file: "):
            use(path)
    with pytest.raises(MediaError):
        Conversation().attach(path)


def test_what_moves_is_a_video(pictures: list[Path], tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        moving = tmp_path / f"moving {name}"
        frames[0].save(moving, save_all=True, append_images=frames[1:])
        assert is_video(moving)
    assert [path for path in pictures if is_video(path)] == []
    for name, expected in (("clip.mp4", True), ("broken.gif", False), ("missing.png", False)):
        if name.startswith("broken"):
            (tmp_path / name).write_bytes(b"GIF89a")
        assert is_video(tmp_path / name) is expected


def test_a_pipe_is_not_opened_to_see_whether_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    opened: list[Path] = []
    monkeypatch.setattr(Image, "open", lambda path, **_: opened.append(path))  # as it is, it waits for the other end
    assert not is_video(tmp_path / "pipe.png")
    assert opened == []


def test_videos_go_with_the_next_message_behind_the_images(pictures: list[Path], tmp_path: Path) -> None:
    """By their absolute paths, with what is said about them; a file that is saved names them too."""
    clip = tmp_path / "clip.gif"
    clip.write_bytes(b"GIF89a")
    chat = Conversation()
    chat.attach(pictures[0])
    chat.attach_video(clip, fps=1.5)
    chat.ask("what happens?")
    image, video, text = chat.turns[0]["content"]
    assert (image["type"], text["type"]) == ("image_url", "text")
    assert video == {"type": "video", "video": str(clip), "fps": 1.5}
    chat.take_back()
    assert chat.waiting == [image, video]
    chat.ask("and now?")
    chat.save(tmp_path / "chat.json")
    assert Conversation.load(tmp_path / "chat.json").turns == chat.turns
    chat.attach_video(clip)
    chat.clear()
    assert chat.waiting == []


def test_a_video_that_is_not_there_is_refused(tmp_path: Path) -> None:
    chat = Conversation()
    with pytest.raises(MediaError, match=r"video .*none.mp4.*: expected a file, found none"):
        chat.attach_video(tmp_path / "none.mp4")
    assert chat.waiting == []
