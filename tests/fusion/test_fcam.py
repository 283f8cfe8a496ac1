"""FCAM's image side against the recorded original, and what must hold for any encoder."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError
from tgfr.encoders.features import ImageFeatures, cosine_matrix
from tgfr.fusion.fcam import ImageHead, ResidualImageHead, SpatialAttention


def attention_state(params, prefix="", to=""):
    "The original's attention parameters under our names."
    return {
        f"{to}{ours}.{kind}": params[f"{prefix}{theirs}_proj.{kind}"]
        for ours, theirs in (("query", "query"), ("key", "key"), ("value", "value"))
        for kind in ("weight", "bias")
    }


@pytest.mark.golden("tgfr_self_attention_*")
def test_golden_attention(golden):
    q, value = golden.p["query_proj.weight"], golden.p["value_proj.weight"]
    attention = SpatialAttention(len(value), scale=len(value) // len(q))
    attention.load_state_dict(attention_state(golden.p))
    x, y = golden.i["x"].requires_grad_(), golden.i["q"].requires_grad_()
    golden.check_gradients(attention(x, y), g_x=x, g_q=y)


def image_head_state(p):
    "The original image head's parameters under our names (its layers that take no part in the output are left out)."
    state = {
        "face.weight": "project_global.projection.weight",
        "face.bias": "project_global.projection.bias",
        "project.bias": "imim.project_local.projection.bias",
    }
    state |= {
        f"norm_in.{k}": f"imim.bn_img.{k}"
        for k in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    state |= {f"norm_out.{k}": f"imim.ln.{k}" for k in ("weight", "bias")}
    state |= {f"mix.{i}.{k}": f"imim.conv1x1_{j}.{k}" for i, j in ((0, 1), (2, 2)) for k in ("weight", "bias")}
    state = {ours: p[theirs] for ours, theirs in state.items()} | attention_state(p, "imim.sa.", "attention.")
    return state | {"project.weight": p["imim.project_local.projection.weight"][..., None, None]}


@pytest.mark.golden("tgfr_image_heading")
def test_golden_image_head(golden):
    params = golden.beside(golden.meta["params"]).p
    embedding, regions = golden.i["global"].requires_grad_(), golden.i["local"].requires_grad_()
    head = ImageHead(embedding.shape[1], tuple(regions.shape[1:]), golden.meta["F"]).eval()
    head.load_state_dict(image_head_state(params))
    out = head(ImageFeatures(embedding, regions))
    golden.check("global", out.embedding)
    golden.check("local", out.regions)
    x = head.norm_in(regions)
    golden.check("imim_sa_first16", head.attention(x, x)[:, :16])
    ((out.embedding * golden.i["cot_global"]).sum() + (out.regions * golden.i["cot_local"]).sum()).backward()
    golden.check("g_global", embedding.grad)
    golden.check("g_local", regions.grad)


@given(st.integers(2, 8), st.integers(1, 6), st.integers(1, 6), st.integers(4, 40), st.integers(4, 40))
@settings(max_examples=20, deadline=None)
def test_any_encoder_shape(channels, height, width, embedding, dim):
    photos = ImageFeatures(torch.randn(3, embedding), torch.randn(3, channels, height, width))
    for head in ImageHead, ResidualImageHead:
        out = head(embedding, (channels, height, width), dim)(photos)
        assert out.embedding.shape == (3, dim) and out.regions.shape == (3, dim, height, width)
        assert torch.allclose(out.norm, torch.ones(3), atol=1e-4)


@pytest.mark.parametrize("side, grid", [(14, 7), (9, 5), (8, 8), (7, 7)])
def test_large_maps_are_halved(side, grid):
    out = ResidualImageHead(32, (8, side, side), 16).eval()(
        ImageFeatures(torch.randn(2, 32), torch.randn(2, 8, side, side))
    )
    assert out.regions.shape == (2, 16, grid, grid)


@pytest.mark.parametrize("kind", [ImageHead, ResidualImageHead])
def test_gradient_reaches_every_tensor(kind):
    head = kind(32, (8, 5, 5), 16)
    if kind is ResidualImageHead:
        torch.nn.init.normal_(head.correction[-1].weight)
    out = head(ImageFeatures(torch.randn(4, 32), torch.randn(4, 8, 5, 5)))
    (out.embedding.pow(3).sum() + out.regions.pow(3).sum()).backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] in (
        [],
        ["attention.query.bias"],
        ["attention.key.bias"],
    )


@pytest.mark.parametrize("regions", [None, (8, 5, 5)])
@pytest.mark.parametrize("dim", [64, 100])
def test_residual_head_starts_as_the_frozen_feature(dim, regions):
    faces = torch.randn(20, 64) * torch.rand(20, 1) * 30
    out = ResidualImageHead(64, regions, dim).eval()(ImageFeatures(faces, torch.randn(20, 8, 5, 5))).embedding
    assert torch.allclose(cosine_matrix(out, out), cosine_matrix(faces, faces), atol=1e-5)


@pytest.mark.parametrize("kind", [ImageHead, ResidualImageHead])
def test_one_channel_map_is_refused(kind):
    with pytest.raises(TgfrError, match="at least 2 channels"):
        kind(32, (1, 7, 7))
