"""Paths in a line, as people type them and as terminals paste them."""

import shlex
import time
from pathlib import Path

import pytest
from PIL import Image

from mlx_qwen35.cli.dropped import split_dropped_paths
from mlx_qwen35.errors import MediaError

SCREENSHOT = "Screenshot 2026-11-27 at 9.41.00\u202fAM.png"
NAMES = ("a.png", "my (second) picture.JPG", "it's.webp", "docs/b.png", "moving.apng", SCREENSHOT)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, and the user's home."""
    (tmp_path / "docs").mkdir()
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    for name in ("notes.txt", "report.pdf", "a report.pdf", "clip.mp4"):
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["as it is", "shell", "escaped", "double quotes", "url"])
def test_a_dropped_file_is_taken_however_it_is_written(folder: Path, name: str, form: str) -> None:
    path = folder / name
    written = {
        "as it is": str(path),
        "shell": shlex.quote(str(path)),
        "escaped": "".join(f"\\{letter}" if letter in " ()'" else letter for letter in str(path)),
        "double quotes": f'"{path}"',
        "url": path.as_uri(),
    }[form]
    for line in (f"{written} what is this?", f"what is this {written}", f"what is {written}, this?", written):
        rest, paths = split_dropped_paths(line)
        assert paths == [path], line
        assert rest.replace(",", "").split() == line.replace(written, "").replace(",", "").split()


def test_an_apostrophe_as_shells_quote_it(folder: Path) -> None:
    """What macOS and GNOME paste: the quotation ends, an escaped apostrophe, and it begins again."""
    written = f"'{folder}/it'\\''s.webp'"
    assert split_dropped_paths(f"{written} what?") == ("what?", [folder / "it's.webp"])


@pytest.mark.parametrize("written", ["docs/b.png", "./docs/b.png", "~/docs/b.png", "a.png", "docs/../a.png"])
def test_relative_paths_count(folder: Path, written: str) -> None:
    for line in (f"{written} what is this?", f"what is in {written}?"):
        _, paths = split_dropped_paths(line)
        assert [path.resolve() for path in paths] == [(folder / written.replace("~", ".")).resolve()]


@pytest.mark.parametrize("name", ["my (second) picture.JPG", "it's.webp", SCREENSHOT])
def test_a_name_with_spaces_as_they_are_counts_where_the_line_begins(folder: Path, name: str) -> None:
    assert split_dropped_paths(f"{name} what is this?") == ("what is this?", [Path(name)])
    assert split_dropped_paths(f"is {name} mine?") == (f"is {name} mine?", [])


def test_a_video_is_taken_too(folder: Path) -> None:
    assert split_dropped_paths("./clip.mp4 what happens?") == ("what happens?", [Path("clip.mp4")])


def test_several_in_a_line(folder: Path) -> None:
    line = f'compare {folder}/a.png and "{folder}/{NAMES[1]}" please'
    assert split_dropped_paths(line)[1] == [folder / "a.png", folder / NAMES[1]]
    line = f"{folder}/a.png {folder}/{NAMES[1]} which?"
    assert split_dropped_paths(line) == ("which?", [folder / "a.png", folder / NAMES[1]])


def test_punctuation_and_apostrophes_around_a_dropped_file(folder: Path) -> None:
    """Otherwise the question would go out without its picture."""
    path = folder / "a.png"
    rest, paths = split_dropped_paths(f"What's in {path}? It's mine")
    assert (rest.split(), paths) == (["What's", "in", "?", "It's", "mine"], [path])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/no/such.png what is it?", "/no/such.png: No such file"),
        ("/no/such file.png what is it?", "/no/such file.png: No such file"),
        ("'/no/such file.png' what is it?", "/no/such file.png: No such file"),
        ("docs/x.png", "docs/x.png: No such file"),
        ("x.png what is it?", "x.png: No such file"),
        ("~/x.png what is it?", "~/x.png: No such file"),
        ("./x what is it?", "./x: No such file"),
        ("~nobody-of-this-name/a.png", "~nobody-of-this-name/a.png: No such file"),
        ("file:///no/such%20file.png", "/no/such file.png: No such file"),
        ("docs what", None),
        ("./docs what is it?", "docs: expected a picture or a video .*found a directory"),
        ("/ what is it?", None),
        ("https://example.com/a.png what is it?", "a.png: expected a picture on this machine, found a web address"),
        ("/dev what is it?", "/dev: expected a picture or a video .*found a directory"),
        ("report.pdf sum it up", "report.pdf: expected a picture or a video .*found a PDF"),
        ("~/a report.pdf sum it up", "a report.pdf.*: expected a picture or a video .*found a PDF"),
        ("./notes.txt sum it up", "notes.txt: expected a picture or a video .*found a file of another kind"),
    ],
)
def test_a_line_that_begins_like_a_path_and_is_no_picture_s_is_refused(
    folder: Path, line: str, message: str | None
) -> None:
    if message is None:
        assert split_dropped_paths(line) == (line, [])
    else:
        with pytest.raises(MediaError, match=f"{message}.*; a space before the line sends it as text"):
            split_dropped_paths(line)


def test_a_document_behind_a_question_is_refused(folder: Path) -> None:
    with pytest.raises(MediaError, match="found a PDF"):
        split_dropped_paths(f"what is in {folder}/report.pdf?")


@pytest.mark.parametrize(
    "line",
    [
        "it's a dog's life",
        "'tis the season",
        "say 'hello",
        "1/2 + \\ x",
        "and/or is what?",
        "// is a comment in C",
        "/2 is half",
        "what does /usr/bin hold?",
        "put /img/logo.png into the page",
        "https://example.com/a is a page",
        "node.js or deno?",
        "it takes ~5 minutes",
        "~",
        "a ~/ b",
        "\\",
        "'",
        '"Quoted/words" mean what?',
        "\n",
    ],
)
def test_other_text_is_left_alone(folder: Path, line: str) -> None:
    assert split_dropped_paths(line) == (line, [])


@pytest.mark.parametrize("text", ["x" * 300_000, "x." * 150_000 + " y", "word " * 40_000])
def test_no_word_is_so_long_that_it_takes_long(folder: Path, text: str) -> None:
    before = time.process_time()
    assert split_dropped_paths(text) == (text, [])
    assert time.process_time() - before < 2


def test_a_long_text_takes_no_time(folder: Path) -> None:
    """A pasted book whose words look like paths: each is looked for a few times, not once for every word behind it."""
    text = "see /a/b /c/d " * 200
    looked = 0

    def count(self: Path) -> bool:
        nonlocal looked
        looked += 1
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", count)
        assert split_dropped_paths(text) == (text, [])
    assert 400 <= looked <= 4 * 400
