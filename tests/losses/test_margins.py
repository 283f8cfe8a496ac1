"""Margin heads: the recorded logits, losses and gradients, and what holds for every head."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError
from tgfr.encoders.features import l2_normalize
from tgfr.losses.contrastive import focal_loss
from tgfr.losses.margins import MARGINS, AdaFace, ArcFace, CosFace, MagFace, SphereFace, build_margin


def head_of(case: str, p: dict, dim: int, classes: int):
    "The head a golden case was recorded with."
    if case.startswith("arc"):
        return ArcFace(dim, classes, p["s"], p["m"], p["easy"])
    if case.startswith("cos"):
        return CosFace(dim, classes, p["s"], p["m"])
    if case.startswith("sphere"):
        head = SphereFace(dim, classes, p["m"])
        head.calls.fill_(p["call"] - 1)
        return head
    return AdaFace(dim, classes, p["s"], p["m"], p["h"], p["t_alpha"])


@pytest.mark.golden("tgfr_metrics")
def test_golden_margins(golden):
    weight, y = golden.p["weight"], golden.i["y"]
    for case, p in golden.meta["params"].items():
        ada = case.startswith("ada")
        head = head_of(case, p, weight.shape[1], len(weight))
        head.weight.data = weight.clone()
        x = (F.normalize(golden.i["x"]) if ada else golden.i["x"].clone()).requires_grad_()
        norm = (golden.i["adaface_norms"],) if ada else ()
        for _ in range(p["call"] - 1 if ada else 0):
            head(x, y, *norm)
        logits = head(x, y, *norm)
        golden.check(f"{case}.logits", logits)
        loss, focal = F.cross_entropy(logits, y), focal_loss(logits, y, batch_mean=True)
        golden.check(f"{case}.ce", loss)
        golden.check(f"{case}.focal2", focal)
        g_x, g_w = torch.autograd.grad(loss, (x, head.weight), retain_graph=True)
        golden.check(f"{case}.g_x", g_x)
        golden.check(f"{case}.g_w", g_w.T if ada else g_w)
        golden.check(f"{case}.g_x_focal", torch.autograd.grad(focal, x)[0])
        if ada:
            golden.check(f"{case}.batch_mean", head.mean)
            golden.check(f"{case}.batch_std", head.std)


@pytest.mark.golden("tgfr_maghead_*")
def test_golden_magface(golden):
    weight, y, x = golden.p["weight"], golden.i["target"], golden.i["x"].clone().requires_grad_()
    head = MagFace(len(weight), weight.shape[1], easy=golden.meta["easy_margin"], **golden.meta["cfg"])
    head.weight.data = weight.T.contiguous()
    logits, regulariser = head(x, y), head.regulariser(x)
    loss = F.cross_entropy(logits, y)
    golden.check("loss", loss)
    golden.check("loss_g", regulariser)
    (loss + 35 * regulariser).backward()
    golden.check("gx", x.grad)
    golden.check("gweight", head.weight.grad.T)
    true = F.one_hot(y, weight.shape[1]).bool()
    assert torch.equal(true, golden.o["one_hot"].bool())
    golden.check("cos_theta", torch.where(true, golden.o["cos_theta"], logits))
    golden.check("cos_theta_m", torch.where(true, logits, golden.o["cos_theta_m"]))
    golden.check("x_norm", x.norm(dim=1, keepdim=True).clamp(golden.meta["cfg"]["l_a"], golden.meta["cfg"]["u_a"]))


@pytest.fixture(params=MARGINS)
def head(request):
    torch.manual_seed(0)
    return build_margin(request.param, 12, 6)


def batch():
    return 15 * torch.randn(8, 12), torch.randint(6, (8,))


def test_only_the_true_class_changes(head):
    x, y = batch()
    expected = head.scale_logits(F.cosine_similarity(x[:, None], head.weight[None], dim=2), x.norm(dim=1, keepdim=True))
    others = ~F.one_hot(y, 6).bool()
    limit = 1e-3 * head.scale if isinstance(head, AdaFace) else 1e-4
    torch.testing.assert_close(head(x, y)[others], expected[others], rtol=1e-4, atol=limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_where_feature_and_class_are_parallel(head, dtype):
    w = l2_normalize(head.weight.detach())
    nothing = (
        torch.zeros(12) if dtype != torch.float16 else w[4]
    )  # a zero vector's gradient is 1/1e-8, more than float16 holds
    x = torch.stack([w[0], 20 * w[1], -w[2], -30 * w[3], nothing, 1e4 * w[5]]).to(dtype).requires_grad_()
    F.cross_entropy(head(x, torch.arange(6)), torch.arange(6)).backward()
    assert x.grad.isfinite().all() and head.weight.grad.isfinite().all()
    assert head.weight.grad.abs().sum() > 0


def test_exactly_parallel_in_floating_point():
    "One-hot vectors: the cosine is exactly 1 or -1, where the published code divides by zero."
    for name in MARGINS:
        head = build_margin(name, 4, 4)
        head.weight.data = torch.eye(4)
        x = torch.stack([torch.eye(4)[0] * 16, -torch.eye(4)[1] * 16]).requires_grad_()
        F.cross_entropy(head(x, torch.tensor([0, 1])), torch.tensor([0, 1])).backward()
        assert x.grad.isfinite().all() and head.weight.grad.isfinite().all(), name


def test_cosines_stay_float32_under_autocast(head):
    x, y = batch()
    head.eval()
    expected = head(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(x, y)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([n for n in MARGINS if n != "softmax"]), st.integers(0, 10**6), st.floats(11, 100))
def test_a_margin_never_helps_a_good_sample(name, seed, length):
    "Within 60 degrees of its class, the margin lowers the true logit."
    torch.manual_seed(seed)
    head = build_margin(name, 5, 3).eval()
    theta = torch.rand(4, 1) * math.pi / 3
    axis = l2_normalize(head.weight.detach()[:1])
    side = l2_normalize(torch.randn(4, 5) - (torch.randn(4, 5) @ axis.T) * axis)
    side = l2_normalize(side - (side @ axis.T) * axis)
    x = length * (theta.cos() * axis + theta.sin() * side)
    y = torch.zeros(4, dtype=torch.long)
    plain = head.scale_logits(F.cosine_similarity(x, axis)[:, None], torch.full((4, 1), length))
    assert (head(x, y)[:, :1] <= plain + 1e-3 * head.scale).all()


def test_a_batch_of_one_and_of_any_order(head):
    x, y = batch()
    head.eval()
    order = torch.randperm(8)
    torch.testing.assert_close(head(x[order], y[order]), head(x, y)[order])
    torch.testing.assert_close(head(x[:1], y[:1]), head(x, y)[:1])
    assert head.train()(x[:1], y[:1]).isfinite().all()


def test_evaluation_leaves_the_state_alone_and_training_moves_it(head):
    x, y = batch()
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head.eval()(x, y)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items())
    head.train()(x, y)
    changed = {k for k, v in head.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"SphereFace": {"calls"}, "AdaFace": {"mean", "std"}}.get(type(head).__name__, set())


def test_the_state_survives_a_save(head, tmp_path):
    x, y = batch()
    head.train()(x, y)
    torch.save(head.state_dict(), tmp_path / "head.pt")
    other = build_margin(next(n for n, c in MARGINS.items() if type(head) is c), 12, 6)
    other.load_state_dict(torch.load(tmp_path / "head.pt", weights_only=True))
    torch.testing.assert_close(other.eval()(x, y), head.eval()(x, y))


@pytest.mark.parametrize("easy", [False, True])
def test_magface_trains_the_length(easy):
    x = torch.tensor([[30.0, 40, 0]], requires_grad=True)
    head = MagFace(3, 2, easy=easy)
    head.weight.data = torch.tensor([[1.0, 1, 0.5], [-1, 0, 1]])
    F.cross_entropy(head(x, torch.tensor([0])), torch.tensor([0])).backward()
    assert (x.grad * x).sum().item() > 0  # a longer feature has a larger margin, hence a larger loss
    x.grad = None
    head.regulariser(x).backward()
    assert (x.grad * x).sum().item() < 0  # and the regulariser pulls the other way


def test_wrong_use_is_named():
    with pytest.raises(TgfrError, match="arcface"):
        build_margin("nosuch", 4, 4)
    with pytest.raises(TgfrError, match="l_a"):
        MagFace(4, 4, l_a=200.0)
    with pytest.raises(TgfrError, match="margin"):
        SphereFace(4, 4, margin=0)
