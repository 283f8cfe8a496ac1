"""Published checkpoints: prefixes, families, completeness, damaged files, the channel check and conversion."""

import json
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import cv2
import face_plugin
import numpy as np
import pytest
import torch
from checkpoints import under, weights_of
from conftest import noise
from processes import finish, python
from safetensors.torch import save_file

from tgfr import cli
from tgfr.core import Skips, TgfrError, write_json
from tgfr.data.faces import encode_jpeg
from tgfr.encoders.backbones import FACE_ENCODERS, IResNet
from tgfr.encoders.encoder_config import EncoderConfig, preprocess
from tgfr.encoders.feature_store import FeatureStore
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
from tgfr.encoders.weight_files import read_weights
from tgfr.formats.torch_files import PICKLE_LIMIT

PHOTOS = noise(3)


BGR = PHOTOS[..., ::-1].copy()


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
    """CVLface's IR101 reads RGB (its v1_ir101.yaml), AdaFace's BGR (its README); bare names are face.evoLVe's,
    CurricularFace's and TFace's, all RGB, and may be anybody's."""
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


# encoders of a plug-in


PLUGIN = Path(face_plugin.__file__)


def run(*arguments) -> subprocess.CompletedProcess:
    "The command line in a process of its own."
    command = [sys.executable, "-m", "tgfr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, timeout=300)


@pytest.fixture(scope="module")
def plugin_encoder(tmp_path_factory):
    "A folder with crops and one with a plug-in's encoder, saved in another process."
    folder = tmp_path_factory.mktemp("plugin")
    code = f"""
import numpy as np
from tgfr.core import load_plugin
from tgfr.data.faces import encode_jpeg
from tgfr.encoders.backbones import FACE_ENCODERS, save_encoder
from tgfr.encoders.pretrained_faces import load_encoder

load_plugin({str(PLUGIN)!r})
encoder = FACE_ENCODERS["strided"](width=3)
save_encoder(encoder, {str(folder / "encoder")!r})
again = load_encoder({str(folder / "encoder")!r})
assert again.content_digest == encoder.content_digest and again.config == encoder.config
assert again.shape == {{"width": 3}}
"""
    finish(python("-c", code))
    (folder / "crops").mkdir()
    for k in range(3):
        (folder / "crops" / f"{k}.jpg").write_bytes(encode_jpeg(np.array(noise(3)[k])))
    return folder


def test_a_saved_encoder_names_its_plugin(plugin_encoder):
    assert json.loads((plugin_encoder / "encoder/config.json").read_text())["plugin"] == PLUGIN.name
    assert f"| plug-in | {PLUGIN.name}, which brings the encoder" in (plugin_encoder / "encoder/README.md").read_text()


def test_a_plugins_encoder_embeds_and_the_missing_plugin_is_named(plugin_encoder, tmp_path):
    command = "embed", plugin_encoder / "crops", "--encoder", plugin_encoder / "encoder"
    assert run(*command, "--out", tmp_path / "with", "--plugin", PLUGIN).returncode == 0
    assert FeatureStore.open(tmp_path / "with").embedding.shape == (1, 3, 16)
    refused = run(*command, "--out", tmp_path / "without")
    assert refused.returncode == 2 and not (tmp_path / "without").exists()
    last = refused.stderr.strip().splitlines()[-1]
    assert f"the face encoder 'strided' comes from the plug-in '{PLUGIN.name}', which is not loaded" in last
    assert "--plugin FILE" in last and "Traceback" not in refused.stderr


def test_a_plugins_encoder_without_files_is_named_on_the_command_line(plugin_encoder, tmp_path):
    command = "embed", plugin_encoder / "crops", "--encoder", "means"
    assert run(*command, "--out", tmp_path / "with", "--plugin", PLUGIN).returncode == 0
    assert FeatureStore.open(tmp_path / "with").embedding.shape == (1, 3, 12)
    refused = run(*command, "--out", tmp_path / "without")
    assert refused.returncode == 2 and "means: not a face encoder" in refused.stderr and "--plugin" in refused.stderr


def test_an_architectures_name_is_no_encoder():
    "The library's own are registered too, and have no weights."
    assert {"iresnet", "ir", "onnx"} <= set(FACE_ENCODERS)
    for name in ("iresnet", "ir", "onnx"):
        with pytest.raises(TgfrError, match="has no weights"):
            load_encoder(name)
