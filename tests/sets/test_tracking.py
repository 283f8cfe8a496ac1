"""Videos: read to the last good frame, people kept apart, templates that do not depend on chunks, and one clear line
for what is no video."""

import resource
import weakref

import cv2
import numpy as np
import pytest
import torch
from hostile import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scenes import FACES, Pixels, Scripted, picture_file, scene, shots, stills, write

from tgfr.cli import main
from tgfr.core import Skips, TgfrError, read_json, rng, seed_everything
from tgfr.data.face_detection import Face
from tgfr.data.faces import encode_jpeg
from tgfr.data.landmarks import ARCFACE_TEMPLATE
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.encoder_config import EncoderConfig
from tgfr.encoders.features import ImageFeatures, l2_normalize
from tgfr.formats.video import Frame, Frames
from tgfr.report.video_figures import write_clip
from tgfr.sets.caface import fuse_sets
from tgfr.sets.caface_state import load_state, merge, save_state
from tgfr.sets.checkpoints import named_fusion, save_set_fusion
from tgfr.sets.pooling import FaceSet, build_set_fusion
from tgfr.sets.stream import OnlineFusion
from tgfr.sets.tracking import TrackingOptions, iou, link, track_faces
from tgfr.workflows.fuse_video import fuse_video

PLAIN = ("average", "norm", "norm-squared", "best-norm", "score")


def save(encoder, folder):
    "Where an encoder was saved."
    save_encoder(encoder, folder / "encoder")
    return folder / "encoder"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A clip of aligned crops of one person, 40 frames."
    return write(tmp_path_factory.mktemp("clip") / "clip.mp4", shots())


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return picture_file(tmp_path_factory.mktemp("gallery") / "photo.png", FACES[0])


def test_a_clip_end_to_end(clip, gallery, tmp_path):
    report = fuse_video(clip, Pixels(), gallery, out=tmp_path, write_video=True)
    assert {p.name for p in tmp_path.iterdir()} == {
        "template.safetensors",
        "fuse.json",
        "strip.png",
        "strip.pdf",
        "report.html",
        "clip.mp4",
    }
    rows = report["frames"]
    assert (
        [r["frame"] for r in rows] == list(range(40))
        and abs(sum(r["weight"] for r in rows) - 1) < 1e-4
        and abs(rows[25]["seconds"] - 1) < 1e-3
    )
    crops = [f.image for f in Frames(clip).read()]
    embedding, photo = Pixels().encode(crops).embedding, Pixels().encode(FACES[:1]).embedding[0]
    expected = build_set_fusion("norm-squared", 768).fuse(
        FaceSet(embedding[None], torch.ones(1, 40, dtype=torch.bool))
    )[0]
    torch.testing.assert_close(load_file(tmp_path / "template.safetensors")["norm-squared"], l2_normalize(expected))
    np.testing.assert_allclose(
        [r["similarity"] for r in rows], l2_normalize(embedding) @ l2_normalize(photo), atol=1e-5
    )
    np.testing.assert_allclose([r["norm"] for r in rows], embedding.norm(dim=1), atol=1e-4)
    assert rows[-1]["fused so far"] == pytest.approx(report["templates"]["norm-squared"]["similarity"], abs=1e-5)
    assert read_json(tmp_path / "fuse.json") == report
    page = (tmp_path / "report.html").read_text()
    assert (
        all(part in page for part in (*report["summary"][:1], "data:image/png", "effective frames"))
        and 'src="http' not in page
    )
    shown = list(Frames(tmp_path / "clip.mp4").read())
    assert len(shown) == 40 and shown[0].image.shape[0] > 112


def test_a_folder_is_a_video(clip, gallery, tmp_path):
    stills(tmp_path / "frames", ((f.number, f.image) for f in Frames(clip).read()))  # 2.png before 10.png
    (tmp_path / "frames/notes.txt").write_text("not a picture, not looked at")
    reports = [
        fuse_video(source, Pixels(), gallery, out=tmp_path / name)
        for name, source in (("a", clip), ("b", tmp_path / "frames"))
    ]
    for key in "frame", "norm", "similarity", "weight":
        np.testing.assert_allclose(*([r[key] for r in report["frames"]] for report in reports), atol=1e-6)
    assert (
        reports[1]["frames"][0]["seconds"] is None
        and reports[1]["skipped"]["count"] == 0
        and reports[1]["frames"][11]["name"] == "11.png"
    )
    (tmp_path / "frames/3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    third = fuse_video(tmp_path / "frames", Pixels(), out=tmp_path / "c")
    assert (
        len(third["frames"]) == 39 and third["skipped"]["items"][0][0] == "3.png" and third["frames"][3]["frame"] == 4
    )
    assert all(r["similarity"] is None for r in third["frames"]) and all(
        t["similarity"] is None for t in third["templates"].values()
    )


def test_pictures_of_any_ending_are_read_or_named(tmp_path):
    "supervisely PR 839 (.jfif), deepface #612, facerecognition #215."
    (folder := tmp_path / "photos").mkdir()
    jpeg = encode_jpeg(FACES[0])
    noise = encode_jpeg(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8))
    for name in ("0.jpg", "1.jfif", "2.JPE", "3"):
        (folder / name).write_bytes(jpeg)
    (folder / "4.jpg").write_bytes(noise[:4000] + bytes(64) + noise[4064:])
    for name, head in (
        ("5.tif", b"II*\0"),
        ("6.heic", b"\0\0\0\x18ftypheic"),
        ("._0.jpg", jpeg),
        ("notes.txt", b"no picture"),
    ):
        (folder / name).write_bytes(head + bytes(99))
    (folder / "more").mkdir(), (folder / "more/7.jpg").write_bytes(jpeg)
    report = fuse_video(folder, Pixels(), out=tmp_path / "out")
    assert [row["name"] for row in report["frames"]] == ["0.jpg", "1.jfif", "2.JPE", "3", "4.jpg"]
    assert sorted(name for name, _ in report["skipped"]["items"]) == ["5.tif", "6.heic", "more/"] and "HEIC" in str(
        report["skipped"]["items"]
    )
    assert any(
        "1 of the 5 pictures are damaged inside, and used: 4.jpg (Corrupt JPEG data" in line
        for line in report["warnings"]
    )
    (tmp_path / "none").mkdir(), (tmp_path / "none/1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(TgfrError, match="no picture in this folder.*1.heic.*HEIC"):
        fuse_video(tmp_path / "none", Pixels(), out=tmp_path / "no")


def test_a_file_that_breaks_off_gives_what_is_there(tmp_path):
    whole = write(tmp_path / "whole.avi", shots(), "MJPG").read_bytes()
    (short := tmp_path / "short.avi").write_bytes(whole[: len(whole) * 6 // 10])
    report = fuse_video(short, Pixels(), out=tmp_path / "out")
    assert 15 < len(report["frames"]) < 35 and report["skipped"]["count"] == 1
    name, reason = report["skipped"]["items"][0]
    assert (
        name == "short.avi"
        and "40 frames" in reason
        and f"{len(report['frames'])} could be read" in reason
        and "breaks off after" in reason
    )


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "0 bytes, not a video"),
        (bytes(5000), "not a video"),
        (rng("junk").bytes(100_000), "not a video"),
        (b"#EXTM3U\nhttp://127.0.0.1/x.ts\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
    ],
)
def test_what_is_no_video(tmp_path, content, said):
    (path := tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(TgfrError, match=said) as error:
        fuse_video(path, Pixels(), out=tmp_path / "out")
    assert "\n" not in str(error.value) and str(path) in str(error.value) and not (tmp_path / "out").exists()


def hostile(folder, count, seed):
    "Read `count` files that are cut or damaged at random; what happens is frames or a TgfrError."
    small = [cv2.resize(shot, (64, 64)) for shot in shots(12)]
    files = [
        write(folder / f"good.{end}", small, codec).read_bytes()
        for end, codec in (("mp4", "mp4v"), ("avi", "MJPG"), ("avi", "mp4v"))
    ]
    before, outcomes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for k in range(count):
        draw, data = rng("hostile", seed, k), files[k % 3]
        data = data[: int(draw.integers(len(data)))] if k % 2 else damaged(data, draw.integers(1, 30), draw.integers)
        (path := folder / "bad.bin").write_bytes(data)
        try:
            outcomes.append(sum(frame.image.dtype == np.uint8 for frame in Frames(path).read(Skips())))
        except TgfrError as e:
            outcomes.append(str(e))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 400, f"{grown:.0f} MB more"
    assert (
        any(isinstance(o, str) for o in outcomes)
        and any(o == 12 for o in outcomes)
        and all(isinstance(o, str) or o <= 200 for o in outcomes)
    )


def test_cut_and_damaged_files(tmp_path):
    hostile(tmp_path, 100, 0)


@pytest.mark.slow
def test_thousands_of_cut_and_damaged_files(tmp_path):
    hostile(tmp_path, 3000, 1)


def test_without_a_detector_nothing_is_said_of_faces(tmp_path, clip):
    square = fuse_video(clip, Pixels(), out=tmp_path)
    assert (
        not square["warnings"]
        and "without a face" not in square["summary"][0]
        and "no detector was given" in square["summary"][0]
    )
    wide = fuse_video(
        write(tmp_path / "wide.mp4", [scene(k, {0: (40, 30)})[0] for k in range(6)]), Pixels(), out=tmp_path
    )
    assert (
        wide["warnings"][0].startswith("6 of the 6 frames are not square")
        and wide["warnings"][0] in (tmp_path / "report.html").read_text()
    )

    class Unit(Pixels):
        def encode(self, crops, styles=()):
            return ImageFeatures(l2_normalize(super().encode(crops).embedding))

    assert "All embeddings have the length 1" in fuse_video(clip, Unit(), out=tmp_path)["warnings"][0]


def test_frames_without_a_face_are_counted(tmp_path):
    scenes = [scene(k, {0: (20 + k, 30)} if k % 4 else {}) for k in range(24)]
    video = write(tmp_path / "v.mp4", [p for p, _ in scenes])
    report = fuse_video(video, Pixels(), detector=Scripted([f for _, f in scenes]), out=tmp_path / "out")
    assert (
        report["setup"]["frames without a face"] == 6
        and len(report["frames"]) == 18
        and report["skipped"]["count"] == 0
        and len(report["tracks"]) == 1
    )
    with pytest.raises(TgfrError, match="no face in any of its 24 frames"):
        fuse_video(video, Pixels(), detector=Scripted([[]] * 24), out=tmp_path / "none")


def test_a_detector_that_fails_on_a_frame(tmp_path):
    class Fragile(Scripted):
        def detect(self, image):
            if (found := super().detect(image)) is None:
                raise cv2.error("no such layer")
            return found

    scenes = [scene(k, {0: (20, 30)}) for k in range(6)]
    skips = Skips()
    found = track_faces(
        Frames(write(tmp_path / "v.mp4", [p for p, _ in scenes])),
        Pixels(),
        build_set_fusion("average", 768),
        Fragile([f if k != 2 else None for k, (_, f) in enumerate(scenes)]),
        skips=skips,
    )
    assert (found.frames, found.empty, len(skips), skips.items[0][0]) == (6, 1, 1, "frame 2")


def two(k):
    "Two people whose ways cross, the second away for 20 frames, a third at the end."
    places = {0: (10 + 3 * k, 20), 1: (210 - 3 * k, 75)}
    if 40 <= k < 60:
        places.pop(1)
    if k >= 60:
        places = {0: (210, 20), 1: (10, 60)}
    return places | ({2: (110, 50)} if k >= 70 else {})


def test_two_people_are_kept_apart(tmp_path, gallery):
    scenes = [scene(k, two(k)) for k in range(76)]
    video = write(tmp_path / "v.mp4", [p for p, _ in scenes])

    def run(**how):
        return fuse_video(
            video, Pixels(), gallery, detector=Scripted([f for _, f in scenes]), out=tmp_path / "out", **how
        )

    found = track_faces(Frames(video), Pixels(), build_set_fusion("average", 768), Scripted([f for _, f in scenes]))
    assert sorted(len(t.detections) for t in found.tracks) == [6, 56, 76]
    photos = l2_normalize(Pixels().encode(FACES).embedding)
    for track, person in zip(found.tracks, (0, 1, 2)):
        assert int((photos @ l2_normalize(track.finished().readout()[0])).argmax()) == person
    assert [(t["frames"], t["first"], t["last"]) for t in run()["tracks"]] == [(76, 0, 75), (56, 0, 75), (6, 70, 75)]
    other = picture_file(tmp_path / "third.png", FACES[2])
    chosen = fuse_video(
        video, Pixels(), other, detector=Scripted([f for _, f in scenes]), out=tmp_path / "out", person="gallery"
    )
    assert len(chosen["frames"]) == 6 and any("chosen by the gallery photo" in line for line in chosen["summary"])


def test_the_gallery_decides_nothing_unless_asked(tmp_path, gallery):
    scenes = [scene(k, {1: (10 + k, 30), **({0: (200, 30)} if k < 20 else {})}) for k in range(30)]
    video = write(tmp_path / "v.mp4", [p for p, _ in scenes])
    templates = []
    for k, photo in enumerate((None, gallery)):
        fuse_video(video, Pixels(), photo, detector=Scripted([f for _, f in scenes]), out=tmp_path / str(k))
        templates.append(load_file(tmp_path / str(k) / "template.safetensors"))
    for name in templates[0]:
        torch.testing.assert_close(templates[0][name], templates[1][name], rtol=0, atol=0)


def test_few_frames_are_in_memory_at_once():
    held, most = [], []

    class Long:
        count = 300

        def read(self, skips):
            for k in range(self.count):
                held.append(weakref.ref(image := np.zeros((200, 200, 3), np.uint8)))
                most.append(sum(picture() is not None for picture in held))
                yield Frame(k, f"frame {k}", None, image)

    assert track_faces(Long(), Pixels(), build_set_fusion("norm", 768)).frames == 300
    assert max(most) <= 3, f"{max(most)} frames at once"


@pytest.mark.parametrize("name", PLAIN)
def test_chunks_and_batches_make_no_difference_to_a_weighted_mean(tmp_path, name):
    scenes = [scene(k, {0: (20 + k, 30)}) for k in range(30)]
    frames = Frames(write(tmp_path / "v.mp4", [p for p, _ in scenes]))
    fusion = build_set_fusion(name, 768)

    def run(**how):
        return (
            track_faces(frames, Pixels(), fusion, Scripted([f for _, f in scenes]), **how)
            .tracks[0]
            .finished()
            .readout()
        )

    template, weights = run()
    for how in {"chunk": 1}, {"chunk": 7, "batch": 3}, {"chunk": 30, "batch": 1}:
        other, shares = run(**how)
        (
            torch.testing.assert_close(other, template, rtol=1e-4, atol=1e-5),
            torch.testing.assert_close(shares, weights, rtol=1e-4, atol=1e-6),
        )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from([*PLAIN, "quality"])
)
def test_any_partition_in_any_order(seed, sizes, name):
    seed_everything(seed)
    n = sum(sizes)
    faces = FaceSet(
        torch.randn(1, n, 8) * 10 ** torch.randn(1, n, 1),
        torch.ones(1, n, dtype=torch.bool),
        None,
        torch.rand(1, n) - 0.1,
    )
    faces.embedding[0, seed % n, 3] = torch.nan  # an image without weight
    fusion = build_set_fusion(name, 8).eval()
    order, running = torch.randperm(n), OnlineFusion(fusion)
    with torch.no_grad():
        for rows in order.split(sizes):
            running = running.add(faces[:, rows])
        template, weights = running.readout()
        torch.testing.assert_close(weights, fusion.weights(faces)[0, order], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(template, fusion.fuse(faces)[0], rtol=1e-3, atol=1e-5)


def test_a_fusion_of_another_encoder_is_refused(tmp_path):
    own, other = (IResNet((1, 1, 1, 1), width=4, embedding=32) for _ in range(2))
    save_set_fusion(build_set_fusion("quality", 32), tmp_path / "quality", encoder=own)
    assert named_fusion(tmp_path / "quality", own, ())[0] == "quality"
    with pytest.raises(
        TgfrError,
        match=f"fingerprint {own.content_digest}, but these are features of .* fingerprint {other.content_digest}",
    ):
        named_fusion(tmp_path / "quality", other, ())
    for damage, said in (
        ("[]", "not the config.json of a set fusion"),
        (
            '{"set_fusion": "quality", "embedding": 32, "face_encoder": {"name": "x"}, "hidden": "y"}',
            "config.json: set fusion quality",
        ),
    ):  # what it is comes before whose it is
        (tmp_path / "quality/config.json").write_text(damage)
        with pytest.raises(TgfrError, match=said):
            named_fusion(tmp_path / "quality", other, ())


def test_a_fusion_of_other_widths_is_refused():
    encoder = IResNet((1, 1, 1, 1), width=4, embedding=32)
    with pytest.raises(TgfrError, match="ScalarQuality: for embeddings of 48 numbers, .* has 32"):
        named_fusion(build_set_fusion("quality", 48), encoder, ())
    caface = build_set_fusion("caface", 32, styles=encoder.style_width(("stage2", "stage3")))
    assert named_fusion(caface, encoder, ("stage2", "stage3")) == ("CAFace", caface) and not caface.training
    for styles, said in ((("stage1",), "for 24 channels of styles, .* has 4;"), ((), "has no styles; --styles")):
        with pytest.raises(TgfrError, match=said):
            named_fusion(caface, encoder, styles)
    with pytest.raises(TgfrError, match="fusion nosuch: neither the folder"):
        named_fusion("nosuch", encoder, ())


def test_caface_in_chunks_and_states_of_two_videos(clip, tmp_path):
    seed_everything(0)
    network, styles = IResNet((1, 1, 1, 1), width=4, embedding=32).eval(), ("stage2", "stage3")
    model = build_set_fusion("caface", 32, styles=network.style_width(styles)).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    save_set_fusion(model, tmp_path / "caface")

    def run(source, out):
        return fuse_video(source, network, fusion=tmp_path / "caface", out=tmp_path / out, chunk=10)

    report = run(clip, "all")
    features = network.encode(np.stack([f.image for f in Frames(clip).read()]), styles=styles)
    faces = FaceSet(features.embedding[None], torch.ones(1, 40, dtype=torch.bool), features.styles[None])
    with torch.no_grad():
        whole = fuse_sets(model, faces, chunk=10)
    np.testing.assert_allclose([r["weight"] for r in report["frames"]], whole.weights[0], atol=1e-5)
    torch.testing.assert_close(
        load_file(tmp_path / "all/template.safetensors")["caface"],
        l2_normalize(whole.embedding[0]),
        rtol=1e-3,
        atol=1e-5,
    )
    for name, part in ("first", range(20)), ("second", range(20, 40)):
        run(
            stills(tmp_path / f"{name} frames", ((f.number, f.image) for f in Frames(clip).read() if f.number in part)),
            name,
        )
    both = merge(*(load_state(tmp_path / name / "state.safetensors", model) for name in ("first", "second")))
    torch.testing.assert_close(model.readout(both).embedding, whole.embedding, rtol=1e-3, atol=1e-5)
    first, later = tmp_path / "first/state.safetensors", tmp_path / "later"
    main(
        [
            "fuse",
            str(tmp_path / "second frames"),
            "--encoder",
            str(save(network, tmp_path)),
            "--fusion",
            str(tmp_path / "caface"),
            "--chunk",
            "10",
            "--state",
            str(first),
            "--out",
            str(later),
        ]
    )
    state, rows = load_state(later / "state.safetensors", model), read_json(later / "fuse.json")
    for name in ("cluster_size", "feature", "style", "count"):
        torch.testing.assert_close(getattr(state, name), getattr(both, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        load_file(later / "template.safetensors")["caface"],
        l2_normalize(model.readout(both).embedding[0]),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose([r["weight"] for r in rows["frames"]], whole.weights[0, 20:], atol=1e-5)
    assert rows["setup"]["state added to"] == str(first) and any(
        "state of 20 earlier images was added; " + f"{float(whole.weights[0, :20].sum()):.0%}" in line
        for line in rows["summary"]
    )

    def refused(said, **how):
        with pytest.raises(TgfrError, match=said):
            fuse_video(tmp_path / "second frames", network, out=tmp_path / "x", **how)

    other = build_set_fusion("caface", 32, styles=network.style_width(styles)).eval()
    save_set_fusion(other, tmp_path / "other")
    refused("a state can only be used with the fusion that made it", fusion=tmp_path / "other", state=first)
    refused("no state of a set", fusion=tmp_path / "caface", state=later / "template.safetensors")
    refused(
        "state.safetensors: not a readable", fusion=tmp_path / "caface", state=tmp_path / "nowhere/state.safetensors"
    )
    refused("only CAFace keeps one; the fusion is average", fusion="average", state=first)
    save_state(tmp_path / "many.safetensors", model.init(3), model)
    refused(
        "a state of 3 sets, expected that of one person",
        fusion=tmp_path / "caface",
        state=tmp_path / "many.safetensors",
    )
    with pytest.raises(TgfrError, match="caface: for 24 channels of styles, .* has 8; --styles names"):
        fuse_video(clip, network, fusion=tmp_path / "caface", out=tmp_path / "x", styles=("stage2",))
    with pytest.raises(TgfrError, match="for embeddings of 32"):
        fuse_video(clip, Pixels(), fusion=tmp_path / "caface", out=tmp_path / "x")


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_links_are_one_to_one(seed, tracks, faces):
    draw, options = rng("link", seed), TrackingOptions()
    a, b = (np.concatenate([draw.uniform(0, 20, (n, 2)), draw.uniform(1, 20, (n, 2))], 1) for n in (tracks, faces))
    cosines, overlap = draw.uniform(-1, 1, (tracks, faces)), iou(a, b)
    links = link(overlap, cosines, options)
    assert len(links) == faces and len(set(links[links >= 0])) == (links >= 0).sum() and links.max() < tracks
    for face, track in enumerate(links):
        if track >= 0:
            near = overlap[track, face] >= options.min_iou and cosines[track, face] >= options.min_cosine_overlap
            assert near or cosines[track, face] >= options.min_cosine_link
    assert (overlap <= 1 + 1e-9).all() and (overlap >= 0).all() and np.allclose(np.diag(iou(a, a)), 1)


def test_a_crowd_does_not_grow_without_end(tmp_path):
    scenes = [
        (
            scene(0, {})[0],
            [
                Face(np.array([20.0 * k + 1, 5, 9, 9]), ARCFACE_TEMPLATE / 8 + (20 * k, 30 * (j % 4)), 0.9)
                for k in range(8)
            ],
        )
        for j in range(6)
    ]

    class Random:
        config = EncoderConfig("random", 32, None)
        calls = 0

        def encode(self, crops):
            Random.calls += 1
            return ImageFeatures(torch.from_numpy(rng("crowd", Random.calls).normal(size=(len(crops), 32))).float())

    found = track_faces(
        Frames(write(tmp_path / "v.mp4", [p for p, _ in scenes])),
        Random(),
        build_set_fusion("norm", 32),
        Scripted([f for _, f in scenes]),
        options=TrackingOptions(max_tracks=5, min_cosine_overlap=0.9, min_cosine_link=0.99),
        batch=8,
    )
    assert len(found.tracks) == 5 and found.dropped == 6 * 8 - sum(len(t.detections) for t in found.tracks)


def test_pictures_of_different_sizes_make_a_clip(tmp_path):
    frames = Frames(
        stills(tmp_path / "frames", enumerate(cv2.resize(FACES[0], (size + 7, size)) for size in (50, 112, 700)))
    )
    found = track_faces(frames, Pixels(), build_set_fusion("average", 768))
    write_clip(tmp_path / "clip.mp4", frames, found.tracks[0].detections)
    assert len(list(Frames(tmp_path / "clip.mp4").read())) == 3 and len(list(tmp_path.iterdir())) == 2


def test_the_command(clip, gallery, tmp_path, capsys, refusal):
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32), tmp_path / "encoder")
    good = [
        "fuse",
        str(clip),
        "--encoder",
        str(tmp_path / "encoder"),
        "--gallery",
        str(gallery),
        "--out",
        str(tmp_path / "out"),
    ]
    main([*good, "--write-video"])
    assert "40 frames read" in capsys.readouterr().err and (tmp_path / "out/clip.mp4").is_file()
    (junk := tmp_path / "junk.mp4").write_bytes(rng("junk").bytes(3000))
    (tmp_path / "empty").mkdir()

    def changed(flag, value):
        place = good.index(flag) if flag in good else len(good)
        return [*good[:place], flag, str(value), *good[place + 2 :]]

    for args, said in (
        (["fuse", "/no/such.mp4", *good[2:]], "/no/such.mp4: no such file"),
        (["fuse", str(junk), *good[2:]], "not a video"),
        (["fuse", str(tmp_path / "empty"), *good[2:]], "no picture in this folder"),
        (changed("--fusion", "caface"), "has weights"),
        (changed("--fusion", "magic"), "neither the folder"),
        (changed("--gallery", junk), "cannot be read"),
        (changed("--encoder", junk), "junk.mp4"),
        (changed("--detector", junk), "no YuNet detector"),
        (changed("--chunk", 0), "chunk 0"),
    ):
        err = [line for line in refusal(*args).strip().splitlines() if "photos go in as" not in line]
        assert len(err) == 1 and said in err[0], err


def test_a_real_video(shared_data, tmp_path):
    video, detector = shared_data / "video/probe.mp4", shared_data / "weights/yunet_n_dynamic.onnx"
    photo = next(f.image for f in Frames(video).read() if f.number == 100)
    report = fuse_video(
        video,
        shared_data / "weights/MobileFaceNet.onnx",
        picture_file(tmp_path / "gallery.png", photo),
        detector=detector,
        out=tmp_path / "out",
    )
    rows, templates = report["frames"], report["templates"]
    assert report["setup"]["frames"] == 783 and len(rows) > 750 and report["skipped"]["count"] == 0
    assert templates["norm-squared"]["similarity"] > np.median([r["similarity"] for r in rows]) + 0.1
    assert all(30 < r["box"][0] < 80 and 0 <= r["box"][1] < 40 for r in rows)
