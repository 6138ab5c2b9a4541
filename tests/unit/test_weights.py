"""Weights files: what is understood, what is refused, and what the report says."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from ftkit.builtin.cifar_resnet import cifar_resnet
from ftkit.builtin.lenet import WEIGHTS, lenet
from ftkit.builtin.torchvision_models import ftkit_backbones
from ftkit.engine.network.weights import load_into, put_back, read_state_dict
from ftkit.errors import FtkitError, RequestError

RESNET20 = Path(__file__).parents[3] / "shared" / "weights" / "resnet20-12fca82f.th"


def net(classes: int = 10) -> nn.Module:
    return lenet().build(classes)


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {"model_state_dict": s, "model_ema": {"conv1.weight": torch.zeros(1)}},
        lambda s: {"model_ema": s, "best": 0.5},
        lambda s: {"model": {"state_dict": s}},
    ],
)
def test_finds_the_state_dict_in_a_checkpoint(tmp_path: Path, wrap: object) -> None:
    state = net().state_dict()
    torch.save(wrap(state), tmp_path / "w.pt")  # type: ignore[operator]
    read = read_state_dict(tmp_path / "w.pt")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_reads_safetensors_and_the_old_format_of_torch(tmp_path: Path) -> None:
    state = net().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.th", _use_new_zipfile_serialization=False)
    for file in ("w.safetensors", "w.th"):
        read = read_state_dict(tmp_path / file)
        assert all(torch.equal(read[name], state[name]) for name in state)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.marker,))  # type: ignore[return-value]


def test_never_runs_what_a_pickle_brings(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"model": Evil(marker)}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(marker)))
    torch.save({"model": net().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    torch.save(net(), tmp_path / "whole.pt")
    for file in ("evil.pt", "evil.pkl", "args.pt", "whole.pt"):
        with pytest.raises(RequestError, match=f"{file} (holds Python objects|can't be read)") as error:
            read_state_dict(tmp_path / file)
        assert "\n" not in str(error.value)
    assert not marker.exists()


def test_says_which_file_is_damaged(tmp_path: Path) -> None:
    torch.save(net().state_dict(), tmp_path / "whole.pt")
    save_file(net().state_dict(), tmp_path / "whole.safetensors")
    for suffix in (".pt", ".safetensors"):
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"text{suffix}").write_text("<html>not found</html>")
        for name in ("cut", "text"):
            with pytest.raises(RequestError, match=f"{name}{suffix} can't be read: ") as error:
                read_state_dict(tmp_path / f"{name}{suffix}")
            assert "\n" not in str(error.value)
            assert "weights_only" not in str(error.value)


def test_says_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    for name, message in (
        ("", "is a folder"),
        ("nowhere.pt", "no weights file"),
        ("empty.pt", "empty.pt is empty"),
        ("none.pt", "none.pt holds no state dict: its keys are epoch"),
        ("list.pt", "list.pt holds no state dict: it is a list"),
    ):
        with pytest.raises(RequestError, match=message):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "module.backbone.", "a.b.c."])
def test_understands_prefixes(prefix: str) -> None:
    source, target = net(), net()
    report = load_into(target, prefixed(source.state_dict(), prefix), ("head",), keep_head=True)
    assert (report.loaded, report.total, report.prefix) == (10, 10, prefix)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_new_head_stays_as_drawn_and_is_reported() -> None:
    target = net(3)
    drawn = target.get_parameter("head.weight").clone()
    report = load_into(target, net(10).state_dict(), ("head",), keep_head=False)
    assert torch.equal(target.get_parameter("head.weight"), drawn)
    assert report.dropped == ("head.weight 10x84", "head.bias 10")
    assert report.summary() == "loaded 8 of 10 tensors; head not taken: head.weight 10x84, head.bias 10"


def test_a_kept_head_must_fit_and_be_there() -> None:
    with pytest.raises(RequestError, match=r"head.weight is 10x84 there and 3x84 in the network"):
        load_into(net(3), net(10).state_dict(), ("head",), keep_head=True)
    headless = {name: value for name, value in net().state_dict().items() if not name.startswith("head")}
    with pytest.raises(RequestError, match=r"head.weight isn't there"):
        load_into(net(), headless, ("head",), keep_head=True)
    assert load_into(net(), headless, ("head",), keep_head=False).missing == ()


def test_another_networks_weights_are_refused() -> None:
    other = models.resnet18().state_dict()
    message = (
        r"w\.pt for CifarResNet are another network's: conv1\.weight is 64x3x7x7 there and 16x3x3x3 in the network"
    )
    with pytest.raises(RequestError, match=message):
        load_into(cifar_resnet(20).build(10), other, ("linear",), keep_head=False, source="w.pt")
    strange = {"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(2)}
    with pytest.raises(RequestError, match=r"like encoder.weight, decoder.weight, the network's like conv1.weight"):
        load_into(net(), strange, ("head",), keep_head=False)
    few = {name: net().state_dict()[name] for name in ("conv1.weight", "conv1.bias", "fc1.weight")}
    with pytest.raises(RequestError, match=r"too little in .* matches: 5 of 8"):
        load_into(net(), few, ("head",), keep_head=False)


def test_reports_missing_and_unused_tensors() -> None:
    state = net().state_dict()
    del state["fc2.bias"]
    state["epochs"] = torch.zeros(1)
    report = load_into(net(), prefixed(state, "module.") | {"step": torch.zeros(1)}, ("head",), keep_head=True)
    assert report.missing == ("fc2.bias",)
    assert report.unexpected == ("epochs", "step")
    assert "missing: fc2.bias; unused: epochs, step" in report.summary()


def test_weights_that_are_not_finite_are_refused() -> None:
    state = net().state_dict()
    state["fc1.bias"][3] = torch.nan
    with pytest.raises(RequestError, match=r"fc1.bias in .* not finite"):
        load_into(net(), state, ("head",), keep_head=False)


def test_older_files_and_files_without_versions_load() -> None:
    """torchvision's own files know ViT's `mlp.linear_1`; MNASNet insists on a version, which safetensors lacks."""
    vit = models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=4)
    old = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for n, v in vit.state_dict().items()}
    report = load_into(vit, prefixed(old, "module."), ("heads.head",), keep_head=True)
    assert (report.missing, report.unexpected) == ((), ())
    mnasnet = models.mnasnet0_5(num_classes=4)
    plain = dict(mnasnet.state_dict())
    assert load_into(mnasnet, plain, ("classifier.1",), keep_head=True).missing == ()
    versioned = mnasnet.state_dict()
    assert load_into(mnasnet, versioned, ("classifier.1",), keep_head=True).missing == ()
    put_back(mnasnet, plain)


def test_the_published_resnet20_loads_whole() -> None:
    if not RESNET20.exists():
        pytest.skip("../shared isn't there")
    backbone = cifar_resnet(20)
    model = backbone.build(10)
    report = load_into(model, read_state_dict(RESNET20), backbone.head, keep_head=True)
    assert (report.loaded, report.missing, report.unexpected) == (116, (), ())
    assert report.prefix == "module."


def test_lenets_weights_come_with_ftkit() -> None:
    if not WEIGHTS.exists():
        pytest.skip("lenet's weights aren't trained yet")
    backbone = lenet()
    report = load_into(backbone.build(10), backbone.weights[0].load(), backbone.head, keep_head=True)
    assert report.loaded == report.total == 10


def test_lenet_without_its_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.builtin.lenet.WEIGHTS", tmp_path / "lenet_mnist.safetensors")
    with pytest.raises(FtkitError, match=r"lenet_mnist.safetensors can't be read"):
        lenet().weights[0].load()


def test_every_torchvision_weights_name_is_offered_default_first() -> None:
    backbones = ftkit_backbones()
    for name in backbones:
        enum = models.get_model_weights(name)
        offered = [weights.name for weights in backbones[name].weights]
        assert sorted(offered) == sorted(entry.name for entry in enum)
        assert offered[0] == enum.DEFAULT.name


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a loopback server offers, with torch's cache in a folder of its own."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("SERVED_AT", f"http://127.0.0.1:{running.server_port}")
        yield folder
        running.shutdown()


def serve(folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, state: object, digits: str = "") -> str:
    """Offer a state dict as torchvision's default weights of `model`; returns the file's name."""
    torch.save(state, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    name = f"{model}-{digits or digest}.pth"
    (folder / "new.pth").rename(folder / name)
    entry = models.get_model_weights(model).DEFAULT
    monkeypatch.setattr(entry.value, "url", f"{os.environ['SERVED_AT']}/{name}", raising=True)
    return name


def test_downloads_into_torchvisions_cache_once(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    state = models.squeezenet1_1().state_dict()
    name = serve(server, monkeypatch, "squeezenet1_1", state)
    load = ftkit_backbones()["squeezenet1_1"].weights[0].load
    assert torch.equal(load()["features.0.weight"], state["features.0.weight"])
    assert (tmp_path / "cache" / "hub" / "checkpoints" / name).exists()
    (server / name).unlink()
    assert len(load()) == len(state)
    assert capfd.readouterr().out == ""


def test_a_download_with_another_hash_is_refused(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = serve(server, monkeypatch, "squeezenet1_1", {"a": torch.zeros(2)}, digits="0123abcd")
    with pytest.raises(FtkitError, match=f"{name} went wrong: invalid hash value") as error:
        ftkit_backbones()["squeezenet1_1"].weights[0].load()
    assert str(tmp_path / "cache" / "hub" / "checkpoints") in str(error.value)
    assert list((tmp_path / "cache" / "hub" / "checkpoints").iterdir()) == []


def test_offline_says_which_file_goes_where(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = serve(server, monkeypatch, "squeezenet1_1", {"a": torch.zeros(2)})
    (server / name).unlink()
    for url in (None, f"http://127.0.0.1:9/{name}"):
        if url:
            monkeypatch.setattr(models.get_model_weights("squeezenet1_1").DEFAULT.value, "url", url)
        with pytest.raises(FtkitError, match=f"no weights file {name} in .*checkpoints, and no download") as error:
            ftkit_backbones()["squeezenet1_1"].weights[0].load()
        assert f"put it into {tmp_path / 'cache' / 'hub' / 'checkpoints'}" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_damaged_file_in_the_cache_is_named(server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = serve(server, monkeypatch, "squeezenet1_1", {"a": torch.zeros(2)})
    cached = tmp_path / "cache" / "hub" / "checkpoints" / name
    cached.parent.mkdir(parents=True)
    cached.write_text("<html>")
    with pytest.raises(FtkitError, match=f"{name} can't be read: .*delete it") as error:
        ftkit_backbones()["squeezenet1_1"].weights[0].load()
    assert "\n" not in str(error.value)


def test_old_densenet_names_and_vit_positions_are_brought_up_to_date(
    server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = ftkit_backbones()["densenet121"]
    state = models.densenet121(num_classes=2).state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for name, v in state.items()}
    assert old.keys() != state.keys()
    serve(server, monkeypatch, "densenet121", old)
    assert backbone.refit is not None
    assert backbone.refit(backbone.weights[0].load()).keys() == state.keys()
    vit = ftkit_backbones()["vit_h_14"]
    linear = next(w for w in vit.weights if w.name == "IMAGENET1K_SWAG_LINEAR_V1")
    positions = {"conv_proj.weight": torch.zeros(8, 3, 14, 14), "encoder.pos_embedding": torch.rand(1, 257, 8)}
    entry = models.get_model_weights("vit_h_14")["IMAGENET1K_SWAG_LINEAR_V1"]
    monkeypatch.setattr(entry.value, "url", serve_at(server, positions))
    assert (linear.preprocessing.size, vit.preprocessing.size) == (224, 518)
    assert vit.refit is not None
    assert vit.refit(linear.load())["encoder.pos_embedding"].shape == (1, 37 * 37 + 1, 8)


def serve_at(folder: Path, state: object) -> str:
    torch.save(state, folder / "plain.pth")
    return f"{os.environ['SERVED_AT']}/plain.pth"
