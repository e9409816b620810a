"""Tables of contents over files, and memory while a network is filled from many of them."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from studio.model.filling import fill
from studio.model.shards import write_shards
from studio.model.sources import Source, open_source, open_stem

WIDTH, LAYERS = 256, 12


def stack() -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


@pytest.fixture
def folder(tmp_path) -> Path:
    write_shards(tmp_path, "net", stack().state_dict(), limit=600_000)
    torch.save(stack().state_dict(), tmp_path / "net.pth")
    return tmp_path


def meta() -> nn.Sequential:
    with torch.device("meta"):
        return stack()


def test_a_table_reads_no_values(folder, monkeypatch):
    source = open_stem(folder, "net")
    assert len(source.files) == 6
    assert source.shapes["3.weight"] == (WIDTH, WIDTH)
    assert {entry.dtype for entry in source.entries.values()} == {torch.float32}
    part = source.renamed(lambda name: name if name.startswith("3.") else None)
    assert [name for name, _ in part.tensors()] == ["3.bias", "3.weight"]


def test_shards_are_read_file_by_file(folder):
    source = open_stem(folder, "net")
    order = [source.entries[name].file for name, _ in source.tensors()]
    assert order == sorted(order)


def test_nested_mappings_are_parted(tmp_path):
    torch.save(
        {"a": {"b": {"x": torch.ones(2)}, "y": torch.zeros(1)}, "step": 3, "z.z": torch.zeros(3)}, tmp_path / "c.pt"
    )
    source = open_source(tmp_path / "c.pt")
    assert source.shapes == {"a.b.x": (2,), "a.y": (1,), "z.z": (3,)}
    assert dict(source.part("a", "b").tensors())["x"].tolist() == [1.0, 1.0]
    assert source.part("c").shapes == {}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_every_type(tmp_path, dtype, ending):
    state = {"x": torch.ones(3).to(dtype)}
    save_file(state, tmp_path / "x.safetensors") if ending == "safetensors" else torch.save(state, tmp_path / "x.pt")
    source = open_source(tmp_path / f"x.{ending}")
    assert source.entries["x"].dtype == dtype
    assert next(source.tensors())[1].dtype == dtype


def test_a_file_that_goes_while_reading(folder):
    source = open_source(folder / "net.pth")
    (folder / "net.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.pth is missing"):
        list(source.tensors())


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "no json"])
def test_an_index_that_is_none(folder, index):
    (folder / "net.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=r"index\.json must"):
        open_stem(folder, "net")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_that_points_outside(folder, name):
    (folder / "net.safetensors.index.json").write_text(json.dumps({"weight_map": {"0.weight": name}}))
    with pytest.raises(ValueError, match="files of its own folder"):
        open_stem(folder, "net")


def watched(source: Source, dtype: torch.dtype | None) -> tuple[int, int]:
    """Fill a network; most bytes of read values alive at once, and the largest value."""
    alive: dict[int, int] = {}
    most, largest = 0, 0
    read = source.tensors

    def counting():
        nonlocal most, largest
        for number, (name, value) in enumerate(read()):
            storage = value.untyped_storage()
            alive[number] = value.numel() * value.element_size()
            weakref.finalize(value, alive.pop, number, None)
            most, largest = max(most, sum(alive.values())), max(largest, alive.get(number, 0))
            del storage
            yield name, value
            del value

    object.__setattr__(source, "tensors", counting)
    fill(meta(), source, dtype=dtype)
    gc.collect()
    return most, largest


def test_no_more_than_one_read_value_is_alive(folder):
    most, largest = watched(open_stem(folder, "net"), torch.bfloat16)
    # The loop holds one and the reader hands over the next.
    assert largest == WIDTH * WIDTH * 4
    assert most <= 2 * largest


MEASURE = """
import sys, torch
from pathlib import Path
from torch import nn
from studio.model.filling import fill
from studio.model.sources import open_source, open_stem
torch.set_num_threads(1)
def kib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
width, layers = 1024, 24
with torch.device("meta"):
    net = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
folder = Path(sys.argv[1])
# Libraries and kernels that are loaded at first use are not the model's.
fill(nn.Linear(width, width), open_source(folder / "warm.safetensors"), dtype=torch.bfloat16)
source = open_source(folder / "net.pth") if sys.argv[2] == "pth" else open_stem(folder, "net")
largest = max(file.stat().st_size for file in source.files)
before, peak = kib("VmRSS:"), 0
def report(name, value):
    global peak
    peak = max(peak, kib("VmRSS:"))
fill(net, source, dtype=torch.bfloat16, report=report)
model = sum(p.numel() * p.element_size() for p in net.parameters())
print(((peak - before) * 1024 - model) / largest)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read off /proc, which Linux has")
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_memory_beyond_the_model_stays_below_the_largest_shard(tmp_path, repository, kind):
    width, layers = 1024, 24
    state = {f"{layer}.weight": torch.ones(width, width) for layer in range(layers)}
    state |= {f"{layer}.bias": torch.ones(width) for layer in range(layers)}
    write_shards(tmp_path, "net", dict(sorted(state.items())), limit=34_000_000)
    write_shards(tmp_path, "warm", {"weight": torch.ones(width, width), "bias": torch.ones(width)})
    torch.save(state, tmp_path / "net.pth")
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), kind], cwd=repository, capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) <= 1.3, ran.stdout


def test_a_network_elsewhere_is_replaced(folder):
    net = fill(stack(), open_stem(folder, "net"), dtype=torch.float16)
    assert {p.dtype for p in net.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.training


def test_nothing_is_read_when_it_does_not_fit(folder, monkeypatch):
    source = open_stem(folder, "net").renamed(lambda name: name.replace("3.", "33."))
    monkeypatch.setattr(Source, "tensors", lambda self: pytest.fail("was read"))
    message = r"net\.safetensors\.index\.json must fit .* 2 missing: 3\.weight, 3\.bias; 2 unexpected: 33\.bias"
    with pytest.raises(ValueError, match=message):
        fill(meta(), source)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_not_finite(tmp_path, bad, dtype):
    state = {name: value.to(dtype) for name, value in stack().state_dict().items()}
    state["5.bias"][7] = bad
    write_shards(tmp_path, "net", state)
    with pytest.raises(ValueError, match=r"1 not finite: 5\.bias"):
        fill(meta(), open_stem(tmp_path, "net"))


def test_halves_near_their_limit_are_finite(tmp_path):
    state = {name: torch.full_like(value, 60000.0).half() for name, value in stack().state_dict().items()}
    write_shards(tmp_path, "net", state)
    fill(meta(), open_stem(tmp_path, "net"))
