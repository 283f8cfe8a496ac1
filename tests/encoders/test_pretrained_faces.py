"Published files: prefixes, families, strict mapping, hostile and damaged files, channel check, conversion, the command."

import datetime
import decimal
import functools
import json
import pickle
import random
import struct
import time
import types
import warnings
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import noise
from hostile import Runs
from safetensors.torch import save_file

from tgfr import cli
from tgfr.core import Skips, TgfrError, peak_memory, seed_everything, write_json
from tgfr.encoders.backbones import IResNet
from tgfr.encoders.encoder_config import EncoderConfig, preprocess
from tgfr.encoders.features import ImageFeatures
from tgfr.encoders.ir import IR
from tgfr.encoders.pretrained_faces import (
    channel_check,
    check_encoder,
    convert_encoder,
    encoder_reference,
    load_checkpoint,
    load_encoder,
    read_checkpoint,
)
from tgfr.encoders.weight_files import read_weights, write_weights
from tgfr.formats.torch_files import PICKLE_LIMIT, Inert, module_entries

SMALL = dict(width=4, embedding=32)
PHOTOS = noise(3)
BGR = PHOTOS[..., ::-1].copy()


def weights_of(kind=IResNet, depth=18, **options):
    "A small network with random weights and moved batch norms, and its state dict."
    seed_everything(1)
    network = kind(depth, **SMALL, **options)
    network(torch.randn(4, 3, network.config.size, network.config.size))
    return network.eval(), network.state_dict()


def under(prefix, weights):
    return {prefix + name: t for name, t in weights.items()}


# what people have


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "features.",
        "module.features.",
        "features.module.",
        "model.backbone.",
        "backbone.module.",
        "net.",
        "model.net.",
    ],
)
@pytest.mark.parametrize("kind,options", [(IResNet, {}), (IR, {}), (IR, {"se": True})], ids=["iresnet", "ir", "irse"])
def test_prefixes_and_families(tmp_path, prefix, kind, options):
    network, weights = weights_of(kind, **options)
    torch.save(under(prefix, weights), tmp_path / "w.pth")
    encoder = load_checkpoint(tmp_path / "w.pth")
    assert type(encoder) is kind and not encoder.training and encoder.config.name == network.config.name
    assert all(torch.equal(t, weights[name]) for name, t in encoder.state_dict().items())
    cvlface, magface, bgr = (
        "net." in prefix,
        kind is IResNet and "features" in prefix,
        kind is IR and prefix in ("model.", "model.backbone."),
    )
    assert encoder.config.channels == ("BGR" if magface or bgr else "RGB") and encoder.config.mean == (
        (0.0,) * 3 if magface else (0.5,) * 3
    )
    assert ("cvlface, known" if cvlface else "magface, known" if magface else "a guess: ") in encoder.config.source
    if not magface:
        assert torch.equal(encoder.encode(BGR if bgr else PHOTOS).embedding, network.encode(PHOTOS).embedding)
    assert (
        load_checkpoint(tmp_path / "w.pth", "tface").config.channels == "RGB"
        and "caller" in load_checkpoint(tmp_path / "w.pth", "tface").config.source
    )
    own = load_checkpoint(tmp_path / "w.pth", channels="RGB", mean=(0.1, 0.2, 0.3), std=(1, 1, 1), name="mine")
    assert (own.config.name, own.config.channels, own.config.mean, own.config.source) == (
        "mine",
        "RGB",
        (0.1, 0.2, 0.3),
        "given by the caller",
    )


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "legacy", "safetensors"])
def test_forms(tmp_path, suffix):
    network, weights = weights_of(IR)
    path, everything = (
        tmp_path / f"w.{suffix}",
        under("model.", weights) | {"head.kernel": torch.zeros(32, 7), "head.t": torch.zeros(1)},
    )
    if suffix == "safetensors":
        save_file(everything, path)
    elif suffix == "ckpt":
        torch.save(
            {
                "epoch": torch.tensor(3),
                "global_step": 9,
                "optimizer_states": [{"lr": 0.1}],
                "state_dict": OrderedDict(everything),
            },
            path,
        )
    else:
        torch.save({"state_dict": everything}, path, _use_new_zipfile_serialization=suffix != "legacy")
    skips = Skips()
    encoder = load_checkpoint(path, skips=skips)
    assert torch.equal(encoder.encode(BGR).embedding, network.encode(PHOTOS).embedding)
    assert [name for name, _ in skips.items] == [f"w.{suffix}: head.kernel (32, 7)", f"w.{suffix}: head.t (1,)"]
    assert load_encoder(path).content_digest == encoder.content_digest


def test_all_of_lightning(tmp_path):
    "Classes of the training code stand beside the weights: they are neither imported nor called, and no hindrance."
    network, weights = weights_of(IR)

    class Foreign:
        pass

    class ForeignDict(dict):
        pass

    for cls, module, name in (
        (Foreign, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        (ForeignDict, "pytorch_lightning.utilities.parsing", "AttributeDict"),
    ):
        cls.__module__, cls.__qualname__, cls.__name__ = module, name, name

    class Pickler(pickle._Pickler):  # writes the names of classes that are not installed here
        def save_global(self, obj, name=None):
            if obj in (Foreign, ForeignDict):
                self.write(pickle.GLOBAL + f"{obj.__module__}\n{obj.__qualname__}\n".encode()), self.memoize(obj)
            else:
                super().save_global(obj, name)

        def save(self, obj, *args, **kwargs):
            return self.save_global(obj) if obj in (Foreign, ForeignDict) else super().save(obj, *args, **kwargs)

    class Module:
        pickle, Pickler, Unpickler, loads = pickle, None, pickle.Unpickler, pickle.loads

    Module.Pickler, Module.dumps, Module.__name__ = Pickler, pickle.dumps, "pickle"
    content = {
        "state_dict": under("model.", weights),
        "callbacks": {Foreign: {"best_model_score": np.float64(0.5), "best_model_path": Path("x")}},
        "hyper_parameters": ForeignDict(lr=0.1),
        "args": Namespace(arch="ir_18"),
    }
    torch.save(content, tmp_path / "l.ckpt", pickle_module=Module)
    assert "pytorch_lightning" in " ".join(torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "l.ckpt"))
    assert torch.equal(load_checkpoint(tmp_path / "l.ckpt").encode(BGR).embedding, network.encode(PHOTOS).embedding)


def test_old_half_and_other_sizes(tmp_path):
    network, weights = weights_of()
    torch.save({k: t for k, t in weights.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    assert torch.equal(load_checkpoint(tmp_path / "old.pth").encode(PHOTOS).embedding, network.encode(PHOTOS).embedding)
    torch.save({k: t.half() if t.is_floating_point() else t for k, t in weights.items()}, tmp_path / "half.pth")
    encoder = load_checkpoint(tmp_path / "half.pth")
    assert {t.dtype for t in encoder.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(encoder.encode(PHOTOS).embedding, network.encode(PHOTOS).embedding, rtol=0.05, atol=0.01)
    wide, weights = weights_of(IR, 152, size=64)
    torch.save(weights, tmp_path / "wide.pth")
    assert (
        load_checkpoint(tmp_path / "wide.pth", "tface").config
        == EncoderConfig("ir152", 32, (64, 8, 8), 64, source="tface, as the caller says")
        and wide.config.size == 64
    )


def test_several_networks(tmp_path):
    network, weights = weights_of()
    other = {k: t + 0.01 for k, t in weights.items()}
    torch.save(under("model.", weights) | under("ema.", other), tmp_path / "two.pth")
    with pytest.raises(TgfrError, match="'model.', 'ema.'; name one by prefix="):
        load_checkpoint(tmp_path / "two.pth")
    skips = Skips()
    encoder = load_checkpoint(tmp_path / "two.pth", prefix="model.", skips=skips)
    assert torch.equal(encoder.fc.weight, network.fc.weight) and len(skips) == len(weights)
    with pytest.raises(TgfrError, match="under 'student.'"):
        load_checkpoint(tmp_path / "two.pth", prefix="student.")
    torch.save(
        {"state_dict": under("module.", weights), "ema": {"decay": 0.999, "module": other}}, tmp_path / "keys.pth"
    )
    with pytest.raises(TgfrError, match="several networks, under 'state_dict.module.', 'ema.module.'; name one"):
        load_checkpoint(tmp_path / "keys.pth")
    for prefix, wanted in (("state_dict.module.", weights), ("module.", weights), ("ema.module.", other)):
        assert torch.equal(load_checkpoint(tmp_path / "keys.pth", prefix=prefix).fc.weight, wanted["fc.weight"])
    assert torch.equal(
        convert_encoder(tmp_path / "keys.pth", tmp_path / "to", prefix="ema.module.").fc.weight, other["fc.weight"]
    )
    cli.main(["convert", str(tmp_path / "keys.pth"), "--to", str(tmp_path / "cli"), "--prefix", "ema.module."])
    assert torch.equal(load_encoder(tmp_path / "cli").fc.weight, other["fc.weight"])


KEYS = (
    "state_dict_backbone",
    "model_state",
    "model_state_dict",
    "ema",
    "model_ema",
    "state_dict_ema",
    "params",
    "params_ema",
    "net_g",
    "student",
    "module",
    "encoder",
    "backbone",
    "weights",
    "G",
)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "keys",
    [
        *((key,) for key in KEYS),
        ("checkpoint", "model"),
        ("ema", "module"),
        ("model", "state_dict"),
        ("models", "0", "state_dict"),
        ("a", "b", "c", "d"),
    ],
    ids=".".join,
)
def test_weights_below_any_key(tmp_path, keys, legacy):
    "The classifier, the optimiser and what else has tensors stand beside the network, as arcface_torch saves them."
    network, weights = weights_of()
    optimiser = torch.optim.Adam(network.parameters())
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    optimiser.step()
    inner = weights
    for key in reversed(keys):
        inner = [inner] if key == "0" else {key: inner}
    content = {
        "epoch": 3,
        "state_dict_softmax_fc": {"weight": torch.zeros(10, 32)},
        "state_optimizer": optimiser.state_dict(),
        "centers": torch.zeros(3, 32),
        **inner,
    }
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    encoder = load_checkpoint(tmp_path / "w.pth")
    assert all(torch.equal(t, weights[name]) for name, t in encoder.state_dict().items())
    assert ("arcface, known" in encoder.config.source) == (keys == ("state_dict_backbone",))


def test_channel_order_is_told_by_what_the_file_holds(tmp_path):
    "CVLface's IR101 reads RGB (its v1_ir101.yaml), AdaFace's BGR (its README); bare names are face.evoLVe's, CurricularFace's and TFace's, all RGB, and may be anybody's."
    _, weights = weights_of(IR)
    files = {
        "adaface": (
            {"state_dict": under("model.", weights) | {"head.kernel": torch.zeros(32, 10), "head.t": torch.zeros(1)}},
            "BGR",
            True,
        ),
        "stripped": (weights | {"head.kernel": torch.zeros(32, 10)}, "BGR", True),
        "cvlface": (under("net.", weights), "RGB", True),
        "hub": (under("model.net.", weights), "RGB", True),
        "compiled": (under("net._orig_mod.", weights), "RGB", True),
        "evolve": (weights, "RGB", False),
        "parallel": (under("module.", weights), "RGB", False),
    }
    for name, (content, channels, known) in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        config = load_checkpoint(tmp_path / f"{name}.pth").config
        assert config.channels == channels and (", known by " in config.source) == known != config.source.startswith(
            "a guess: "
        ), name
    assert (
        load_checkpoint(tmp_path / "evolve.pth", "adaface").config.channels == "BGR"
        and load_checkpoint(tmp_path / "stripped.pth", "cvlface").config.channels == "RGB"
    )


# strict


@pytest.mark.parametrize("kind", [IResNet, IR])
def test_every_lost_key_is_named(tmp_path, kind):
    _, weights = weights_of(kind, se=True) if kind is IR else weights_of(kind)
    for lost in list(weights)[::7] + list(weights)[-3:]:
        if lost.endswith("num_batches_tracked"):
            continue
        torch.save({k: t for k, t in weights.items() if k != lost}, tmp_path / "w.pth")
        with pytest.raises(TgfrError, match=f"w.pth: does not fit; missing: {lost}$"):
            load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "kind,names",
    [
        (
            IResNet,
            ("conv1.weight", "bn1.bias", "fc.weight", "fc.bias", "features.running_var", "layer3.0.conv2.weight"),
        ),
        (
            IR,
            (
                "input_layer.0.weight",
                "output_layer.3.weight",
                "output_layer.4.running_mean",
                "body.0.res_layer.4.weight",
            ),
        ),
    ],
)
def test_a_misshapen_key_is_named(tmp_path, kind, names):
    _, weights = weights_of(kind)
    for name in names:
        shape = weights[name].shape
        for wrong in (
            (shape[0] + 1, *shape[1:]),
            shape[1:],
            (*shape[:1], shape[-1] + 3, *shape[2:]) if len(shape) > 1 else (0,),
        ):
            torch.save(weights | {name: torch.zeros(wrong)}, tmp_path / "w.pth")
            with pytest.raises(TgfrError) as error:
                load_checkpoint(tmp_path / "w.pth")
            assert str(error.value).endswith(f"does not fit; misshapen: {name} {tuple(wrong)} for {tuple(shape)}")


def test_missing_extra_misshapen(tmp_path):
    _, weights = weights_of()
    wrong = under("module.", {k: t for k, t in weights.items() if not k.startswith("layer4.1.")}) | {
        "module.more": torch.zeros(2),
        "module.fc.bias": torch.zeros(31),
        "loss.w": torch.zeros(5),
    }
    torch.save(wrong, tmp_path / "w.pth")
    with pytest.raises(TgfrError) as error:
        load_checkpoint(tmp_path / "w.pth")
    for part in ("missing: layer4.1.bn1.weight, ", "and ", "unknown: more;", "misshapen: fc.bias (31,) for (32,)"):
        assert part in str(error.value)
    assert "loss.w" not in str(error.value)
    torch.save(weights | {"layer1.0.bn1.weight": torch.full((4,), float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(TgfrError, match="not finite in layer1.0.bn1.weight"):
        load_checkpoint(tmp_path / "nan.pth")
    for flat in (
        lambda t: t[(0,) * t.ndim],
        lambda t: t[:0] if t.ndim else t,
    ):  # all of them scalars, all of them empty
        torch.save({k: flat(t).clone() for k, t in weights.items()}, tmp_path / "flat.pth")
        with pytest.raises(TgfrError, match="flat.pth: does not fit; misshapen|width: an integer from 1"):
            load_checkpoint(tmp_path / "flat.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(TgfrError, match="no IResNet.*fc.weight"):
        load_checkpoint(tmp_path / "other.pth")
    for options, match in (
        (dict(family="facenet"), "arcface, magface"),
        (dict(size=96), "options: size unknown"),
        (dict(channels="GBR"), "channels"),
    ):
        torch.save(weights, tmp_path / "w.pth")
        with pytest.raises(TgfrError, match=match):
            load_checkpoint(tmp_path / "w.pth", **options)


def test_read_weights(tmp_path):
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    write_weights(tmp_path / "w.safetensors", {"a": torch.ones(2, 3).T.contiguous().T.half(), "b": torch.tensor(4)})
    found = read_weights(tmp_path / "w.safetensors", expected)
    assert found["a"].dtype == torch.float32 and found["b"].item() == 4 and list(found) == ["a", "b"]
    with pytest.raises(TgfrError, match=r"missing: c; unknown: b; misshapen: a \(2, 3\) for \(3, 2\)"):
        read_weights(tmp_path / "w.safetensors", {"a": torch.zeros(3, 2), "c": torch.zeros(1)})
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(TgfrError, match="not a readable safetensors file"):
            read_weights(path, expected)
    write_weights(tmp_path / "w.safetensors", {f"k{i}": torch.zeros(1) for i in range(20)})
    with pytest.raises(TgfrError, match="k19 and 8 more"):
        read_weights(tmp_path / "w.safetensors", {"k": torch.zeros(1)})


# hostile


class Foreign:
    def __setstate__(self, state):
        raise AssertionError("was run")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run(tmp_path, legacy):
    "Beside the weights it is no hindrance; in their place it is refused by name."
    network, weights = weights_of()
    for name, bad in (
        ("runs", Runs(tmp_path / "ran")),
        ("class", Foreign()),
        ("network", torch.nn.Linear(2, 2)),
        ("eval", eval),
    ):
        torch.save(
            {"state_dict": weights, "more": bad}, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy
        )
        assert torch.equal(load_checkpoint(tmp_path / f"{name}.pth").fc.weight, network.fc.weight)
        torch.save(weights | {"fc.weight": bad}, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(TgfrError, match=f"{name}.pth: fc.weight is no dense tensor of torch but") as error:
            load_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value) and ("mkdir" in str(error.value)) == (name == "runs")
        if name != "network":
            torch.save(bad, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=not legacy)
            with pytest.raises(TgfrError, match=f"{name}.pth: holds .*which is no weight; refused"):
                load_checkpoint(tmp_path / f"{name}.pth")
    for protocol in range(6):
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Runs(tmp_path / "ran"), protocol))
        with pytest.raises(TgfrError, match="plain.pkl"):
            load_checkpoint(tmp_path / "plain.pkl")
    assert not (tmp_path / "ran").exists()


def test_bookkeeping_is_never_called(tmp_path):
    class Writes:
        def __reduce__(self):
            return np.save, (str(tmp_path / "ran.npy"), np.float64(1))

    network, weights = weights_of()
    for legacy in (False, True):
        torch.save(
            {"state_dict": weights, "more": Writes(), "best": np.float64(0.5)},
            tmp_path / "w.pth",
            _use_new_zipfile_serialization=not legacy,
        )
        assert (
            torch.equal(load_checkpoint(tmp_path / "w.pth").fc.weight, network.fc.weight)
            and not (tmp_path / "ran.npy").exists()
        )


class EasyDict(dict):
    "As the package of this name: entries are attributes."

    def __init__(self, **given):
        super().__init__(given)
        self.__dict__ = self


class Opened:
    "Its state is set by a method of its own, which must not run."

    def __getstate__(self):
        return {"path": "x"}

    def __setstate__(self, state):
        raise AssertionError("was run")


BESIDE = {
    "scalar": np.float64(99.8),
    "bool": np.bool_(True),
    "array": np.arange(5),
    "objects": np.array([1, "a", None], object),
    "random": np.random.get_state(),
    "generator": np.random.default_rng(0),
    "python": random.getstate(),
    "path": Path("x"),
    "namespace": Namespace(lr=0.1),
    "simple": types.SimpleNamespace(a=1),
    "easydict": EasyDict(a=1, b=EasyDict(c=2)),
    "ordered": OrderedDict(a=1),
    "defaultdict": defaultdict(int, a=1),
    "of lists": defaultdict(list, a=[1]),
    "counter": Counter("ab"),
    "deque": deque([1, 2]),
    "set": {1, 2},
    "frozen": frozenset({1}),
    "types": [int, dict, list, Any],
    "date": datetime.datetime(2020, 1, 1),
    "range": range(3),
    "slice": slice(1, 2),
    "complex": 1j,
    "bytes": b"1",
    "bytearray": bytearray(b"12"),
    "big": 1 << 200,
    "none": None,
    "device": torch.device("cpu"),
    "dtype": torch.float16,
    "size": torch.Size([1, 2]),
    "rng": torch.get_rng_state(),
    "sparse": torch.eye(3).to_sparse(),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "module": torch.nn.Sequential(torch.nn.Linear(2, 2)),
    "partial": functools.partial(int, "1"),
    "function": json.loads,
    "opened": Opened(),
    "error": ValueError("x"),
    "decimal": decimal.Decimal("1.5"),
    "cycle": (cycle := {}),
}
cycle["itself"] = [cycle]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_lies_beside_the_weights_is_no_hindrance(tmp_path, protocol, legacy):
    "NumPy's scalars and random states, configurations, containers, classes: in files of both forms, at their side, around them and among them."
    _, weights = weights_of()

    def saved(content):
        torch.save(content, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)

    def same():
        return all(
            torch.equal(t, weights[name]) for name, t in load_checkpoint(tmp_path / "w.pth").state_dict().items()
        )

    for name, thing in (
        BESIDE | {"all": list(BESIDE.values())} if protocol == 2 else {"all": list(BESIDE.values())}
    ).items():
        saved({"epoch": 25, "state_dict": OrderedDict(weights), "beside": thing})
        assert same(), name
        saved({**weights, "beside": thing, "epoch": torch.tensor(3.0)})
        if name != "parameter":
            assert same(), name  # which might be the network's own
    for around in (
        lambda w: EasyDict(state_dict=w),
        lambda w: defaultdict(dict, state_dict=w),
        lambda w: {"model": EasyDict(**w)},
        lambda w: Namespace(net=w),
        lambda w: {"ema": defaultdict(None, w)},
        lambda w: (3, w),
    ):
        saved(around(weights))
        assert same()


def named():
    "pickle's place for torch.save, in which classes of these modules are called as in packages that are not installed here."

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if (full := getattr(obj, "as_published", None)) is None:
                return super().save_global(obj, name)
            self.write(pickle.GLOBAL + "{}\n{}\n".format(*full.rsplit(".", 1)).encode()), self.memoize(obj)

        def save(self, obj, *args, **kwargs):
            return (
                self.save_global(obj)
                if isinstance(obj, type) and hasattr(obj, "as_published")
                else super().save(obj, *args, **kwargs)
            )

    class Module:
        pass

    Module.Pickler, Module.__name__ = Pickler, "pickle"
    Module.dump = staticmethod(lambda value, file, protocol=None: Pickler(file, protocol).dump(value))
    return Module


def test_omegaconf_as_lightning_saves_it(tmp_path):
    "save_hyperparameters(cfg) with a DictConfig: omegaconf's classes, typing.Any, builtins.int, collections.defaultdict."
    _, weights = weights_of()

    def published(full):
        return type(full.rpartition(".")[2], (), {"as_published": full})

    config, node, data = (
        published(f"omegaconf.{name}") for name in ("dictconfig.DictConfig", "nodes.AnyNode", "base.ContainerMetadata")
    )

    def of(kind, **state):
        made = kind()
        made.__dict__.update(state)
        return made

    about = of(
        data, ref_type=Any, object_type=dict, key_type=str, element_type=int, resolver_cache=defaultdict(dict), flags={}
    )
    inner = of(node, _content="ir_101", _parent=None, _metadata=about)
    content = {
        "state_dict": under("model.", weights),
        "hyper_parameters": of(config, _metadata=about, _content={"arch": inner}, _parent=None),
    }
    for legacy in (False, True):
        torch.save(content, tmp_path / "w.ckpt", pickle_module=named(), _use_new_zipfile_serialization=not legacy)
        assert b"omegaconf.dictconfig" in (tmp_path / "w.ckpt").read_bytes()
        assert all(
            torch.equal(t, weights[name]) for name, t in load_checkpoint(tmp_path / "w.ckpt").state_dict().items()
        )


def test_tensors_of_every_kind_as_torch_reads_them(tmp_path):
    "torch.load is the judge: types, views, strides, shared storages, parameters, no elements, no dimensions; storages that the old form does not align."
    base = torch.arange(24.0)
    kinds = [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.uint16,
        torch.uint32,
    ]
    tensors = {f"of {k}": torch.arange(1, 4).to(k) for k in kinds} | {
        "odd": torch.ones(3, dtype=torch.uint8),
        "after": torch.ones(3),
        "view": base[5:9],
        "matrix": base.view(4, 6).T,
        "steps": base[::5],
        "whole": base,
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "channels": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    for legacy in (False, True):
        if legacy:
            tensors = {
                name: t for name, t in tensors.items() if "uint16" not in name and "uint32" not in name
            }  # torch cannot read its own
        torch.save({"state_dict": tensors}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
        theirs, ours = (
            torch.load(tmp_path / "w.pth", weights_only=True)["state_dict"],
            read_checkpoint(tmp_path / "w.pth"),
        )
        assert list(ours) == list(theirs)
        for name, t in theirs.items():
            assert torch.equal(ours[name], t) and ours[name].dtype == t.dtype, name


def test_a_network_saved_whole(tmp_path):
    "Parameters and buffers are in the file by name; the class is not needed."
    network, weights = weights_of()
    for legacy in (False, True):
        for whole in (network, torch.nn.DataParallel(network), {"epoch": 3, "model": network}):
            torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
            assert all(
                torch.equal(t, weights[name]) for name, t in load_checkpoint(tmp_path / "w.pth").state_dict().items()
            )


def test_python_2_and_views_of_2017(tmp_path):
    "An OrderedDict as a list of pairs, byte strings as names, storages that are views of others: written by hand, as torch 0.3 did."

    def storage(key, count, view=b"N"):
        return (
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nU"
            + bytes([len(key)])
            + key
            + b"U\x03cpuK"
            + bytes([count])
            + view
            + b"tQ"
        )

    def tensor(key, count, offset, shape, view=b"N"):
        return (
            b"ctorch._utils\n_rebuild_tensor\n("
            + storage(key, count, view)
            + b"K"
            + bytes([offset])
            + b"K"
            + bytes([shape])
            + b"\x85K\x01\x85tR"
        )

    pairs = (
        b"ccollections\nOrderedDict\n(]](U\x01a"
        + tensor(b"7", 6, 2, 3)
        + b"ea](U\x01b"
        + tensor(b"7", 6, 1, 2, b"(U\x01vK\x02K\x03t")
        + b"eatR"
    )
    head = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    data = struct.pack("<q6f", 6, *range(6))
    (tmp_path / "old.pth").write_bytes(head + b"\x80\x02" + pairs + b"." + pickle.dumps(["7"], 2) + data)
    found = read_checkpoint(tmp_path / "old.pth")
    assert found["a"].tolist() == [2, 3, 4] and found["b"].tolist() == [3, 4]
    (tmp_path / "cut.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:-4])
    with pytest.raises(TgfrError, match="cut.pth: not a readable checkpoint"):
        read_checkpoint(tmp_path / "cut.pth")


def zipped(path, program, data=b"", **entries):
    "An archive as torch.save writes it, with a pickle by hand."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", data)
    return path


def test_no_object_is_made_from_a_claimed_number(tmp_path):
    "Numbers in a pickle that stand for memory or work: each file is some hundred bytes, and is refused or read in a moment with 300 MB more than before."
    flat = (
        b"\x80\x02}(X\x01\0\0\0a"
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu%stQ%s\x89NtRu."
    )

    def long(n):
        return b"\x8a\x08" + struct.pack("<q", n)

    programs = {
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b".",
        "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 36) + b".",
        "text": b"\x80\x05\x8d" + struct.pack("<Q", 1 << 36) + b".",
        "memo": b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b".",
        "frame": b"\x80\x05\x95" + struct.pack("<Q", 1 << 40) + b"N.",
        "integer": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b".",
        "nested": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
        "tuples": b"\x80\x02}N" + b"\x85" * 300_000 + b"Ns.",
        "storage": flat % (long(1 << 40), b"K\x00" + long(1 << 40) + b"\x85K\x01\x85"),
        "shape": flat % (b"K\x01", b"K\x00" + long(1 << 40) + b"\x85K\x00\x85"),
        "offset": flat % (b"K\x01", long(1 << 30) + b"K\x01\x85K\x01\x85"),
        "negative": flat % (b"K\x01", long(-4) + b"K\x01\x85K\x01\x85"),
        "array": b"\x80\x02cnumpy\nzeros\n" + long(1 << 40) + b"\x85R.",
        "repeat": b"\x80\x02coperator\nmul\nX\x01\0\0\0a" + long(1 << 40) + b"\x86R.",
        "pairs": b"\x80\x02(" + b"]X\x01\0\0\0a1\x86" * 3 + b".",
    }
    before, start = peak_memory(), time.process_time()
    for name, program in programs.items():
        with pytest.raises(TgfrError, match=name):
            load_checkpoint(zipped(tmp_path / f"{name}.pth", program, bytes(4)))
    assert peak_memory() - before < 0.3 and time.process_time() - start < 10


def test_work_is_bounded(tmp_path):
    "A list given to a million calls, entries shared by a million things, modules inside one another: no more work than steps, and no more steps than are allowed."
    many = b"(" + b"X\x01\0\0\0aN\x86" * 30_000 + b"l"
    programs = {
        "calls": b"\x80\x02ccollections\nOrderedDict\nq\0" + many + b"q\x010" + b"h\0h\x01\x85R0" * 30_000 + b"h\0.",
        "shared": b"\x80\x02(" + b"X\x01\0\0\0aN" * 30_000 + b"dq\x01(" + b"ca\nb\nh\x01\x85R" * 30_000 + b"t.",
        "steps": b"\x80\x02" + b"N0" * 2_500_000 + b"N.",
    }
    start = time.process_time()
    for name, program in programs.items():
        with pytest.raises(TgfrError, match=name):
            load_checkpoint(zipped(tmp_path / f"{name}.pth", program))
    assert time.process_time() - start < 60
    with pytest.raises(TgfrError, match="more than 4,000,000 steps"):
        load_checkpoint(tmp_path / "steps.pth")
    inner = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    for _ in range(60):
        inner = {
            "_parameters": {},
            "_buffers": {},
            "_modules": {"a": Inert("x", inner), "b": Inert("x", inner)},
        }  # 2^60 modules
    assert module_entries(inner) == {}


def safetensors_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_lying_safetensors(tmp_path):
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    lies = {
        "beyond": {"a": entry | {"data_offsets": [0, 1 << 40], "shape": [1 << 38]}},
        "short": {"a": entry | {"shape": [4, 4]}},
        "gap": {"a": entry | {"data_offsets": [8, 24]}},
        "negative": {"a": entry | {"data_offsets": [-8, 8]}},
        "type": {"a": entry | {"dtype": "F99"}},
        "overlap": {"a": entry, "b": entry},
        "list": [1, 2],
    }
    for name, header in lies.items():
        for read in (load_checkpoint, lambda p: read_weights(p, {"a": torch.zeros(2, 2)})):
            with pytest.raises(TgfrError, match=f"{name}.safetensors"):
                read(safetensors_file(tmp_path / f"{name}.safetensors", header, bytes(16)))
    for length in (0, 1, 1 << 20, 1 << 62):
        (tmp_path / "length.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a": 1}')
        with pytest.raises(TgfrError, match="length.safetensors"):
            load_checkpoint(tmp_path / "length.safetensors")
    with pytest.raises(TgfrError, match="brackets"):
        load_checkpoint(safetensors_file(tmp_path / "brackets.safetensors", b'{"a":' + b"[" * 1_000_000))


def test_damaged_files(tmp_path):
    _, weights = weights_of()
    (
        torch.save(weights, tmp_path / "w.pth"),
        torch.save(weights, tmp_path / "l.pth", _use_new_zipfile_serialization=False),
        save_file(weights, tmp_path / "w.safetensors"),
    )
    for name in ("w.pth", "l.pth", "w.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for share in (0.001, 0.3, 0.9, 0.999):
            (tmp_path / f"cut.{name}").write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(TgfrError, match=f"cut.{name}"):
                load_checkpoint(tmp_path / f"cut.{name}")
    for content in (
        b"",
        b"PK",
        b"PK\x03\x04" + bytes(50),
        b"hello, no weights here",
        bytes(1000),
        b"<html>404</html>" * 10,
    ):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(TgfrError, match="x.pth"):
            load_checkpoint(tmp_path / "x.pth")
    for content in ([1, 2], {"a": 1}, torch.zeros(3), {"state_dict": {}}, "text"):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(TgfrError, match="x.pth: no weights; a dict of tensors"):
            load_checkpoint(tmp_path / "x.pth")
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(TgfrError, match="no such file"):
            load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_claims_are_checked_before_memory_is_taken(tmp_path):
    _, weights = weights_of()
    torch.save(weights, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bytes(len(data) * 50) if "/data/" in name else data)
    with pytest.raises(TgfrError, match="compressed or claim"):
        load_checkpoint(tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "pickle.pth", "w") as archive:
        archive.writestr("x/data.pkl", bytes(PICKLE_LIMIT + 1))
    with pytest.raises(TgfrError, match="its pickle is larger"):
        load_checkpoint(tmp_path / "pickle.pth")
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("a.jpg", b"1")
    with pytest.raises(TgfrError, match="no checkpoint of torch"):
        load_checkpoint(tmp_path / "photos.pth")
    with (tmp_path / "huge.pth").open("wb") as file:
        file.truncate(9 << 30)  # sparse: takes no room
    with pytest.raises(TgfrError, match="more than the"):
        load_checkpoint(tmp_path / "huge.pth")
    with pytest.raises(TgfrError, match="more than the 1,000"):
        read_checkpoint(tmp_path / "w.pth", limit=1000)
    torch.save(weights | {"fc.weight": torch.zeros(1).expand(32, 1_000_000_000)}, tmp_path / "wide.pth")
    with pytest.raises(TgfrError, match="fc.weight claims to be"):
        load_checkpoint(tmp_path / "wide.pth")
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "script.pt")
    with pytest.raises(TgfrError, match="TorchScript"):
        load_checkpoint(tmp_path / "script.pt")


# the channel check


class Likes:
    "An encoder whose embeddings are longer the more the first channel it is fed outshines the third."

    def __init__(self, channels):
        self.config = EncoderConfig("likes", 32, None, channels=channels)

    def encode(self, photos, regions=True):
        first, _, third = preprocess(photos, self.config).mean((2, 3)).T
        return ImageFeatures((2 + first - third)[:, None].expand(-1, 32))


def test_channel_check():
    photos = np.random.default_rng(0).integers(0, 156, (20, 112, 112, 3), dtype=np.uint8)
    photos[..., 0] += np.arange(40, 100, 3, dtype=np.uint8)[:, None, None]  # reddish, as skin
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = channel_check(Likes("RGB"), photos)
        grey = channel_check(Likes("BGR"), np.repeat(photos[..., :1], 3, -1))
    assert not right.wrong and right.longer == 0 and not grey.wrong and grey.change == 0
    with pytest.warns(UserWarning, match="likes is fed BGR.*may have been trained on RGB"):
        wrong = channel_check(Likes("BGR"), photos)
    assert wrong.wrong and wrong.longer == 1 and wrong.change == pytest.approx(-right.change, rel=1e-4)
    with pytest.raises(TgfrError, match="at least 8"):
        channel_check(Likes("RGB"), photos[:7])


def test_channel_check_of_a_real_model(shared_data):
    from tgfr.data.datasets import load_faces
    from tgfr.data.faces import read_image
    from tgfr.encoders.onnx_encoder import OnnxEncoder

    faces = load_faces(shared_data / "celeba_hq", "validation").select(range(0, 1000, 40))
    photos = np.stack([read_image(cell, size=112) for cell in faces["image"]])
    path = shared_data / "weights" / "MobileFaceNet.onnx"
    assert not channel_check(OnnxEncoder(path, region=None), photos).wrong
    with pytest.warns(UserWarning, match="trained on RGB"):
        channel_check(
            OnnxEncoder(path, region=None, channels="BGR", mean=(0.406, 0.456, 0.485), std=(0.225, 0.224, 0.229)),
            photos,
        )


# conversion


def test_convert(tmp_path):
    network, weights = weights_of(IR)
    torch.save({"state_dict": under("model.", weights) | {"head.kernel": torch.zeros(32, 7)}}, tmp_path / "ada.ckpt")
    (tmp_path / "photos").mkdir()
    for i in range(9):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), BGR[i % 3])
    encoder = convert_encoder(tmp_path / "ada.ckpt", tmp_path / "out", photos=tmp_path / "photos")
    again = load_encoder(tmp_path / "out")
    assert (
        type(again) is IR
        and again.content_digest == encoder.content_digest
        and again.config.channels == "BGR"
        and not again.training
    )
    assert torch.equal(again.encode(BGR).embedding, network.encode(PHOTOS).embedding)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "---\nlibrary_name: tgfr\n",
        "# ir18",
        "ada.ckpt",
        "BGR",
        "head.kernel",
        "get longer ones |",
        "(16, 14, 14)",
    ):
        assert part in card
    with pytest.raises(TgfrError, match="no photos"):
        convert_encoder(tmp_path / "ada.ckpt", tmp_path / "out", photos=tmp_path / "out")
    with pytest.raises(TgfrError, match="name of a folder"):
        convert_encoder(tmp_path / "ada.ckpt", tmp_path / "ada.ckpt")
    with pytest.raises(TgfrError, match="no such file"):
        convert_encoder(tmp_path / "none.onnx", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_entry_that_names_no_encoder_is_nothing_to_notice(tmp_path):
    network, _ = weights_of()
    entry, line = encoder_reference(network)
    assert entry == {"name": network.config.name, "fingerprint": network.content_digest} and line == {
        "face encoder": f"{network.config.name}, fingerprint {network.content_digest}"
    }
    assert encoder_reference(None) == encoder_reference(object()) == (None, {})
    for content in (
        5,
        None,
        [],
        ["face_encoder"],
        {},
        *({"face_encoder": entry} for entry in (None, 5, "r18", [], {}, {"name": "x"}, {"fingerprint": None})),
    ):
        write_json(tmp_path / "config.json", content)
        check_encoder(tmp_path, "another", "0123")
    for wrong in ({"fingerprint": 5}, {"fingerprint": [1]}, entry):
        write_json(tmp_path / "config.json", {"face_encoder": wrong})
        with pytest.raises(TgfrError, match="belongs to the encoder .* features of another, fingerprint 0123; "):
            check_encoder(tmp_path, "another", "0123")
    with pytest.raises(TgfrError, match="no such file"):
        check_encoder(tmp_path / "none", "another", "0123")


def test_convert_command(tmp_path, capsys, refusal):
    _, weights = weights_of()
    torch.save(under("module.features.", weights) | {"module.fc.weight": torch.zeros(7, 32)}, tmp_path / "mag.pth")
    cli.main(["convert", str(tmp_path / "mag.pth"), "--to", str(tmp_path / "out")])
    assert (
        load_encoder(tmp_path / "out").config.std == (1.0, 1.0, 1.0) and "module.fc.weight" in capsys.readouterr().err
    )
    cli.main(["convert", str(tmp_path / "mag.pth"), "--to", str(tmp_path / "out"), "--family", "arcface"])
    assert load_encoder(tmp_path / "out").config.channels == "RGB"
    (tmp_path / "bad.pth").write_bytes(b"PK")
    for bad in ("bad.pth", "none.pth"):
        assert (
            bad in refusal("convert", str(tmp_path / bad), "--to", str(tmp_path / "new"))
            and not (tmp_path / "new").exists()
        )
