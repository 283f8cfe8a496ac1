"""Wrote v0/: small files of every format, by the code of commit ed0ec0a and under the names it had then.

Kept for reading: later code has other names, and does not run it. `tests/test_formats.py` opens what it wrote.
All people are drawn, all weights start at random.
Usage then: `PYTHONPATH=.:tests python tests/formats/record.py`, in half a minute."""

import hashlib
import json
import os
import pickle
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from test_onnx_face import make as small_onnx
from test_text import tiny_tokenizer
from transformers import BertConfig, BertModel

import tgfr.compare as compare
import tgfr.demo as demos
import tgfr.training.caface as set_training
from tgfr.ablation import ablate
from tgfr.compare_sets import FUSIONS_COMPARED, compare_sets
from tgfr.core import rng, seed_everything
from tgfr.encoders.features import ImageFeatures
from tgfr.data.embed import embed_file, embed_folder
from tgfr.data.faces import Degradation, encode_jpeg, read_image
from tgfr.data.features import FeatureStore
from tgfr.data.landmarks import ARCFACE_TEMPLATE
from tgfr.data.prepare import Options, prepare
from tgfr.data.synthetic import synthetic_faces
from tgfr.encoders.backbones import IResNet, preprocess, save_encoder
from tgfr.encoders.ir import IR
from tgfr.encoders.onnx_face import OnnxEncoder
from tgfr.encoders.weights import load_encoder
from tgfr.workflows.audit_data import audit
from tgfr.evaluation.evaluate import evaluate
from tgfr.workflows.verify import verify
from tgfr.evaluation.tables import results_table
from tgfr.fusion.model import TGFR
from tgfr.ijb import ijb
from tgfr.sets.pooling import FaceSet, build_set_fusion
from tgfr.sets.state import load_state, save_state
from tgfr.sets.weights import load_set_fusion, save_set_fusion
from tgfr.training.caface import SetRecipe
from tgfr.training.recipes import RECIPES, Recipe, make_recipe, write_recipe
from tgfr.video import fuse_video

HERE = Path(__file__).resolve().parent
TINY = dict(
    dim=4, captions=2, epochs_align=2, epochs_fuse=2, batch_align=8, batch_fuse=8, epochs_encode=1, batch_encode=8
)
SETS = dict(images=8, parts="doubling", epochs_sets=2, batch_sets=4, schedule="one-cycle")
expected, tensors = {}, {}


def digest(state) -> str:
    "A hash of weights that does not depend on their names."
    parts = sorted(
        hashlib.sha256(str((t.dtype, tuple(t.shape))).encode() + t.contiguous().numpy().tobytes()).hexdigest()
        for t in state.values()
    )
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@contextmanager
def killed_in(module, stage):
    "What `fit` of this stage does after its first epoch, once: nothing more."
    whole = module.fit

    def fit(objective, batches, recipe, name, *more, **how):
        found = whole(objective, batches, recipe, name, *more, **how | ({"stop_after": 1} if name == stage else {}))
        if name == stage:
            raise KeyboardInterrupt
        return found

    module.fit = fit
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        module.fit = whole


def drawn():
    "Photos of 20 people with short captions, so that a vocabulary is small."
    people = synthetic_faces(people=20, photos=3, seed=7)
    captions = []
    for k, text in enumerate(people["attributes"]):
        a = dict(part.split("=") for part in text.split())
        captions.append(
            [
                f"A {a['age']} {a['gender']}, {('smiling', 'serious', 'with a hat')[k % 3]}.",
                f"{a['skin']} skin, glasses {a['glasses']}",
            ]
        )

    def small(cell):
        return {"bytes": encode_jpeg(read_image(cell), 50), "path": None}

    return [row | {"captions": said, "image": small(row["image"])} for row, said in zip(people, captions)]


def photos_and_people():
    "A set as it is downloaded, what `prepare` makes of it, and pictures of one person."
    source = Path("source")
    (source / "image").mkdir(parents=True), (source / "text").mkdir()
    rows = drawn()
    rows.append(rows[5] | {"image": {"bytes": rows[5]["image"]["bytes"][:60]}})  # it is left out
    for n, row in enumerate(rows):
        (source / "image" / f"{n}.jpg").write_bytes(row["image"]["bytes"])
        (source / "text" / f"{n}.txt").write_text("\n".join(row["captions"]) + "\n")
    (source / "identity.txt").write_text("".join(f"{n}.jpg {100 + row['identity']}\n" for n, row in enumerate(rows)))
    report = prepare(
        "mm-celeba-hq", source, "people", options=Options(split="seeded", fractions=(0.5, 0.5, 0), rows=30)
    )
    expected["prepare"] = {"splits": report["splits"], "key": report["key"]}
    face = read_image(rows[0]["image"]["bytes"])
    for name, part in (("pictures", range(6)), ("more", range(3, 9))):
        Path(name).mkdir()
        for k in part:
            cv2.imwrite(f"{name}/{k}.jpg", Degradation(size=16 + 16 * k, noise=4)(face, k)[..., ::-1])
    cv2.imwrite("gallery.jpg", face[..., ::-1])
    line = " ".join(f"{x:.3f}" for x in ARCFACE_TEMPLATE.ravel())
    Path("points.txt").write_text("".join(f"{k}.jpg {line} 0.9\n" for k in range(7)))  # 6.jpg is not there
    Path("pairs.bin").write_bytes(
        pickle.dumps(
            ([rows[p + 3 * k]["image"]["bytes"] for k in range(3) for p in (0, 1, 0, 3)], [True, False] * 3), protocol=2
        )
    )
    saved = Dataset.from_list([{k: row[k] for k in ("image", "identity", "photo_id", "captions")} for row in rows[:4]])
    DatasetDict({"train": saved}).save_to_disk("saved")


def encoders():
    "Face encoders of each kind, one with the note of the people it was trained on."
    seed_everything(0)
    seen = np.stack([read_image(cell, size=32) for cell in synthetic_faces(people=40, photos=2, seed=8)["image"]])
    for network, folder in (
        (IResNet((1, 1, 1, 1), width=2, embedding=16, size=32), "encoder"),
        (IR((1, 1, 1, 1), width=2, embedding=16, size=32, se=True), "encoder-ir"),
    ):
        for _ in range(40):
            network.train()(preprocess(seen, network.config))  # means and deviations alone are learned
        save_encoder(network.eval(), folder)
    path = small_onnx(Path("model.onnx"), embedding=32)
    save_encoder(OnnxEncoder(path), "encoder-onnx")
    path.unlink()
    train_encoder = demos.train_encoder
    demos.train_encoder = partial(train_encoder, width=2, embedding=16, size=32)
    demos.demo_encoder("made", make_recipe("demo", **TINY), people=8, photos=2)
    demos.train_encoder = train_encoder
    shutil.rmtree("made/train-encoder")
    photos = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    for name in ("encoder", "encoder-ir", "encoder-onnx", "made/encoder"):
        network = load_encoder(name)
        size = network.config.size
        found = network.encode(photos[:, :size, :size], styles=() if "onnx" in name else network.default_styles)
        tensors[f"{name}.embedding"], tensors[f"{name}.regions"] = found.embedding, found.regions
        if found.styles is not None:
            tensors[f"{name}.styles"] = found.styles
        expected[name] = {"fingerprint": network.content_digest} | (
            {} if "onnx" in name else {"weights": digest(network.state_dict())}
        )


def transformer():
    "A BERT that nobody trained."
    seed_everything(0)
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained("bert")
    tiny_tokenizer().save_pretrained("bert")


def models():
    "Models of several fusions, runs finished and killed."
    plain = TINY | dict(
        residual=False, fusion="concat"
    )  # the residual head alone has half a million weights: one model is enough
    demos.demo(
        "people",
        "demo",
        "encoder",
        make_recipe("ours", **TINY),
        probe_sizes=(112, 16),
        systems=("image-only head", "frozen face", "frozen + tf-idf"),
        replicates=10,
        features="features/two",
    )
    shutil.rmtree("demo/runs")
    concat, short = make_recipe("ours", **plain), plain | dict(epochs_align=1, epochs_fuse=1)
    for out, recipe, words in (
        ("trained", concat, True),
        ("image-only", concat, False),
        (
            "gru-fcfm",
            make_recipe(
                "ours", **short | dict(text="gru", fusion="fcfm", identity="adaface", lambda_clip=0.5, lambda_cmpc=0.1)
            ),
            True,
        ),
        ("transformer", make_recipe("ours-transformer", text="bert", **short | dict(fusion="linear")), True),
    ):
        compare.train("people", "encoder", recipe, out, words=words, features="features/train")
        if out != "trained":
            shutil.rmtree(Path(out) / "runs")
    for stage in ("align", "fuse"):
        with killed_in(compare, stage):
            compare.train("people", "encoder", concat, f"killed-{stage}", features="features/train")
    for out in ("trained", "killed-align", "killed-fuse"):
        Path(out, "runs").rename(Path(out, "epochs"))  # git passes over `runs`
    for out in ("trained", "killed-fuse"):
        shutil.rmtree(Path(out, "epochs/align/state-2"))  # a finished run does without, and 250 kB are saved
    expected["run"] = {"align": digest_of("trained/epochs/align"), "concat": digest_of("trained/epochs/concat")}
    recipes()


def recipes():
    "Every recipe, and one in which no field has its default."
    for name in RECIPES:
        write_recipe(
            f"recipes/{name}.yaml", make_recipe(name, **({"text": "bert"} if name == "ours-transformer" else {}))
        )
    odd = dict(
        text="gru",
        text_pooling="final",
        text_layers=2,
        fusion="fcfm",
        residual=False,
        sizes=(64, 24),
        schedule="paper",
        margin_optimizer="sgd",
        identity="magface",
        focal_batch_mean=True,
    )
    for name, default in asdict(Recipe()).items():
        if name not in odd:
            odd[name] = default + 1 if isinstance(default, int) else default / 2 + 0.125
    write_recipe("recipes/every-field.yaml", Recipe(**odd))
    for path in sorted(Path("recipes").iterdir()):
        expected[str(path)] = list(asdict(make_recipe(str(path))).values())  # in the order of the fields


def digest_of(run) -> str:
    "Of the best weights of a run."
    return digest(load_file(next(Path(run).glob("best-*.safetensors"))))


def outputs():
    "What the models say of made-up features, and of captions."
    draw = rng(0, "formats")
    tensors["in.embedding"], tensors["in.regions"] = (
        torch.from_numpy(draw.normal(size=shape).astype("f")) for shape in ((2, 16), (2, 8, 4, 4))
    )
    captions = ["An old man with glasses.", "she has blond hair"]
    expected["captions"] = captions
    for name in ("demo", "trained", "image-only", "gru-fcfm", "transformer"):
        model = TGFR.load(f"{name}/model")
        with torch.inference_mode():
            text = model.read(captions) if model.config.words else None
            found = model(ImageFeatures(tensors["in.embedding"], tensors["in.regions"]), text)
        tensors[f"{name}.embedding"], tensors[f"{name}.face"] = found.embedding, found.image.embedding
        if text is not None:
            tensors[f"{name}.sentence"] = text.sentence
        expected[name] = {"weights": digest(model.state_dict())}


def figures(report) -> list:
    "The values of each row."
    return [[row["system"], row["probe"], row["mode"], row["values"]] for row in report["results"]]


def reports():
    "Reports of each kind."
    made = {
        "demo": json.loads(Path("demo/report.json").read_text()),
        "verification": evaluate(
            "trained/model",
            "people",
            "encoder",
            probe_sizes=(112, 16),
            out="verification",
            features="features/judged",
            replicates=10,
            against="image-only/model",
        ),
        "listed": evaluate(
            "gru-fcfm/model",
            "people",
            "encoder",
            pairs=8,
            probe_sizes=(112, 16),
            out="listed",
            features="features/two/test",
            replicates=10,
        ),
        "retrieval": evaluate(
            "transformer/model",
            "people",
            "encoder",
            "retrieval",
            probe_sizes=(112, 16),
            out="retrieval",
            features="features/judged",
            replicates=10,
        ),
        "ablation": ablate(
            "people",
            "encoder",
            "ablation",
            make_recipe("ours", **TINY | dict(residual=False, fusion="concat", epochs_align=0, epochs_fuse=1)),
            {"one caption": {"captions": 1}},
            probe_sizes=(112, 16),
            features="features/two",
            replicates=10,
        ),
        "ijb": ijb(simulated="IJBB", scale=0.0003, out="ijb", replicates=10, fusion=("N1D1F0", "norm-squared")),
    }
    Path("ablation/config.yaml").write_bytes(Path("ablation/runs/ours/config.yaml").read_bytes())
    shutil.rmtree("ablation/runs")
    audit_data("people", "listed/pairs.txt", "audit.json")
    evaluate_bins(["pairs.bin"], load_encoder("encoder"), "bins", folds=3, far=0.5)
    made["sets"] = sets()
    for name, report in made.items():
        expected[f"report {name}"] = {
            "keys": sorted(report),
            "figures": figures(json.loads(json.dumps(report, default=float))),
        }
        lines = results_table(report)[1]
        expected[f"report {name}"]["cells"] = [
            [probe, *(cell.value for cell in line.cells)] for probe, part in lines.items() for line in part
        ]


def sets():
    "Fusions of sets: trained, killed, and their states."
    FUSIONS_COMPARED["caface"] = ("caface", dict(depth=1, style_width=8, norm_width=8, heads=2))
    common = dict(
        data="people",
        encoder="encoder",
        recipe=SetRecipe(**SETS),
        images=(1, 2),
        features="features/sets",
        replicates=10,
    )
    report = compare_sets(out="sets", fusions=("quality", "norm-squared", "caface"), **common)
    with killed_in(set_training, "sets"):
        compare_sets(out="killed-sets", fusions=("quality", "norm-squared"), **common)
    expected["run"]["quality"] = digest_of("sets/runs/quality")
    shutil.rmtree("sets/runs/caface")
    for out in ("sets", "killed-sets"):
        Path(out, "runs").rename(Path(out, "epochs"))
    write_recipe("sets/config.yaml", SetRecipe(**SETS))
    save_set_fusion(build_set_fusion("norm", 16), "norm")
    draw = rng(0, "formats", "sets")
    tensors["in.sets"], tensors["in.styles"] = (
        torch.from_numpy(draw.normal(size=shape).astype("f")) for shape in ((2, 5, 16), (2, 5, 12, 2))
    )
    faces = FaceSet(tensors["in.sets"], torch.ones(2, 5, dtype=torch.bool), tensors["in.styles"])
    for name in ("norm", "sets/fusions/quality", "sets/fusions/caface"):
        fusion = load_set_fusion(name)
        with torch.inference_mode():
            tensors[f"{name}.template"], tensors[f"{name}.weights"] = fusion.fuse(faces), fusion.weights(faces)
        expected[name] = {"weights": digest(fusion.state_dict())}
    expected["sets/fusions/caface"]["fingerprint"] = fusion.content_digest
    with torch.no_grad():
        state = fusion.update(fusion.init(2), faces)
    save_state("plain-state.safetensors", state, fusion)
    with torch.no_grad():
        tensors["plain-state.template"] = fusion.readout(load_state("plain-state.safetensors", fusion)).embedding
    return report


def folders():
    "Feature stores of pictures, and templates of them."
    encoder = load_encoder("encoder")
    embed_folder("pictures", encoder, "stores/folder", mirror=True, styles=("auto",))
    embed_file("points.txt", "pictures", encoder, "stores/points", batch=2)
    for out, source, fusion, state in (
        ("fused", "pictures", "norm-squared", None),
        ("fused-caface", "pictures", "sets/fusions/caface", None),
        ("fused-more", "more", "sets/fusions/caface", "fused-caface/state.safetensors"),
    ):
        report = fuse_video(source, "encoder", None if state else "gallery.jpg", fusion, out=out, state=state, chunk=4)
        expected[out] = {
            "keys": sorted(report),
            "templates": {k: v["similarity"] for k, v in report["templates"].items()},
            "frames": len(report["frames"]),
        }
    caface = load_set_fusion("sets/fusions/caface")
    for out in ("fused-caface", "fused-more"):
        expected[out]["count"] = int(load_state(f"{out}/state.safetensors", caface).count)
    for folder in sorted(path.parent for path in Path().rglob("meta.json")):
        store = FeatureStore.open(folder)
        expected[f"store {folder}"] = {
            "fingerprint": store.meta["fingerprint"],
            "variants": store.variants,
            "photos": len(store),
            "lost": len(store.lost),
            "embedding": hashlib.sha256(np.ascontiguousarray(store.embedding).tobytes()).hexdigest(),
            "regions": store.regions is not None,
            "styles": store.styles is not None,
        }


def main():
    "Record all."
    sys.argv = ["record.py"]  # reports name their command, and no folder of this machine
    v0 = HERE / "v0"
    shutil.rmtree(v0, ignore_errors=True)
    v0.mkdir()
    os.chdir(v0)  # so that files name no folder of this machine
    torch.set_num_threads(1)
    for part in (photos_and_people, encoders, transformer, models, outputs, reports, folders):
        part()
    for kind in ("*.html", "*.png", "*.pdf", ".*lock", "cache-*.arrow"):
        for path in Path().rglob(kind):
            path.unlink()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, "expected.safetensors")
    Path("expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, default=float) + "\n")


if __name__ == "__main__":
    main()
