"""Contrastive losses: the recorded values and gradients, the textbook loop, and what must not matter."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tgfr.core import TgfrError
from tgfr.encoders.features import TextFeatures, cosine_matrix
from tgfr.losses.contrastive import (
    CMPC,
    clip_loss,
    cmpm_loss,
    contrastive,
    focal_loss,
    global_loss,
    kl_unit_gaussian,
    same_id_mask,
    sentence_loss,
    soft_clip_loss,
    word_region_loss,
)
from tgfr.losses.word_region import full_precision, word_attention, word_region_similarity
from tgfr.training.objectives import gather, gather_words


def textbook(regions, words, mask, gamma1=4.0, gamma2=5.0):
    "S (B, C) as the formula reads: one caption after the other, real words only."
    columns = []
    for word, real in zip(words, mask):
        word = word[:, real]
        share = torch.softmax(word.T @ regions.flatten(2), 1)
        context = torch.softmax(gamma1 * share, 2) @ regions.flatten(2).transpose(1, 2)
        columns.append(torch.logsumexp(gamma2 * F.cosine_similarity(word.T[None], context, dim=2), 1))
    return torch.stack(columns, 1)


def example(B=5, C=4, D=24, T=7, H=6, W=5, seed=0, dtype=torch.float32):
    "Regions, words and a mask with captions of different length."
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (C, 1), generator=g)
    return (
        torch.randn(B, D, H, W, generator=g).to(dtype),
        torch.randn(C, D, T, generator=g).to(dtype),
        torch.arange(T) < lengths,
    )


def gradients(f, *tensors):
    "Value and gradients of `f`, weighted by fixed random numbers when it is no scalar."
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    value = f(*tensors)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(7)).to(value.dtype)
    return value.detach(), *torch.autograd.grad((weight * value).sum() if value.ndim else value, tensors)


def close(ours, theirs, relative=1e-5):
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=relative * b.abs().max().item())


# goldens


@pytest.mark.golden("tgfr_words_loss_*")
def test_golden_word_region(golden):
    regions, words = (golden.i[k].clone().requires_grad_() for k in ("img", "words"))
    lengths = golden.i.get("cap_lens", torch.full((len(words),), words.shape[2]))
    mask, gammas = (
        torch.arange(words.shape[2]) < lengths[:, None],
        [golden.meta["gammas"][f"GAMMA{i}"] for i in (1, 2, 3)],
    )
    row, column = contrastive(gammas[2] * word_region_similarity(regions, words, mask, *gammas[:2]))
    for case in ("none", "unique", "dup"):  # the published code ignores identities here
        golden.check(f"{case}.loss0", row)
        golden.check(f"{case}.loss1", column)
    loss = word_region_loss(regions, words, mask, gammas=gammas)
    torch.testing.assert_close(loss, row + column)
    loss.backward()
    golden.check("g_img", regions.grad)
    golden.check("g_words", words.grad)
    attention = word_attention(regions, words, mask, gammas[0])[1]
    for i, length in enumerate(lengths):
        golden.check(f"att.{i}", attention[i, :length])


@pytest.mark.golden("tgfr_func_attention")
def test_golden_attend(golden):
    words, regions = (golden.i[k].clone().requires_grad_() for k in ("query", "context"))
    context, attention = word_attention(regions, words, gamma1=golden.meta["gamma1"])
    golden.check("weighted", context)
    golden.check("attn", attention)
    torch.autograd.backward([context, attention], [golden.i["cot_wc"], golden.i["cot_att"]])
    golden.check("g_query", words.grad)
    golden.check("g_context", regions.grad)


@pytest.mark.golden("tgfr_sent_losses")
def test_golden_sentence_and_global(golden):
    g, s, meta = golden.i["cnn"], golden.i["rnn"], golden.meta
    gamma3 = meta["gamma3"]
    for case, identity in dict(none=None, unique=golden.i["ids_unique"], dup=golden.i["ids_dup"]).items():
        row, column = contrastive(gamma3 * cosine_matrix(g, s), None if identity is None else same_id_mask(identity))
        golden.check(f"sent.{case}.loss0", row)
        golden.check(f"sent.{case}.loss1", column)
        check_pair(
            golden,
            f"sent.{case}",
            lambda g, s, identity=identity: sentence_loss(g, s, identity, gamma3),
            loss=row + column,
        )
    for case, p in meta["params"].items():
        if "eta" in p:
            check_pair(golden, case, lambda g, s, p=p: global_loss(g, s, p["eta"]))
        else:
            check_pair(golden, case, lambda g, s, p=p: clip_loss(g, s, p["kappa"]))
    check_pair(golden, "clip_loss", lambda g, s: soft_clip_loss(g, s, meta["temperature"]))
    golden.check("kl", kl_unit_gaussian(golden.i["mu"], golden.i["logvar"]))


def check_pair(golden, case, f, loss=None):
    "Loss and both gradients of `f` on the case's image and text features."
    value, g_image, g_text = gradients(f, golden.i["cnn"], golden.i["rnn"])
    if loss is None:
        golden.check(f"{case}.loss", value)
    else:
        torch.testing.assert_close(value, loss)
    golden.check(f"{case}.g_cnn", g_image)
    golden.check(f"{case}.g_rnn", g_text)


@pytest.mark.golden("tgfr_cmp_loss")
def test_golden_projection_matching_and_classification(golden):
    labels, weight = golden.i["labels"], golden.p["W"]
    head = CMPC(weight.shape[1], len(weight))
    head.weight.data = weight
    for case, match, classify in (("cmpm", 1, 0), ("cmpc", 0, 1), ("both", 1, 1)):
        image, text = (golden.i[k].clone().requires_grad_() for k in ("image", "text"))
        cmpm, cmpc = match * cmpm_loss(image, text, labels), classify * head(image, text, labels)
        golden.check(f"{case}.cmpm", cmpm)
        golden.check(f"{case}.cmpc", cmpc)
        golden.check(f"{case}.loss", cmpm + cmpc)
        head.zero_grad(), (cmpm + cmpc).backward()
        golden.check(f"{case}.g_image", image.grad)
        golden.check(f"{case}.g_text", text.grad)
        if classify:
            golden.check(f"{case}.g_W", head.weight.grad)


@pytest.mark.golden("tgfr_focal")
def test_golden_focal(golden):
    gammas = {k.split(".")[0] for k in golden.o}
    assert gammas
    for case in gammas:
        value, gradient = gradients(
            lambda x, gamma=float(case[1:]): focal_loss(x, golden.i["target"], gamma, batch_mean=True),
            golden.i["logits"],
        )
        golden.check(f"{case}.loss", value)
        golden.check(f"{case}.grad", gradient)


# word-region similarity


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), st.integers(0, 10**6)
)
def test_similarity_equals_the_loop(B, C, T, H, chunk, seed):
    regions, words, mask = example(B, C, 8, T, H, 3, seed, torch.float64)
    close(
        gradients(lambda r, w: word_region_similarity(r, w, mask, chunk=chunk), regions, words),
        gradients(lambda r, w: textbook(r, w, mask), regions, words),
        1e-7,
    )


def test_similarity_equals_the_loop_at_the_papers_size():
    "256 dimensions, 14x14 regions, unit features, float32, sharp settings too."
    regions, words, mask = example(3, 5, 256, 22, 14, 14)
    regions, words = F.normalize(regions, dim=1), F.normalize(words, dim=1)
    for gammas in ((4.0, 5.0), (9.0, 20.0)):
        close(
            gradients(lambda r, w, g=gammas: word_region_similarity(r, w, mask, *g), regions, words),
            gradients(lambda r, w, g=gammas: textbook(r, w, mask, *g), regions, words),
        )


def test_chunks_do_not_matter():
    regions, words, mask = example()
    one = gradients(lambda r, w: word_region_similarity(r, w, mask, chunk=1, cache_bytes=0), regions, words)
    for chunk in (1, 2, 3, 4, 100):
        for keep in (0, 1 << 30):
            close(
                gradients(
                    lambda r, w, c=chunk, k=keep: word_region_similarity(r, w, mask, chunk=c, cache_bytes=k),
                    regions,
                    words,
                ),
                one,
            )


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_backward_may_run_twice(keep):
    regions, words, mask = example()
    S = word_region_similarity(regions.requires_grad_(), words.requires_grad_(), mask, cache_bytes=keep).sum()
    for a, b in zip(*(torch.autograd.grad(S, (regions, words), retain_graph=True) for _ in range(2))):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "f",
    [
        lambda r, w, m: word_region_similarity(r, w, m),
        lambda r, w, m: torch.cat([x.flatten(1) for x in word_attention(r[:4], w, m)], 1),
    ],
)
def test_padding_equals_absence(f):
    regions, words, mask = example()
    value, g_regions, g_words = gradients(lambda r, w: f(r, w, mask), regions, words)
    loud = torch.where(mask[:, None], words, 1000.0)
    close(gradients(lambda r, w: f(r, w, mask), regions, loud), (value, g_regions, g_words))
    assert not g_words.masked_select(~mask[:, None]).any()


def test_longer_padding_changes_nothing():
    regions, words, mask = example()
    close(
        [word_region_similarity(regions, F.pad(words, (0, 5)), F.pad(mask, (0, 5)))],
        [word_region_similarity(regions, words, mask)],
    )


def test_words_in_any_order_and_long_scores():
    regions, words, mask = example()
    order = torch.randperm(words.shape[2])
    S = word_region_similarity(regions, words, mask)
    torch.testing.assert_close(word_region_similarity(regions, words[:, :, order], mask[:, order]), S)
    assert all(
        x.isfinite().all()
        for x in gradients(lambda r, w: word_region_similarity(r, w, mask), 100 * regions, 100 * words)
    )


def test_degenerate_features_are_finite():
    regions, words, mask = example()
    regions[0], words[1] = 0, 0
    for x in gradients(lambda r, w: word_region_similarity(r, w, mask), regions, words):
        assert x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    regions, words, mask = example(dtype=dtype)
    exact = gradients(lambda r, w: word_region_similarity(r, w, mask), regions.float(), words.float())
    regions, words = (t.requires_grad_() for t in (regions, words))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        S = word_region_similarity(regions, words, mask)
        g = torch.autograd.grad(
            (torch.randn(S.shape, generator=torch.Generator().manual_seed(7)) * S).sum(), (regions, words)
        )  # backward inside autocast as well
    assert S.dtype == torch.float32 and g[0].dtype == g[1].dtype == dtype
    torch.testing.assert_close(S, exact[0])
    close([x.float() for x in g], exact[1:], 1e-5 if dtype == torch.float32 else 1e-2)


def test_memory_does_not_grow_with_pairs():
    "What autograd keeps is far less than the attention of all pairs."
    regions, words, mask = example(16, 16, 8, 12, 8, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        word_region_similarity(regions.requires_grad_(), words.requires_grad_(), mask, cache_bytes=0)
    assert 0 < sum(kept) < 16 * 16 * 12 * 64 / 2


def test_wrong_use_is_named():
    regions, words, mask = example()
    with pytest.raises(TgfrError, match="caption 2"):
        word_region_similarity(regions, words, mask & (torch.arange(4) != 2)[:, None])
    with pytest.raises(TgfrError, match="regions"):
        word_region_similarity(regions.flatten(2), words, mask)
    with pytest.raises(TgfrError, match="chunk"):
        word_region_similarity(regions, words, mask, chunk=0)
    with pytest.raises(TgfrError, match="targets"):
        contrastive(torch.zeros(2, 3))
    with pytest.raises(TgfrError, match="normalisation"):
        cmpm_loss(words[:, :, 0], words[:, :, 0], torch.arange(4), "other")


# contrastive losses

# every loss of paired batches, as a function of (image, text, identity)
LOSSES = {
    "sentence": lambda g, s, i: sentence_loss(g, s, i),
    "global": lambda g, s, i: global_loss(g, s),
    "clip": lambda g, s, i: clip_loss(g, s),
    "soft": lambda g, s, i: soft_clip_loss(g, s, 2.0),
    "cmpm": cmpm_loss,
    "cmpm paper": lambda g, s, i: cmpm_loss(g, s, i, "paper"),
    "words": lambda g, s, i: word_region_loss(
        g.view(len(g), 4, 2, 2), s.view(len(s), 4, 4), ignore_mask=same_id_mask(i)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_the_batch_does_not_matter(name):
    torch.manual_seed(0)
    g, s, identity = torch.randn(6, 16), torch.randn(6, 16), torch.tensor([3, 1, 3, 7, 1, 9])
    f, order = LOSSES[name], torch.randperm(6)
    torch.testing.assert_close(f(g[order], s[order], identity[order]), f(g, s, identity))
    assert not torch.isclose(f(g, s[order], identity), f(g, s, identity))  # but who belongs to whom does


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_one(name):
    g, s = torch.randn(2, 1, 16)
    value, *grads = gradients(lambda g, s: LOSSES[name](g, s, torch.tensor([5])), g, s)
    assert abs(value.item()) < 1e-6 and all(x.isfinite().all() for x in grads)


def test_excluded_pairs_take_no_part():
    torch.manual_seed(0)
    logits, exclude = torch.randn(5, 5, requires_grad=True), torch.rand(5, 5) > 0.6
    sum(contrastive(logits, exclude)).backward()
    off = exclude & ~torch.eye(5).bool()
    assert off.any() and not logits.grad[off].any() and logits.grad[~off].all()
    assert all(x == 0 for x in contrastive(logits, torch.ones(5, 5).bool()))  # nothing but the pair itself is left


def test_one_person_only():
    g, s = torch.randn(2, 4, 8)
    assert sentence_loss(g, s, torch.zeros(4)).item() == 0


def test_rectangular_blocks_equal_the_whole_batch():
    "Two devices: rows of images and rows of captions, against all others, add up to the loss of the batch."
    torch.manual_seed(0)
    g, s, identity = torch.randn(6, 8), torch.randn(6, 8), torch.tensor([3, 1, 3, 7, 1, 9])
    whole = contrastive(10 * cosine_matrix(g, s), same_id_mask(identity))
    parts = []
    for own in (torch.arange(3), torch.arange(3, 6)):
        exclude = same_id_mask(identity[own], identity)
        parts.append(
            (
                contrastive(10 * cosine_matrix(g[own], s), exclude, own)[0],
                contrastive(10 * cosine_matrix(s[own], g), exclude, own)[0],
            )
        )
    for i in (0, 1):
        torch.testing.assert_close(sum(p[i] for p in parts) / 2, whole[i])


def test_per_sample_and_batch_mean_focal():
    logits, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    c = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(focal_loss(logits, target, 2.0), ((1 - (-c).exp()) ** 2 * c).mean())
    torch.testing.assert_close(focal_loss(logits[:1], target[:1]), focal_loss(logits[:1], target[:1], batch_mean=True))
    value, gradient = gradients(
        lambda x: focal_loss(x, target), 1e3 * F.one_hot(target, 4).float()
    )  # certain and right
    assert value == 0 and gradient.isfinite().all()


def test_cmpm_normalisations_differ_only_where_an_identity_repeats():
    torch.manual_seed(0)
    image, text = torch.randn(2, 6, 8)
    torch.testing.assert_close(
        cmpm_loss(image, text, torch.arange(6)), cmpm_loss(image, text, torch.arange(6), "paper")
    )
    assert not torch.isclose(
        cmpm_loss(image, text, torch.arange(6) // 2), cmpm_loss(image, text, torch.arange(6) // 2, "paper")
    )


@pytest.mark.parametrize(
    "f", [sentence_loss, global_loss, clip_loss, soft_clip_loss, lambda g, s: cmpm_loss(g, s, torch.arange(len(g)))]
)
def test_losses_are_float32_under_autocast(f):
    g, s = torch.randn(2, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = f(g, s)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, f(g, s))
    assert full_precision(lambda x: x)(g.half()).dtype == torch.float32


# several processes


def shared_batch(B=6, D=12, T=5):
    "Regions, words, mask, globals and sentences of a batch, and its identities; the halves' captions differ in length."
    regions, words, mask = example(B, B, D, T, 4, 3, seed=3, dtype=torch.float64)
    mask[: B // 2, T - 2 :], mask[-1] = False, True
    g, s = torch.randn(2, B, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return regions, words, mask, g, s, torch.tensor([3, 1, 3, 7, 1, 9])


def all_losses(regions, words, mask, g, s, identity):
    "Each loss of this process's part of a batch with the negatives of all processes."
    every, every_mask = gather_words(TextFeatures(s, words, mask))
    person = gather(identity)
    S, sentences, faces = gather(word_region_similarity(regions, every, every_mask)), gather(s), gather(g)
    return {
        "word": sum(contrastive(10 * S, same_id_mask(person))),
        "sentence": sum(contrastive(10 * gather(cosine_matrix(g, sentences)), same_id_mask(person))),
        "global": global_loss(faces, sentences),
        "clip": clip_loss(faces, sentences),
        "soft": soft_clip_loss(faces, sentences),
        "cmpm": cmpm_loss(faces, sentences, person),
    }


def losses_and_gradients(tensors, identity, world=1):
    "Value and gradients of each loss; gathering multiplies gradients by the number of processes."
    regions, words, mask, g, s = tensors
    leaves = [x.clone().requires_grad_() for x in (regions, words, g, s)]
    losses = all_losses(leaves[0], leaves[1], mask, leaves[2], leaves[3], identity)
    gradients = {
        k: [x if x is None else x / world for x in torch.autograd.grad(v, leaves, retain_graph=True, allow_unused=True)]
        for k, v in losses.items()
    }
    return {k: v.detach() for k, v in losses.items()}, gradients


def one_of_two(rank, folder):
    "Half of the batch in a process of its own, words cut to its own longest caption."
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    *tensors, identity = (x[3 * rank : 3 * rank + 3] for x in shared_batch())
    longest = int(tensors[2].any(0).nonzero().max()) + 1
    tensors[1], tensors[2] = tensors[1][..., :longest], tensors[2][:, :longest]
    torch.save((dist.get_world_size(), longest, *losses_and_gradients(tensors, identity, 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_losses_and_gradients_of_one(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    *tensors, identity = shared_batch()
    losses, gradients = losses_and_gradients(tensors, identity)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [p[0] for p in parts] == [2, 2] and parts[0][1] != parts[1][1]
    for name, loss in losses.items():
        for _, _, theirs, _ in parts:
            torch.testing.assert_close(theirs[name], loss, msg=lambda m, name=name: f"{name}: {m}")
        for k, whole in enumerate(gradients[name]):
            halves = [p[3][name][k] for p in parts]
            if whole is None:
                assert halves == [None, None]
                continue
            if k == 1:
                halves = [F.pad(h, (0, whole.shape[-1] - h.shape[-1])) for h in halves]
            torch.testing.assert_close(
                torch.cat(halves), whole, msg=lambda m, name=name, k=k: f"{name}, gradient {k}: {m}"
            )


def test_identical_captions_and_same_people_are_no_negatives_by_option():
    "Two photos with one sentence: without the option they push each other away, with it they do not."
    g, s = torch.randn(4, 8), torch.randn(4, 8)
    s[1] = s[0]
    sentence = torch.tensor([5, 5, 6, 7])  # a number for each caption text
    for loss in (global_loss, clip_loss, sentence_loss):
        assert loss(g, s, ignore_mask=same_id_mask(sentence)) < loss(g, s)
        alone, everything = torch.tensor([0, 2, 3]), torch.arange(4)
        rows = [
            F.cross_entropy(10 * cosine_matrix(g[i : i + 1], s[columns]), torch.tensor([k]))
            for i, columns, k in ((0, alone, 0), (1, alone, 0), (2, everything, 2), (3, everything, 3))
        ]
        torch.testing.assert_close(contrastive(10 * cosine_matrix(g, s), same_id_mask(sentence))[0], sum(rows) / 4)
    regions, words, mask = example(4, 4)
    assert word_region_loss(regions, words, mask, ignore_mask=same_id_mask(sentence)) < word_region_loss(
        regions, words, mask
    )


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("mean", [False, True])
def test_focal_of_a_certain_answer_has_a_gradient(gamma, mean):
    "kornia #918, optax #1267, focal_loss_pytorch #13: NaN with a gamma below 1."
    logits = torch.tensor([[100.0, -100.0], [0.5, 0.0]])[: 1 if mean else 2].requires_grad_()
    focal_loss(logits, torch.zeros(len(logits), dtype=torch.long), gamma, mean).backward()
    assert logits.grad.isfinite().all() and not logits.grad[0].any()
    if not mean:
        assert logits.grad[1].all()
