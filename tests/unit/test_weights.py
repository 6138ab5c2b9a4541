"""Weights files: which are loaded, which are refused, and the report."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from ftkit.api import Backbone
from ftkit.builtin.backbones.cifar_resnet import cifar_resnet
from ftkit.builtin.backbones.lenet import WEIGHTS, lenet
from ftkit.builtin.backbones.torchvision_models import ftkit_backbones
from ftkit.errors import FtkitError, RequestError
from ftkit.models.surgery import build_network
from ftkit.models.weights.files import Contents, read_weights
from ftkit.models.weights.pretrained import LoadReport, Target, load_into, restore_weights
from ftkit.parts.backbone import Head

RESNET20 = Path(__file__).parents[3] / "shared" / "weights" / "resnet20-12fca82f.th"


def net(classes: int = 10) -> nn.Module:
    return lenet().build(classes)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    return read_weights(path).state


def load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    head: Sequence[str] = ("head",),
    keep_head: bool = False,
    source: str = "the weights",
    **wanted: Any,
) -> LoadReport:
    return load_into(model, Contents(state), Target(head, keep_head=keep_head, **wanted), source)


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


def test_never_runs_code_in_a_pickle(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"model": Evil(marker)}, tmp_path / "evil.pt")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil(marker)))
    torch.save({"model": net().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    torch.save(net(), tmp_path / "whole.pt")
    for file in ("evil.pt", "evil.pkl", "args.pt", "whole.pt"):
        with pytest.raises(RequestError, match=f"{file} (has Python objects|can't be read)") as error:
            read_state_dict(tmp_path / file)
        assert "\n" not in str(error.value)
    assert not marker.exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
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


def test_a_wrong_path_is_explained(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    for name, message in (
        ("", "is a folder"),
        ("nowhere.pt", "no weights file"),
        ("empty.pt", "empty.pt is empty"),
        ("none.pt", "none.pt has no state dict: its keys are epoch"),
        ("list.pt", "list.pt has no state dict: it is a list"),
    ):
        with pytest.raises(RequestError, match=message):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "module.backbone.", "a.b.c."])
def test_prefixes_are_removed(prefix: str) -> None:
    source, target = net(), net()
    report = load(target, prefixed(source.state_dict(), prefix), ("head",), keep_head=True)
    assert (report.loaded, report.total, report.prefix) == (10, 10, prefix)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_new_head_stays_random_and_is_reported() -> None:
    target = net(3)
    drawn = target.get_parameter("head.weight").clone()
    report = load(target, net(10).state_dict(), ("head",), keep_head=False)
    assert torch.equal(target.get_parameter("head.weight"), drawn)
    assert report.dropped == ("head.weight 10x84", "head.bias 10")
    assert report.summary() == "loaded 8 of 10 tensors; head not loaded: head.weight 10x84, head.bias 10"


def test_a_kept_head_must_fit_and_be_there() -> None:
    with pytest.raises(RequestError, match=r"head.weight is 10x84 there and 3x84 in the network"):
        load(net(3), net(10).state_dict(), ("head",), keep_head=True)
    headless = {name: value for name, value in net().state_dict().items() if not name.startswith("head")}
    with pytest.raises(RequestError, match=r"head.weight is missing"):
        load(net(), headless, ("head",), keep_head=True)
    assert load(net(), headless, ("head",), keep_head=False).missing == ()


def test_another_networks_weights_are_refused() -> None:
    other = models.resnet18().state_dict()
    message = (
        r"w\.pt for CifarResNet belong to another network: conv1\.weight is 64x3x7x7 there and 16x3x3x3 in the network"
    )
    with pytest.raises(RequestError, match=message):
        load(cifar_resnet(20).build(10), other, ("linear",), keep_head=False, source="w.pt")
    strange = {"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(2)}
    with pytest.raises(RequestError, match=r"like encoder.weight, decoder.weight, the network's like conv1.weight"):
        load(net(), strange, ("head",), keep_head=False)
    few = {name: net().state_dict()[name] for name in ("conv1.weight", "conv1.bias", "fc1.weight")}
    with pytest.raises(RequestError, match=r"don't fit: conv2 lacks all 2 tensors \(conv2.weight, conv2.bias\), fc1"):
        load(net(), few, ("head",), keep_head=False)


def test_reports_unused_tensors() -> None:
    state = net().state_dict()
    state["epochs"] = torch.zeros(1)
    report = load(net(), prefixed(state, "module.") | {"step": torch.zeros(1)}, ("head",), keep_head=True)
    assert report.unexpected == ("epochs", "step")
    assert "unused: epochs, step" in report.summary()


RESNET = cifar_resnet(20)


def resnet_state(depth: int = 20) -> dict[str, Tensor]:
    return dict(cifar_resnet(depth).build(10).state_dict())


def load_resnet(state: Mapping[str, Tensor], backbone: Backbone = RESNET, partial: bool = False) -> LoadReport:
    target = Target(backbone.head, backbone.groups, partial=partial)
    return load_into(backbone.build(3), Contents(state), target, "w.pt")


INCOMPLETE: dict[str, tuple[Callable[[str], bool], str]] = {
    "a whole group": (lambda n: not n.startswith("layer3"), r"layer3 lacks all 30 tensors \(layer3.0.conv1.weight"),
    "statistics": (lambda n: "running" not in n, r"stem lacks 2 of 5 tensors \(bn1.running_mean, bn1.running_var\)"),
    "one bias": (lambda n: n != "layer2.1.bn1.bias", r"layer2 lacks 1 of 30 tensors \(layer2.1.bn1.bias\)"),
    "a block": (lambda n: not n.startswith("layer1.2."), r"layer1 lacks 10 of 30 tensors"),
}


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_an_incomplete_group_is_refused_unless_it_is_allowed(kind: str) -> None:
    keeps, message = INCOMPLETE[kind]
    state = {name: value for name, value in resnet_state().items() if keeps(name)}
    with pytest.raises(RequestError, match=rf"w\.pt for CifarResNet don't fit: .*{message}.*--allow-partial") as error:
        load_resnet(state)
    assert "\n" not in str(error.value)
    report = load_resnet(state, partial=True)
    assert "random: " in report.summary()
    assert report.loaded < 114


@pytest.mark.parametrize(
    ("file", "network", "says"),
    [(32, 20, "layer1 has 20 more tensors"), (20, 32, "layer1 lacks 20 of 50 tensors")],
)
def test_a_deeper_or_shallower_sister_is_refused(file: int, network: int, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        load_resnet(resnet_state(file), cifar_resnet(network))
    deeper = models.resnet34(num_classes=2).state_dict()
    resnet18 = ftkit_backbones()["resnet18"]
    with pytest.raises(RequestError, match=r"they have more than the network: layer1 has 10 more tensors"):
        load_into(resnet18.build(2), Contents(deeper), Target(resnet18.head, resnet18.groups))


def test_more_stages_of_the_same_name_are_another_network() -> None:
    state = net().state_dict() | {"fc3.weight": torch.zeros(84, 84), "fc3.bias": torch.zeros(84)}
    with pytest.raises(RequestError, match=r"they have more than the network: fc3 has 2 more tensors"):
        load(net(), state)


def test_what_is_harmless_is_accepted() -> None:
    state = {name: value for name, value in resnet_state().items() if "num_batches" not in name}
    beside = {
        "fc.weight": torch.zeros(5, 64),
        "classifier.0.weight": torch.zeros(7, 64),
        "aux_head.conv.weight": torch.zeros(2, 2),
        "n_averaged": torch.tensor(3),
        "layer1.0.attn_mask": torch.zeros(4, 4),
        "optimizer.exp_avg": torch.ones(3),
    }
    report = load_resnet({name: value.float() for name, value in (state | beside).items()})
    assert (report.loaded, report.fresh, len(report.unexpected)) == (114, "", 6)
    google = ftkit_backbones()["googlenet"]
    plain = models.googlenet(num_classes=3, aux_logits=False, init_weights=False).state_dict()
    assert load_into(google.build(2), Contents(plain), Target(google.head, google.groups)).fresh == ""


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n.replace("layer1.", "layer1._orig_mod."),
        lambda n: "module." + n.replace("layer2.0.", "layer2.0._orig_mod."),
        lambda n: f"model.backbone._orig_mod.{n}".replace("layer3.", "layer3.module."),
        lambda n: f"_orig_mod.module.encoder.{n}",
        lambda n: f"_fsdp_wrapped_module.{n}".replace("layer1.1.", "layer1.1._fsdp_wrapped_module."),
    ],
)
def test_wrappers_inside_names_are_removed(rename: Callable[[str], str]) -> None:
    report = load_resnet({rename(name): value for name, value in resnet_state().items()})
    assert (report.loaded, report.missing, report.unexpected) == (114, (), ())


def test_a_head_beside_a_prefixed_body_is_loaded() -> None:
    state = {
        name if name.startswith("head") else f"encoder.{name}": value for name, value in net().state_dict().items()
    }
    assert load(net(), state, keep_head=True).loaded == 10


def test_a_kept_head_with_a_hidden_layer_is_named() -> None:
    state = {name: value for name, value in net().state_dict().items() if not name.startswith("head")}
    state |= {"head.0.weight": torch.ones(16, 84), "head.3.weight": torch.ones(10, 16)}
    with pytest.raises(RequestError, match=r"head.weight is missing \(give --head-hidden 16, or leave out --keep-head"):
        load(net(), state, keep_head=True)


def test_a_prefix_of_the_networks_own_may_be_absent() -> None:
    outer = nn.Module()
    outer.model = net()
    report = load(outer, net().state_dict(), ("model.head",), keep_head=True)
    assert (report.loaded, report.prefix) == (10, "")
    report = load(outer, prefixed(net().state_dict(), "module.model."), ("model.head",), keep_head=True)
    assert (report.loaded, report.prefix) == (10, "module.")


def test_the_report_names_which_of_several_weights_were_loaded(tmp_path: Path) -> None:
    raw, averaged = net().state_dict(), {name: value + 1 for name, value in net().state_dict().items()}
    torch.save({"model": raw, "model_ema": averaged, "epoch": 3}, tmp_path / "both.pt")
    both = read_weights(tmp_path / "both.pt")
    assert torch.equal(both.state["conv1.bias"], raw["conv1.bias"])
    model = net()
    summary = load_into(model, both, Target(("head",))).summary()
    assert "'model' used, not 'model_ema' (--set weights_key=model_ema uses that)" in summary
    other = read_weights(tmp_path / "both.pt", "model_ema")
    assert torch.equal(other.state["conv1.bias"], averaged["conv1.bias"])
    torch.save({"a": {"b": raw}}, tmp_path / "deep.pt")
    assert len(read_weights(tmp_path / "deep.pt", "a.b").state) == 10
    with pytest.raises(RequestError, match=r"weights_key for .*both.pt: unknown entry 'model_em'.*'model_ema'"):
        read_weights(tmp_path / "both.pt", "model_em")
    flat = prefixed(averaged, "teacher.") | prefixed(raw, "student.")
    torch.save(flat, tmp_path / "flat.pt")
    report = load_into(model, read_weights(tmp_path / "flat.pt"), Target(("head",)))
    assert report.prefix == "student."
    assert "not under 'teacher' (--set weights_key=teacher)" in report.summary()
    assert len(read_weights(tmp_path / "flat.pt", "teacher").state) == 10
    torch.save({"state_dict": prefixed(flat, "module."), "extra": [1]}, tmp_path / "inner.pt")
    inner = tmp_path / "inner.pt"
    report = load_into(model, read_weights(inner), Target(("head",)))
    assert "not under 'teacher' (--set weights_key=teacher)" in report.summary()
    for key in ("teacher", "module.teacher", "state_dict.teacher"):
        assert torch.equal(read_weights(inner, key).state["conv1.bias"], averaged["conv1.bias"])
    with pytest.raises(RequestError, match="extra is a list, not a mapping of tensors"):
        read_weights(inner, "extra")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: (v * 10).to(torch.int8), "int8, quantised or truncated"),
        (lambda v: v.to(torch.float8_e4m3fn), "float8_e4m3fn, quantised"),
        (lambda v: torch.full_like(v.double(), 1e300), "not finite"),
        (lambda v: torch.full_like(v, torch.nan), "not finite"),
    ],
)
def test_values_that_are_no_weights_are_refused(change: Callable[[Tensor], Tensor], says: str) -> None:
    state = dict(net().state_dict())
    state["fc1.weight"] = change(state["fc1.weight"])
    with pytest.raises(RequestError, match=f"fc1.weight in the weights for .* {says}"):
        load(net(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted(dtype: torch.dtype) -> None:
    state, model = {name: value.to(dtype) for name, value in net().state_dict().items()}, net()
    assert load(model, state, keep_head=True).loaded == 10
    assert torch.equal(model.get_parameter("fc1.weight"), state["fc1.weight"].float())


def test_files_in_parts_are_read_by_their_index(tmp_path: Path) -> None:
    state = net().state_dict()
    names = ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"]
    save_file({n: v for n, v in state.items() if "fc" in n}, tmp_path / names[0])
    save_file({n: v for n, v in state.items() if "fc" not in n}, tmp_path / names[1])
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: names["fc" not in n] for n in state}}))
    assert read_weights(index).state.keys() == state.keys()
    with pytest.raises(RequestError, match=r"one of several .*give the \.index\.json"):
        read_weights(tmp_path / names[0])
    (tmp_path / names[1]).unlink()
    with pytest.raises(RequestError, match=r"lists w-00002-of-00002.safetensors, which is missing"):
        read_weights(index)


def test_adapters_alone_are_refused(tmp_path: Path) -> None:
    save_file({"base_model.model.conv1.lora_A.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match=r"has adapters, not a network's own weights: .*merge_and_unload"):
        read_weights(tmp_path / "a.safetensors")


def test_of_tensors_that_share_memory_one_is_enough() -> None:
    model = net()
    model.twin = model.get_submodule("fc1")
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("twin")}
    assert load(model, state, keep_head=True).fresh == ""


def test_rows_of_a_kept_head_follow_the_classes() -> None:
    backbone, order = cifar_resnet(20), (2, 0, 1)
    for head in (Head(), Head(hidden=3)):
        source, target = (build_network(backbone, 3, head, 3) for _ in range(2))
        wanted = Target(backbone.head, backbone.groups, keep_head=True, order=order)
        load_into(target, Contents(source.state_dict()), wanted)
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(target.eval()(images), source.eval()(images)[:, list(order)])


def test_weights_that_are_not_finite_are_refused() -> None:
    state = net().state_dict()
    state["fc1.bias"][3] = torch.nan
    with pytest.raises(RequestError, match=r"fc1.bias in .* not finite"):
        load(net(), state, ("head",), keep_head=False)


def test_older_files_and_files_without_versions_load() -> None:
    """torchvision's own files know ViT's `mlp.linear_1`; MNASNet insists on a version, which safetensors lacks."""
    vit = models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=4)
    old = {n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for n, v in vit.state_dict().items()}
    report = load(vit, prefixed(old, "module."), ("heads.head",), keep_head=True)
    assert (report.missing, report.unexpected) == ((), ())
    mnasnet = models.mnasnet0_5(num_classes=4)
    plain = dict(mnasnet.state_dict())
    assert load(mnasnet, plain, ("classifier.1",), keep_head=True).missing == ()
    versioned = mnasnet.state_dict()
    assert load(mnasnet, versioned, ("classifier.1",), keep_head=True).missing == ()
    restore_weights(mnasnet, plain)


def test_the_published_resnet20_loads_whole() -> None:
    if not RESNET20.exists():
        pytest.skip("../shared isn't there")
    backbone = cifar_resnet(20)
    model = backbone.build(10)
    report = load(model, read_state_dict(RESNET20), backbone.head, keep_head=True)
    assert (report.loaded, report.missing, report.unexpected) == (116, (), ())
    assert report.prefix == "module."


def test_lenets_weights_come_with_ftkit() -> None:
    if not WEIGHTS.exists():
        pytest.skip("lenet's weights aren't trained yet")
    backbone = lenet()
    report = load(backbone.build(10), backbone.weights[0].load(), backbone.head, keep_head=True)
    assert report.loaded == report.total == 10


def test_lenet_without_its_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.builtin.backbones.lenet.WEIGHTS", tmp_path / "lenet_mnist.safetensors")
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
    with pytest.raises(FtkitError, match=f"{name} failed: invalid hash value") as error:
        ftkit_backbones()["squeezenet1_1"].weights[0].load()
    assert str(tmp_path / "cache" / "hub" / "checkpoints") in str(error.value)
    assert list((tmp_path / "cache" / "hub" / "checkpoints").iterdir()) == []


def test_offline_the_error_names_the_file_and_its_folder(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
