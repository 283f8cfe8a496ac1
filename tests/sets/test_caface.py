"""CAFace against the recorded original, and what must hold for any set: padding is absence, states are a monoid, two
processes are one."""

import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_two
from safetensors.torch import load_file, save_file

from tgfr import cli
from tgfr.core import TgfrError, rng, seed_everything
from tgfr.encoders.features import cosine_matrix, l2_normalize
from tgfr.encoders.pretrained_faces import load_encoder
from tgfr.sets.caface import CAFace, SetState, fuse_sets
from tgfr.sets.caface_state import fuse_sharded, fuse_stream, load_state, merge, save_state, shard_states
from tgfr.sets.checkpoints import (
    check_encoder,
    convert_published,
    from_published,
    load_set_fusion,
    read_caface,
    read_centres,
)
from tgfr.sets.pooling import FaceSet, fuse_ragged
from tgfr.training.loop import build_accelerator

HERE = Path(__file__).parent


def everything(*shape):
    return torch.ones(*shape, dtype=torch.bool)


@pytest.mark.golden("caface_params")
def test_golden_names_and_table(golden):
    model = from_published(golden.p)
    hparams = golden.meta["hparams"]
    assert (model.config["centres"], model.config["depth"], model.config["confidence"]) == (
        hparams["num_group_tokens"][0],
        hparams["depths"][0],
        hparams["confidence_dim"],
    )
    assert model.config["norm_width"] == hparams["norm_dim"] and len(model.state_dict()) == len(golden.p) - 2
    torch.testing.assert_close(model.norm.pe, golden.p["norm_emb.pe"])
    assert torch.equal(golden.p["style_maker.cfc"], golden.p["style_maker.cfcs.0"])


@pytest.mark.golden("caface_single")
@torch.no_grad()
def test_golden_one_pass(golden):
    model, (sets, images) = golden.caface(), golden.i["features"].shape[:2]
    styles = torch.cat([golden.i["style3"], golden.i["style5"]], 1)
    golden.check("compressed", model.sim(styles))
    golden.check("norm_emb", model.norm(golden.i["norm"].flatten(0, 1)))
    golden.check("norm_emb_sweep", model.norm(golden.i["norm_sweep"].flatten(0, 1)))
    tokens = torch.cat([model.sim(styles).unflatten(0, (sets, images)), golden.o["norm_emb"]], -1)
    golden.check("block0_tokens", model.cn.blocks[0](torch.cat([tokens, model.cn.group_token.expand(sets, -1, -1)], 1)))
    for prefix, n in (("", images), ("T1.", 1)):
        faces = FaceSet(golden.i["features"][:, :n], everything(sets, n), styles.unflatten(0, (sets, images))[:, :n])
        assignment, state = model.cluster(faces)
        readout = model.readout(state)
        confidence = readout.confidence * readout.feature.norm(dim=-1, keepdim=True)
        found = {
            "attn": assignment,
            "cluster_feature": readout.feature,
            "mu": readout.feature,
            "cluster_style": readout.style,
            "confidence_weight": readout.confidence,
            "conf": confidence,
            "weights": confidence / confidence.sum(1, keepdim=True),
            "aggregated": readout.embedding,
            "group_token": model.cn.group_token.expand(sets, -1, -1),
        }
        for name, value in found.items():
            golden.check(prefix + name, value)
        golden.check(prefix + "aggregated", model.fuse(faces, chunk=None))


@pytest.mark.golden("caface_sequential")
@torch.no_grad()
def test_golden_stream(golden):
    model, features, chunk = golden.caface(), golden.i["features"], golden.meta["max_element"]
    faces = FaceSet(features, everything(*features.shape[:2]), golden.i["intermediate"])
    state, start = model.init(), 0
    for k, n in enumerate(golden.meta["chunks"]):
        assignment, new = model.cluster(
            FaceSet(*(x[:, start : start + n] for x in (features, faces.mask, faces.styles)))
        )
        state, start = merge(state, new), start + n
        readout = model.readout(state)
        confidence = readout.confidence * readout.feature.norm(dim=-1, keepdim=True)
        found = {
            "attn": assignment,
            "memory.attn": state.cluster_size,
            "cluster_feature": readout.feature,
            "cluster_style": readout.style,
            "memory.cluster_features": readout.feature,
            "memory.cluster_style": readout.style,
            "aggregated": readout.embedding,
            "confidence_weight": readout.confidence,
            "weights": confidence / confidence.sum(1, keepdim=True),
        }
        for name, value in found.items():
            golden.check(f"chunk{k}.{name}", value)
    assert start == features.shape[1]
    streamed, single = fuse_sets(model, faces, chunk=chunk), fuse_sets(model, faces, chunk=None)
    for name in ("fused", "demo.fused"):
        golden.check(name, l2_normalize(streamed.embedding))
    for name in ("fused_single_shot", "demo.fused_single"):
        golden.check(name, l2_normalize(single.embedding))
    golden.check("single.aggregated", single.embedding)
    golden.check("demo.weights", streamed.weights)
    golden.check("demo.weights_single", single.weights)
    spoiled = replace(faces, embedding=golden.i["features_nan"])
    golden.check("nan.fused", l2_normalize(model.fuse(spoiled, chunk=chunk, nan="published")))
    ours = model.fuse(spoiled, chunk=chunk)
    keep = spoiled.embedding[0].isfinite().all(-1)
    torch.testing.assert_close(
        ours, model.fuse(FaceSet(features[:, keep], faces.mask[:, keep], faces.styles[:, keep]), chunk=chunk)
    )


E, S = 24, 10


def lively(**config) -> CAFace:
    "A small model in which nothing is at its starting constant."
    seed_everything(1)
    model = CAFace(E, S, style_width=16, norm_width=16, heads=4, **config)
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    model.norm.norm_bn.running_mean.fill_(5.0)
    return model.eval()


def images(n, seed=0, sets=1) -> FaceSet:
    draw = torch.Generator().manual_seed(seed)
    return FaceSet(
        torch.randn(sets, n, E, generator=draw), everything(sets, n), torch.rand(sets, n, S, 2, generator=draw)
    )


def pick(faces, index):
    return FaceSet(faces.embedding[:, index], faces.mask[:, index], faces.styles[:, index])


MODEL = lively()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_any_order_and_grouping_of_chunks_gives_one_state(sizes, random, seed):
    faces, ends = images(sum(sizes), seed), np.cumsum(sizes)
    states = [MODEL.update(MODEL.init(), pick(faces, slice(end - n, end))) for n, end in zip(sizes, ends)]
    expected = fuse_stream(MODEL, (pick(faces, slice(end - n, end)) for n, end in zip(sizes, ends)))
    random.shuffle(states)
    while len(states) > 1:  # a random tree of merges, with the empty state thrown in
        i = random.randrange(len(states) - 1)
        states[i : i + 2] = [merge(states[i], MODEL.init(), states[i + 1])]
    for f in fields(SetState):
        torch.testing.assert_close(getattr(states[0], f.name), getattr(expected, f.name), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        MODEL.readout(states[0]).embedding, MODEL.readout(expected).embedding, rtol=1e-4, atol=1e-5
    )
    assert int(expected.count) == sum(sizes)


@given(st.integers(1, 30), st.integers(0, 12), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
@torch.no_grad()
def test_padding_anywhere_is_absence(n, padding, chunk, random):
    faces = images(n, n)
    places = sorted(random.sample(range(n + padding), n))

    def spread(x):
        return torch.full((1, n + padding, *x.shape[2:]), torch.nan).index_copy(1, torch.tensor(places), x)

    mask = torch.zeros(1, n + padding, dtype=torch.bool)
    mask[0, places] = True
    padded = fuse_sets(MODEL, FaceSet(spread(faces.embedding), mask, spread(faces.styles)), chunk=chunk)
    alone = fuse_sets(MODEL, faces, chunk=chunk)
    torch.testing.assert_close(padded.embedding, alone.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded.weights[:, places], alone.weights, rtol=1e-4, atol=1e-5)
    assert padded.weights[~mask].abs().sum() == 0 and torch.equal(padded.state.count, alone.state.count)


@pytest.mark.parametrize(
    "config", [dict(centres=1), dict(centres=16), dict(depth=1), dict(depth=3, confidence=1)], ids=str
)
@torch.no_grad()
def test_any_shape(config):
    model = lively(**config)
    result = fuse_sets(model, images(7, sets=3), chunk=3)
    torch.testing.assert_close(result.weights.sum(1), torch.ones(3))
    assert result.state.cluster_size.shape == (3, config.get("centres", 4)) and result.embedding.shape == (3, E)


@torch.no_grad()
def test_plain_confidence_weights_are_a_weighted_mean():
    model, faces = lively(confidence=1), images(9)
    result = fuse_sets(model, faces)
    if (result.state.cluster_size >= 1).all():  # else clusters are shrunk, as published
        torch.testing.assert_close(
            cosine_matrix(result.embedding, result.weights @ l2_normalize(faces.embedding)[0]), torch.ones(1, 1)
        )


@torch.no_grad()
def test_an_empty_set_is_zero_and_a_lost_chunk_is_nothing():
    faces = images(6)
    nothing = replace(faces, embedding=torch.full_like(faces.embedding, torch.nan))
    assert fuse_sets(MODEL, nothing).embedding.abs().sum() == 0
    both = fuse_stream(MODEL, [faces, nothing])
    assert torch.equal(both.feature, fuse_stream(MODEL, [faces]).feature) and int(both.count) == 6


def test_every_tensor_learns_and_norm_has_no_gradient_through_its_step():
    model, faces = lively(drop=0.0).train(), images(12, sets=2)
    model.fuse(faces)[:, :5].sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


@torch.no_grad()
def test_ragged_and_sharded_equal_one_at_a_time():
    draw = rng(0, "ragged")
    sizes = np.minimum(draw.zipf(1.6, 60), 90)
    template = draw.permutation(np.repeat(np.arange(60) * 7, sizes))
    embedding, styles = draw.normal(size=(len(template), E)).astype("f"), draw.random((len(template), S, 2)).astype("f")
    embedding[draw.integers(len(template), size=5)] = np.nan
    alone = [
        MODEL.fuse(
            FaceSet(torch.from_numpy(embedding[t])[None], everything(1, t.sum()), torch.from_numpy(styles[t])[None]),
            chunk=16,
        )[0]
        for t in (template == i for i in np.unique(template))
    ]
    for most in (64, 1 << 14):
        for ids, found in (
            fuse_ragged(MODEL, embedding, template, styles, max_cells=most, chunk=16),
            fuse_sharded(MODEL, embedding, template, styles, chunk=16, max_cells=most),
        ):
            assert ids.tolist() == (np.arange(60) * 7).tolist()
            torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one(tmp_path):
    shard(tmp_path, build_accelerator(cpu=True))
    run_two(__file__, tmp_path)
    one, two = (
        load_file(tmp_path / f"{n}.safetensors") for n in (1, 2)
    )  # the second file exists only if two processes ran
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-4)
    assert one["count"].sum() == 2000


def shard(folder, accelerator):
    "What `test_two_processes_equal_one` runs in one process and in each of two."
    draw = rng(3, "shards")
    template = np.repeat([5, 1, 8], [1200, 750, 50])
    ids, state = shard_states(
        lively(),
        draw.normal(size=(2000, E)).astype("f"),
        template,
        draw.random((2000, S, 2)).astype("f"),
        chunk=64,
        max_cells=256,
        accelerator=accelerator,
    )
    tensors = {f.name: getattr(state, f.name) for f in fields(SetState)} | {
        "ids": torch.from_numpy(ids),
        "embedding": lively().readout(state).embedding.detach(),
    }
    if accelerator.is_main_process:
        save_file(tensors, Path(folder) / f"{accelerator.num_processes}.safetensors")


@torch.no_grad()
def test_a_damaged_state_file_is_refused(tmp_path):
    path, state = tmp_path / "state.safetensors", fuse_stream(MODEL, [images(5)])
    save_state(path, state, MODEL)
    assert path.stat().st_size < 16_000
    whole, draw = path.read_bytes(), rng(0, "damage")
    for _ in range(200):
        data = damaged(whole, draw.integers(1, 4), draw.integers)
        path.write_bytes(data[: draw.integers(len(data))] if draw.random() < 0.3 else data)
        try:
            load_state(path, MODEL)
        except TgfrError:
            pass


@pytest.mark.golden("caface_params")
def test_golden_lightning_checkpoint(golden, tmp_path):
    aggregator = {f"aggregator.{k}": v for k, v in golden.p.items()}
    others = {"model.output_layer.3.weight": torch.randn(512, 16), "center.weight": torch.randn(11, 512)}
    checkpoint = {
        "epoch": 9,
        "global_step": 1,
        "pytorch-lightning_version": "1.4.9",
        "state_dict": aggregator | others,
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "arch": "ir_101",
            "decoder_name": golden.meta["config"],
            "style_index": [3, 5],
            "use_memory": True,
        },
    }
    torch.save(checkpoint, tmp_path / "CAFace_made.ckpt")
    model, centres = read_caface(tmp_path / "CAFace_made.ckpt")
    assert torch.equal(centres, others["center.weight"])
    for k, v in from_published(golden.p).state_dict().items():
        assert torch.equal(model.state_dict()[k], v), k
    torch.save(
        {"center": centres, "model": "AdaFaceWebFace4M.ckpt", "dataset": "webface4m_subset"},
        tmp_path / "center_made.pth",
    )
    assert torch.equal(read_centres(tmp_path / "center_made.pth"), centres)
    with pytest.raises(TgfrError, match=r"center_made.pth: identity centres \(11, 512\) .* no model; .*read_centres"):
        convert_published(tmp_path / "center_made.pth", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.golden("backbone_caface_tface_ir18")
def test_golden_convert_command(golden, tmp_path, capsys):
    aggregator = golden.beside("caface_params").p
    weights = (
        {f"model.{k}": v for k, v in golden.weights().items()}
        | {f"aggregator.{k}": v for k, v in aggregator.items()}
        | {"center.weight": torch.randn(5, 512)}
    )
    torch.save({"hyper_parameters": {"arch": "ir_18"}, "state_dict": weights}, tmp_path / "CAFace_made.ckpt")
    cli.main(["convert", str(tmp_path / "CAFace_made.ckpt"), "--to", str(tmp_path / "ours")])
    said = "".join(capsys.readouterr())
    assert "center.weight" in said and "aggregator" not in said
    fusion, encoder = load_set_fusion(tmp_path / "ours"), load_encoder(tmp_path / "ours/encoder")
    assert (
        fusion.config["styles"] == encoder.style_width(("stage2", "stage3"))
        and fusion.config["embedding"] == encoder.config.embedding
    )
    check_encoder(tmp_path / "ours", encoder.config.name, encoder.content_digest)  # its own, read back
    for k, v in from_published(aggregator).state_dict().items():
        assert torch.equal(fusion.state_dict()[k], v), k


def test_other_checkpoints_are_refused_with_a_reason(tmp_path):
    path = tmp_path / "some.ckpt"
    with pytest.raises(TgfrError, match="no such file"):
        read_caface(path)
    for content, reason in (
        ({"a": 1}, "no weights"),
        ({"state_dict": {"model.a": torch.zeros(1)}}, "no aggregator"),
        ([1], "no weights"),
        ({"state_dict": {"aggregator.wing": torch.zeros(1)}}, "wing is no part"),
        ({"state_dict": {"aggregator.style_maker.cfc": torch.zeros(4, 2)}}, "is missing"),
    ):
        torch.save(content, path)
        with pytest.raises(TgfrError, match=reason):
            read_caface(path)
    for junk in (b"", b"PK\3\4", b"\x80\x02cos\nsystem\n(S'true'\ntR.", os.urandom(100)):
        path.write_bytes(junk)
        with pytest.raises(TgfrError):
            read_caface(path)
    torch.save({"center": torch.zeros(3)}, path)
    with pytest.raises(TgfrError, match="matrix"):
        read_centres(path)


if __name__ == "__main__":
    shard(sys.argv[1], build_accelerator())
