"""The state of a chat, without a terminal."""

from pathlib import Path

import pytest
from PIL import Image

from mlx_qwen35.cli.conversation import Conversation, split_dropped_paths
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
    conversation.take_back()
    assert (conversation.turns, conversation.waiting) == ([], waiting)


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


def test_saving_to_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        Conversation().save(tmp_path / "missing" / "chat.json")


def test_dropped_files_are_recognised(pictures: list[Path]) -> None:
    """As terminals paste them: escaped, in quotes, or as file: URLs."""
    plain, second, third = pictures
    escaped = str(second).replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")
    forms = {
        f"what is {plain}": ("what is", [plain]),
        f"{escaped} what is this?": ("what is this?", [second]),
        f"'{second}'": ("", [second]),
        f'compare {plain} and "{second}" please': ("compare   and   please", [plain, second]),
        f"{second.as_uri()} look": ("look", [second]),
        f'"{third}"': ("", [third]),
    }
    for line, (rest, paths) in forms.items():
        found, found_paths = split_dropped_paths(line)
        assert (found.split(), found_paths) == (rest.split(), paths)


def test_other_text_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for line in (
        "it's a dog's life",
        "/nowhere/picture.png",
        "a.png",
        f"{tmp_path}/notes.txt",
        "say 'hello",
        "1/2 + \\ x",
    ):
        assert split_dropped_paths(line) == (line, [])


@pytest.mark.parametrize("line", ["it takes ~5 minutes", "~nobody-of-this-name/a.png", "~", "a ~/ b", "\\", "'"])
def test_a_tilde_is_no_reason_to_stop(line: str) -> None:
    assert split_dropped_paths(line) == (line, [])


def test_punctuation_and_apostrophes_around_a_dropped_file(pictures: list[Path]) -> None:
    """Otherwise the question would go out without its picture."""
    plain = pictures[0]
    for line, rest in {
        f"What's in {plain}? It's mine": "What's in ? It's mine",
        f"see {plain}, ok": "see , ok",
    }.items():
        found, paths = split_dropped_paths(line)
        assert (found.split(), paths) == (rest.split(), [plain])


def test_images_may_be_named_by_url(pictures: list[Path]) -> None:
    conversation = Conversation()
    conversation.attach(pictures[1].as_uri())
    conversation.attach(conversation.waiting[0])
    assert conversation.waiting[0] == conversation.waiting[1]


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x.json", "a\0b"])
def test_paths_that_cannot_be_resolved_are_told(path: str) -> None:
    for use in (Conversation().save, Conversation.load):
        with pytest.raises(OptionError, match="file: "):
            use(path)
    with pytest.raises(MediaError):
        Conversation().attach(path)


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
    assert (len(chat.waiting), chat.waiting_videos) == (1, [video])
    chat.ask("and now?")
    chat.save(tmp_path / "chat.json")
    assert Conversation.load(tmp_path / "chat.json").turns == chat.turns
    chat.attach_video(clip)
    chat.clear()
    assert chat.waiting_videos == []


def test_a_video_that_is_not_there_is_refused(tmp_path: Path) -> None:
    chat = Conversation()
    with pytest.raises(MediaError, match=r"video .*none.mp4: expected a file, found none"):
        chat.attach_video(tmp_path / "none.mp4")
    assert chat.waiting_videos == []
