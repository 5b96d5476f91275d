"""Files that anybody may have made: regular ones, no larger and no deeper than a checkpoint's."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlx_qwen35.checkpoints import reading
from mlx_qwen35.checkpoints.reading import MAX_LEVELS, check_directory, is_file, read_json
from mlx_qwen35.errors import CheckpointError, ConfigError


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """The bytes that a text file may have, far fewer than are allowed."""
    monkeypatch.setattr(reading, "MAX_TEXT_BYTES", 100)
    return 100


def nested(levels: int, kind: str) -> Any:
    """So many levels of lists, of objects or of both in turn, in an object."""
    value: Any = None
    for level in range(levels - 1):
        value = [value] if kind == "lists" or (kind == "both" and level % 2) else {"a": value}
    return {"a": value}


def test_folders_and_links_are_no_trouble_and_hide_nothing_behind_them(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "b link to nothing").symlink_to("nowhere")
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "d.json").symlink_to("c.json")
    check_directory(tmp_path)
    os.mkfifo(tmp_path / "e")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe or a device$"):
        check_directory(tmp_path)


def test_a_link_to_a_device_is_none_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("/dev/null")
    with pytest.raises(CheckpointError, match="expected a file, found a pipe or a device$"):
        check_directory(tmp_path)


@pytest.mark.parametrize("suffix", [".json", ".jinja", ".txt", ".model"])
def test_texts_of_a_size_that_none_has_are_refused_unread(tmp_path: Path, limit: int, suffix: str) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(limit + 1))
    (tmp_path / f"a{suffix}").write_bytes(bytes(limit))
    check_directory(tmp_path)
    (tmp_path / f"a{suffix}").write_bytes(bytes(limit + 1))
    with pytest.raises(CheckpointError, match="expected at most 100 bytes, found 101$"):
        check_directory(tmp_path)


def test_a_directory_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: cannot be read \(No such file or directory\)"):
        check_directory(tmp_path / "nowhere")


def test_a_name_that_the_system_does_not_take_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert is_file(tmp_path / "a")
    assert not is_file(tmp_path)
    assert not is_file(tmp_path / ("a" * 5000))


def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}'.ljust(limit))
    assert read_json(path) == {"a": 1}
    path.write_text('{"a": 1}'.ljust(limit + 1))
    with pytest.raises(ConfigError, match=r"a\.json: expected at most 100 bytes, found more$"):
        read_json(path)


@pytest.mark.parametrize("kind", ["objects", "lists", "both"])
def test_values_may_be_nested_to_a_depth_and_no_further(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(nested(MAX_LEVELS, kind)))
    assert read_json(path) == nested(MAX_LEVELS, kind)
    path.write_text(json.dumps(nested(MAX_LEVELS + 1, kind)))
    with pytest.raises(ConfigError, match=r"a\.json: expected at most 100 levels of values inside each other, found"):
        read_json(path)


def test_a_depth_that_python_cannot_follow_is_too_deep(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a":' * 200_000)
    with pytest.raises(ConfigError, match=r"a\.json: expected at most 100 levels of values inside each other, found"):
        read_json(path)


def test_a_pointer_of_git_lfs_is_told_from_other_texts(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n")
    with pytest.raises(ConfigError, match=r"expected JSON, found a pointer of Git LFS to it; fetch the files"):
        read_json(path)
    path.write_text("version 2")
    with pytest.raises(ConfigError, match=r"expected JSON, found Expecting value"):
        read_json(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would never end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match=f"{path}: expected a file, found something else$"):
            read_json(path)
