"""Finding a checkpoint: a directory as it is, a hub id through the cache, and trouble with either."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.hub import find_checkpoint, find_file
from mlx_qwen35.errors import CheckpointError, OptionError
from tests.checkpoints.hub_server import COMMIT, HubServer
from tests.tiny import DENSE, Shape


def fake_hub_cache(root: Path, source: Path) -> None:
    """What huggingface_hub leaves behind after a download of tiny/model."""
    repository = root / "models--tiny--model"
    shutil.copytree(source, repository / "snapshots" / "abc")
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")


def test_hub_ids_come_from_the_cache_when_offline(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True, raising=False)
    fake_hub_cache(tmp_path, checkpoint_dir(DENSE))
    assert find_checkpoint("tiny/model") == tmp_path / "models--tiny--model" / "snapshots" / "abc"
    with pytest.raises(CheckpointError, match="tiny/other: not in the local cache, and the hub cannot be reached"):
        find_checkpoint("tiny/other")


def test_a_revision_of_a_directory_is_refused(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with pytest.raises(OptionError, match="revision: expected only with a hub id, found main"):
        ModelKit.load(checkpoint_dir(DENSE), revision="main")


def hub_errors() -> list[tuple[Exception, str]]:
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    response = httpx2.Response(404, request=httpx2.Request("GET", "https://example.com"))
    return [
        (GatedRepoError("no", response=response), "the repository is gated: accept its terms"),
        (RepositoryNotFoundError("no", response=response), "no such directory, and no such repository on the hub"),
        (RevisionNotFoundError("no", response=response), "the repository has no revision v2"),
        (httpx2.ReadTimeout("slow"), r"the download failed \(ReadTimeout: slow\)"),
        (OSError(28, "No space left on device"), "the download failed .*No space left"),
        (HFValidationError("bad"), r"no such directory, and no such repository on the hub \(HFValidationError: bad\)$"),
        (OSError("\n one\ntwo"), r"the download failed \(OSError: one\)$"),
        (OSError(), r"the download failed \(OSError\)$"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_trouble_with_the_hub_is_told_in_the_right_words(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    error, message = hub_errors()[number]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"owner/name: {message}"):
        find_checkpoint("owner/name", revision="v2")


def test_a_repository_without_the_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def fail(*args: Any, **kwargs: Any) -> None:
        request = httpx2.Request("GET", "https://example.com")
        raise RemoteEntryNotFoundError("no", response=httpx2.Response(404, request=request))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"owner/name: the repository has no config\.json \(RemoteEntry"):
        find_file("owner/name", "config.json")


def test_what_the_hub_answered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client says of every answer that it cannot use that one should look after the connection."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def fail(*args: Any, **kwargs: Any) -> None:
        response = httpx2.Response(403, request=httpx2.Request("GET", "https://example.com"))
        raise LocalEntryNotFoundError("check your connection") from HfHubHTTPError("403 Forbidden", response=response)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"the hub did not give it \(HfHubHTTPError: 403 Forbidden\)$"):
        find_file("owner/name", "config.json")


def test_files_and_repositories_of_llama_cpp_are_called_that(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"found a file; llama\.cpp's format \(GGUF\) is not read"):
        find_checkpoint(tmp_path / "model-q4.gguf")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"LocalEntryNotFoundError: no\); llama\.cpp's format"):
        find_file("owner/Model-GGUF", "config.json")


def test_one_file_is_that_of_the_revision_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(*names: str, **options: Any) -> str:
        asked.append((names, options))
        return str(tmp_path / "config.json")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert find_file("owner/name", "config.json", "v2") == tmp_path / "config.json"
    assert asked == [(("owner/name", "config.json"), {"revision": "v2"})]


@pytest.mark.thorough
def test_hub_ids_obey_the_environment(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """HF_HOME says where the cache is, HF_HUB_OFFLINE that nothing else may be asked."""
    import os
    import subprocess
    import sys

    fake_hub_cache(tmp_path / "hub", checkpoint_dir(DENSE))
    script = """
from mlx_qwen35.cli.main import main
codes = [main(["generate", "-p", "hi", "-m", "2", "--model", name]) for name in ("tiny/model", "tiny/other")]
print(codes)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[0, 2]\n")
    assert "tiny/other: not in the local cache, and the hub cannot be reached" in done.stderr


@pytest.mark.parametrize("path", ["~nobody-of-this-name/model", "a\0b/c"])
def test_paths_that_cannot_be_resolved_are_errors(path: str) -> None:
    with pytest.raises(CheckpointError, match="model: "):
        find_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("config.json", True), ("model.safetensors", True), ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True), ("mtp/model-mtp.safetensors", True), ("chat_template.jinja", True),
        ("merges.txt", True),
        ("modeling_evil.py", False), ("pytorch_model.bin", False), ("training_args.pt", False), ("weights.pkl", False),
        ("model.gguf", False), ("original/consolidated.00.pth", False), ("setup.sh", False), ("json.py", False),
        ("evil.json.py", False), ("model.safetensors.bin", False),
    ],
)  # fmt: skip
def test_only_data_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, wanted: bool) -> None:
    """No program and no pickle, by huggingface_hub's own matching."""
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_checkpoint("owner/name", revision="v2") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v2")
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns") if key in asked}
    assert list(filter_repo_objects([name], **patterns)) == [name] * wanted


@pytest.mark.parametrize(
    "name",
    [Path("owner/name"), "./owner/name", "../name", "/owner/name", "~/name", "name", "owner/name/", "a/b/c", ""],
    ids=repr,
)  # fmt: skip
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | Path
) -> None:
    """It would tell others what stands on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    expected = (
        "expected an existing directory or a hub id like 'owner/name'" if name else "expected a path, found an empty"
    )
    with pytest.raises(CheckpointError, match=expected):
        find_checkpoint(name)


@pytest.fixture
def hub(
    tmp_path: Path, checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub that huggingface_hub's own client asks, with an empty cache."""
    import huggingface_hub.constants as constants

    files = tmp_path / "repository"
    shutil.copytree(checkpoint_dir(DENSE), files)
    server = HubServer(files)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_is_downloaded_by_huggingface_hub(hub: HubServer) -> None:
    (hub.files / "modeling_evil.py").write_text("raise SystemExit")
    (hub.files / "pytorch_model.bin").write_bytes(b"pickle")
    directory = find_checkpoint("tiny/model")
    assert directory.name == COMMIT
    wanted = {file.name for file in hub.files.iterdir()} - {"modeling_evil.py", "pytorch_model.bin"}
    assert {file.name for file in directory.iterdir()} == wanted
    assert all((directory / name).read_bytes() == (hub.files / name).read_bytes() for name in wanted)
    assert sorted(hub.sent) == sorted(wanted)
    # Nothing comes twice.
    assert find_checkpoint("tiny/model") == directory
    assert len(hub.sent) == len(wanted)


def test_a_download_that_breaks_off_is_tried_again(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.broken = "model.safetensors"
    directory = find_checkpoint("tiny/model")
    whole = (hub.files / "model.safetensors").read_bytes()
    assert (directory / "model.safetensors").read_bytes() == whole
    assert hub.sent.count("model.safetensors") == 2


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("gated/model", None, "gated/model: the repository is gated: accept its terms"),
        ("tiny/other", None, "tiny/other: no such directory, and no such repository on the hub"),
        ("tiny/model", "v9", "tiny/model: the repository has no revision v9"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: HubServer, name: str, revision: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(name, revision=revision)


def test_a_hub_that_cannot_be_reached_is_told(hub: HubServer) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(CheckpointError, match="tiny/model: not in the local cache, and the hub cannot be reached"):
        find_checkpoint("tiny/model")
