"""Downloads from a small hub of our own: sizes first, a mirror, resumption, and every way to fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio import cli
from studio.model import hub
from studio.model.recipes import RECIPES, Needed, locate

NAME = "self-forcing-1.3b"
COMMIT = "0" * 40


def content(file: str) -> bytes:
    # Larger than the client's chunks, of which a break keeps the whole ones.
    return (file.encode() + b"-") * (800_000 if file.endswith(".pt") else 4000)


class Hub(BaseHTTPRequestHandler):
    """Answers what the client asks while it fetches a file; `lacking` files are not there."""

    lacking: frozenset[str] = frozenset()
    breaking: set[str] = set()
    gets: list[str] = []
    ranges: list[str] = []

    def log_message(self, *_):
        pass

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        raw = self.rfile.read(length).decode()
        from urllib.parse import parse_qs

        names = json.loads(raw)["paths"] if raw.startswith("{") else parse_qs(raw)["paths"]
        found = [
            {"type": "file", "path": n, "size": len(content(n)), "oid": "1" * 40}
            for n in names
            if n not in self.lacking
        ]
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def do_HEAD(self):
        self._file(body=False)

    def do_GET(self):
        self._file(body=True)

    def _file(self, body: bool):
        if "/resolve/main/" not in self.path and f"/resolve/{COMMIT}/" not in self.path:
            return self._send(404, b"{}", {})
        file = self.path.split("/resolve/")[1].split("/", 1)[1]
        data = content(file)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked, status = self.headers.get("Range"), 200
        if asked and body:
            self.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        if body:
            self.gets.append(file)
        if body and file in self.breaking:
            self.breaking.remove(file)
            return self._send(status, data, headers, body, broken=True)
        return self._send(status, data, headers, body)

    def _send(self, status, data, headers, body=True, broken=False):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) * 3 // 4] if broken else data)
        self.close_connection = broken or self.close_connection


@pytest.fixture
def mirror():
    Hub.lacking, Hub.breaking, Hub.gets, Hub.ranges = frozenset(), set(), [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def download(*words: str, endpoint: str, home: Path, offline: str = "0") -> subprocess.CompletedProcess:
    """In a process of its own, because the hub's client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "studio.cli", "download", *words],
        env={**os.environ, **settings, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        timeout=120,
        check=False,
    )


def test_a_whole_model_from_a_mirror_into_a_folder(mirror, tmp_path):
    folder = tmp_path / "models"
    ran = download(NAME, "--local-dir", str(folder), endpoint=mirror, home=tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    assert "in all" in ran.stderr
    assert ran.stderr.index("in all") < ran.stderr.rindex("gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt")
    places = locate(RECIPES[NAME], [folder])
    assert None not in places.values()
    for needed, path in places.items():
        assert path is not None
        assert path.read_bytes() == content(needed.file)
    again = download(NAME, "--local-dir", str(folder), endpoint=mirror, home=tmp_path / "home")
    assert again.returncode == 0
    assert "0.0 MiB to fetch" in again.stderr


def test_into_the_cache_with_sizes_only_first(mirror, tmp_path):
    ran = download(NAME, "--dry-run", endpoint=mirror, home=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stdout
    assert "MiB" in ran.stderr
    assert not list(tmp_path.rglob("*.pt"))
    ran = download(NAME, endpoint=mirror, home=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split("\n")) == len(RECIPES[NAME].files) + 1


def test_a_broken_connection_goes_on_where_it_ended(mirror, tmp_path):
    Hub.breaking = {"checkpoints/self_forcing_dmd.pt"}
    ran = download(NAME, "--local-dir", str(tmp_path / "models"), endpoint=mirror, home=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert not Hub.breaking
    assert any(asked.startswith("bytes=") and not asked.startswith("bytes=0-") for asked in Hub.ranges), Hub.ranges
    file = "checkpoints/self_forcing_dmd.pt"
    assert (tmp_path / "models" / "Self-Forcing" / file).read_bytes() == content(file)


def test_whole_files_are_not_fetched_again(mirror, tmp_path):
    folder = tmp_path / "models"
    assert download(NAME, "--local-dir", str(folder), endpoint=mirror, home=tmp_path).returncode == 0
    (folder / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").write_bytes(b"half")
    Hub.gets.clear()
    again = download(NAME, "--local-dir", str(folder), endpoint=mirror, home=tmp_path)
    assert again.returncode == 0, again.stderr
    assert Hub.gets == ["Wan2.1_VAE.pth"]
    assert None not in locate(RECIPES[NAME], [folder]).values()


def test_no_hub_names_the_files_and_their_places(tmp_path):
    ran = download(NAME, "--local-dir", str(tmp_path), endpoint="http://127.0.0.1:9", home=tmp_path / "home")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "http://127.0.0.1:9 could not serve" in ran.stderr
    for needed in RECIPES[NAME].files:
        assert f"{needed.repository} {needed.file}  ->  {tmp_path / needed.local}" in ran.stderr
    assert f"STUDIO_MODELS={tmp_path}" in ran.stderr


def test_offline_mode_is_kept(mirror, tmp_path):
    ran = download(NAME, endpoint=mirror, home=tmp_path, offline="1")
    assert ran.returncode == 1
    assert "offline" in ran.stderr.lower()
    assert "checkpoints/self_forcing_dmd.pt" in ran.stderr


def whole(folder: Path) -> Path:
    for needed in RECIPES[NAME].files:
        (folder / needed.local).parent.mkdir(parents=True, exist_ok=True)
        (folder / needed.local).write_bytes(content(needed.file))
    return folder


@pytest.mark.parametrize("where", ["cache", "folder", "STUDIO_MODELS"])
def test_files_that_are_here_need_no_hub(mirror, tmp_path, monkeypatch, where):
    options = {"endpoint": "http://127.0.0.1:9", "home": tmp_path / "home"}
    words = [NAME]
    if where == "cache":
        assert download(NAME, endpoint=mirror, home=tmp_path / "home").returncode == 0
        options |= {"endpoint": mirror, "offline": "1"}
        Hub.gets.clear()
    if where == "folder":
        words += ["--local-dir", str(whole(tmp_path / "models"))]
    if where == "STUDIO_MODELS":
        monkeypatch.setenv("STUDIO_MODELS", str(whole(tmp_path / "models")))
        options["endpoint"] = mirror
    ran = download(*words, **options)
    assert ran.returncode == 0, ran.stderr
    assert "0.0 MiB to fetch" in ran.stderr
    assert len(ran.stdout.split()) == len(RECIPES[NAME].files)
    assert not Hub.gets


def test_only_what_is_missing_is_named(tmp_path):
    folder = whole(tmp_path / "models")
    (folder / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").unlink()
    ran = download(NAME, "--local-dir", str(folder), endpoint="http://127.0.0.1:9", home=tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.count("  ->  ") == 1
    assert "Wan2.1_VAE.pth" in ran.stderr


def test_a_file_that_the_hub_lacks(mirror, tmp_path):
    Hub.lacking = frozenset({"Wan2.1_VAE.pth"})
    ran = download(NAME, endpoint=mirror, home=tmp_path)
    assert ran.returncode == 1
    assert "has no Wan2.1_VAE.pth" in ran.stderr


def test_too_little_space_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    items = tuple(hub.Item(needed=needed, size=2**50, path=None) for needed in RECIPES[NAME].files)
    wanted = hub.Order(recipe=RECIPES[NAME], items=items, folder=tmp_path / "a" / "b")
    with pytest.raises(OSError, match="make room or choose another place"):
        hub.fetch(wanted)


@pytest.mark.parametrize(
    ("words", "message"), [(["self-forcng"], "did you mean 'self-forcing-1.3b'"), ([], "be given")]
)
def test_unknown_and_missing_names(words, message, capsys):
    assert cli.main(["download", *words]) == 1
    assert message in capsys.readouterr().err


def test_the_list_needs_no_network(capsys):
    assert cli.main(["download", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)
    assert cli.main(["download", "longlive-1.3b", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "models/lora.pt" in shown
    assert "CausVid" not in shown


def test_recipes_are_whole():
    from studio.config import PRESETS

    for name, recipe in RECIPES.items():
        assert name in PRESETS
        assert len(set(recipe.files)) == len(recipe.files)
    shards = [needed.file for needed in RECIPES["wan2.1-t2v-14b"].dit]
    assert shards[0] == "diffusion_pytorch_model.safetensors.index.json"
    assert shards[-1] == "diffusion_pytorch_model-00006-of-00006.safetensors"
    assert Needed(repository="a/B", file="c/d.pt").local == Path("B/c/d.pt")


VAE = "Wan2.1_VAE.pth"


@pytest.fixture
def fetched(monkeypatch):
    """What the hub's client is asked to fetch, as (file, where to, whether anew); it writes what it is asked for."""
    asked = []

    def fetch(repository, file, *, local_dir, endpoint, force_download):
        asked.append((file, local_dir, force_download))
        return str(local_dir or "cache") + f"/{file}"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(hub, "_sizes", lambda files: {needed: len(content(needed.file)) for needed in files})
    return asked


def test_a_folder_of_models_is_mended_where_it_is(mirror, tmp_path, monkeypatch):
    folder = whole(tmp_path / "models")
    file = folder / "Wan2.1-T2V-1.3B" / VAE
    file.write_bytes(b"half")
    monkeypatch.setenv("STUDIO_MODELS", str(folder))
    ran = download(NAME, endpoint=mirror, home=tmp_path / "home")
    assert ran.returncode == 0, ran.stderr
    assert Hub.gets == [VAE] and file.read_bytes() == content(VAE)
    assert ran.stdout.split() == [str(folder / needed.local) for needed in RECIPES[NAME].files]
    assert ran.stdout.split() == [str(path) for path in locate(RECIPES[NAME]).values()]


@pytest.mark.parametrize("left", ["spoilt", "missing", "nothing of the repository"])
def test_files_go_where_the_others_of_their_repository_are(fetched, tmp_path, monkeypatch, left):
    folder = whole(tmp_path / "models").joinpath("Wan2.1-T2V-1.3B")
    monkeypatch.setenv("STUDIO_MODELS", os.pathsep.join((str(tmp_path / "first"), str(tmp_path / "models"))))
    if left == "spoilt":
        (folder / VAE).write_bytes(b"half")
    elif left == "missing":
        (folder / VAE).unlink()
    else:
        shutil.rmtree(folder)
    hub.fetch(hub.order(NAME))
    if left != "nothing of the repository":
        assert fetched == [(VAE, folder, left == "spoilt")]
        return
    assert {(place, anew) for _, place, anew in fetched} == {(None, False)}
    assert [file for file, _, _ in fetched] == [n.file for n in RECIPES[NAME].files if "Wan2.1" in n.repository]


def test_a_spoilt_file_in_the_cache_is_fetched_again(fetched, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"half")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: str(tmp_path / "file"))
    hub.fetch(hub.order(NAME))
    assert fetched == [(needed.file, None, True) for needed in RECIPES[NAME].files]


def test_a_folder_by_its_sign_or_from_here_is_named_whole(fetched, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    whole(tmp_path / "models")
    for words in (["--local-dir=~/models"], ["--local-dir", "models"]):
        assert cli.main(["download", NAME, *words]) == 0
        said = capsys.readouterr()
        assert f"set STUDIO_MODELS={tmp_path / 'models'} so" in said.err
        assert said.out.split() == [str(tmp_path / "models" / needed.local) for needed in RECIPES[NAME].files]
    assert not fetched


def test_a_file_for_a_folder_is_not_the_hubs_fault(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(hub, "_sizes", lambda files: pytest.fail("the hub was asked"))
    assert cli.main(["download", NAME, "--local-dir", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert f"`--local-dir` must be a folder, got the file {tmp_path / 'file'}" in said and "HF_ENDPOINT" not in said


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOTDIR])
def test_what_the_disk_refuses_is_not_the_hubs_fault(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "there"))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    items = tuple(hub.Item(needed=needed, size=1, path=None, into=tmp_path) for needed in RECIPES[NAME].files)
    with pytest.raises(OSError, match=r"cannot be written: .*there .*; mend that, or choose") as error:
        hub.fetch(hub.Order(recipe=RECIPES[NAME], items=items, folder=None))
    assert not isinstance(error.value, ConnectionError)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: refuse.missing)
    with pytest.raises(ConnectionError, match="could not serve"):
        hub.fetch(hub.Order(recipe=RECIPES[NAME], items=items, folder=None))


def test_space_is_counted_where_the_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    asked = []
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr("shutil.disk_usage", lambda path: asked.append(path) or usage)
    first, second, *rest = RECIPES[NAME].files
    (tmp_path / "m").mkdir()
    items = [hub.Item(needed=first, size=8, path=None), hub.Item(needed=second, size=8, path=None, into=tmp_path / "m")]
    items += [hub.Item(needed=needed, size=2**50, path=tmp_path) for needed in rest]
    hub._require_space(hub.Order(recipe=RECIPES[NAME], items=tuple(items), folder=None))
    assert asked == [tmp_path, tmp_path / "m"]
    usage.free = 7
    with pytest.raises(OSError, match="make room or choose another place"):
        hub._require_space(hub.Order(recipe=RECIPES[NAME], items=tuple(items), folder=None))
    # A drive that is not there has no folder above that is.
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(FileNotFoundError, match="choose another place with --local-dir"):
        hub._require_space(hub.Order(recipe=RECIPES[NAME], items=tuple(items), folder=None))
