"""Mutated files for every reader of foreign data, and what each reader made of them.

    python tools/fuzz.py --files 10000 [--readers bin video] [--seed 0] [--log LOG]

Valid files are made on the spot, one of them is changed a little, and its reader is called in a child process with
bounded memory and time. Right is: refused with a `TgfrError`, or taken. Wrong is everything else: another exception
(a user would see a traceback), a signal, more than 20 seconds, or more than 4 GB above what the imports take."""

import argparse
import json
import mmap
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"  # the threads of a pool do not come along into a forked child
OUTCOMES = ("not run", "refused", "taken", "traceback", "memory", "hang", "signal")
SECONDS, GIGABYTES = 20, 4


# ---- how a file is changed


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    "One to four changes: bytes, numbers, pieces lost, doubled, exchanged or cut off."
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not data:
            return b""
        place, length = draw.randrange(len(data)), 1 << draw.randrange(7)
        kind = draw.randrange(8)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        elif kind == 2:
            data[place : place + 4] = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 10**6)).to_bytes(
                4, draw.choice(("little", "big"))
            )
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif kind == 5:
            data[place : place + length] = bytes(draw.randrange(256) for _ in range(length))
        elif kind == 6:
            data[place : place + length] = bytes(data[(there := draw.randrange(len(data))) : there + length])
        else:
            del data[place:]
    return bytes(data)


def change_text(data: bytes, draw: random.Random) -> bytes:
    "A number or word replaced, a line lost, doubled or joined with the next; or bytes, as above."
    if draw.random() < 0.3:
        return change_bytes(data, draw)
    text = data.decode("latin1")
    words = [m.span() for m in re.finditer(r"[^\s,:\"\[\]{}]+", text)]
    if not words:
        return data
    start, end = draw.choice(words)
    strange = (
        "",
        "-1",
        "0",
        "nan",
        "inf",
        "1e308",
        "99999999999999999999",
        "x",
        "None",
        "null",
        "true",
        "[]",
        "{}",
        '"',
        "\0",
        "../x",
        "[" * 40,
        "1.5",
    )
    put = draw.choice((*strange, text[start:end] * 2, text[start:end][:-1], text[start:end] + draw.choice(" \t,;:\n")))
    return (text[:start] + put + text[end:]).encode("latin1")


def change_protobuf(data: bytes, draw: random.Random) -> bytes:
    "One field of one message of an ONNX file: another number, another name, one more or one less."
    import onnx

    model = onnx.ModelProto.FromString(data)
    messages = [model]
    for message in messages:
        for _, value in message.ListFields():
            parts = value if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) else [value]
            messages += [part for part in parts if hasattr(part, "ListFields")]
    fields = draw.choice(messages).ListFields()
    field, value = draw.choice(list(fields) or [(None, None)])
    if field is None:
        return data

    def holds_value(message):
        return any(v is value for _, v in message.ListFields())

    owner = next(filter(holds_value, messages)) if hasattr(value, "ListFields") else None
    number = draw.choice((0, 1, -1, 2**31 - 1, 2**20, 7))
    for message in messages:
        if owner is None and any(f is field and v == value for f, v in message.ListFields()):
            owner = message
    try:
        if hasattr(value, "append") or hasattr(value, "add"):
            kept = list(value)
            draw.choice((kept.pop, lambda: kept.append(draw.choice(kept)), lambda: draw.shuffle(kept)))()
            owner.ClearField(field.name)
            getattr(owner, field.name).extend(kept)
        elif isinstance(value, bool | int):
            setattr(owner, field.name, number)
        elif isinstance(value, float):
            setattr(owner, field.name, draw.choice((0.0, -1.0, float("nan"), 1e38)))
        elif isinstance(value, str):
            setattr(owner, field.name, draw.choice(("", "x", value + "0")))
        elif isinstance(value, bytes):
            setattr(owner, field.name, change_bytes(value, draw))
        else:
            owner.ClearField(field.name)
    except (ValueError, TypeError, IndexError):
        return change_bytes(data, draw)
    return model.SerializeToString()


# ---- the readers


@dataclass(frozen=True)
class Reader:
    "What is read: valid files, the call, how files are changed, and which of them are."

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    change: Callable[[bytes, random.Random], bytes] = change_bytes
    files: str = "*"


def _photos(n: int = 6):
    from tgfr.data.synthetic import synthetic_faces

    return synthetic_faces(people=n // 2, photos=2)


def make_photos(folder):
    import cv2

    from tgfr.data.faces import read_image

    photo = read_image(_photos(2)[0]["image"])[:, :, ::-1]
    for ending in ("jpg", "png", "webp", "bmp", "ppm", "pgm"):
        cv2.imwrite(str(folder / f"a.{ending}"), photo if ending != "pgm" else photo[..., 0])


def read_photos(folder):
    from tgfr.data.faces import read_image

    for path in folder.iterdir():
        read_image(path)


def make_bin(folder):
    (folder / "a.bin").write_bytes(
        pickle.dumps(([row["image"]["bytes"] for row in _photos(8)], [True, False] * 2), protocol=2)
    )


def read_bin(folder):
    from tgfr.formats.pairs import read_bin

    return read_bin(folder / "a.bin")


def make_pickles(folder):
    (folder / "filenames.pickle").write_bytes(
        pickle.dumps([f"{i}/{i}_{k}" for i in range(9) for k in range(3)], protocol=2)
    )
    (folder / "class_info.pickle").write_bytes(pickle.dumps([i for i in range(9) for _ in range(3)], protocol=3))


def read_pickles(folder):
    from tgfr.formats.untrusted import read_pickle

    for path in folder.iterdir():
        read_pickle(path)


def make_records(folder):
    from tgfr.formats.records import Record, write_records

    photos = _photos(6)
    write_records(
        folder / "train.rec",
        [Record(id=i, id2=0, label=(float(i // 2),), data=row["image"]["bytes"]) for i, row in enumerate(photos)],
    )
    (folder / "train.lst").write_text("".join(f"{i}\t{i // 2}\tphotos/{i}.jpg\n" for i in range(6)))


def read_records(folder):
    from tgfr.formats.records import RecordFile, read_list

    file = RecordFile(folder / "train.rec")
    for key in file.images:
        file[int(key)]
    read_list(folder / "train.lst")


def make_ijb(folder):
    from tgfr.evaluation.simulated_ijb import simulate_ijb

    simulate_ijb("IJBB", folder / "set", scale=0.001, width=4)
    for path in list((folder / "set").glob("**/*")):
        if path.is_file() and path.parent.name != "meta":
            path.unlink()


def read_ijb(folder):
    from tgfr.formats.ijb_files import IjbFiles

    files = IjbFiles.open(folder / "set")
    images = files.images()
    templates = np.unique(images.template)
    files.pairs(templates), files.galleries(templates), files.probe(templates)


def make_pairs(folder):
    (folder / "pairs.txt").write_text(
        "2\t2\n" + "".join("Ann\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t1\nBob\t2\tAnn\t1\n" for _ in range(2))
    )
    (folder / "list.txt").write_text(
        "".join(f"{i}/{i}_0.jpg {i}/{i}_1.jpg 1\n{i}/{i}_0.jpg {i + 1}/{i + 1}_0.jpg 0\n" for i in range(20))
    )


def read_pairs(folder):
    from tgfr.formats.pairs import read_lfw_pairs, read_pairs_list

    read_lfw_pairs(folder / "pairs.txt")
    read_pairs_list(folder / "list.txt")


def make_parquet(folder):
    _photos(6).to_parquet(str(folder / "train-00000-of-00001.parquet"))


def read_parquet(folder):
    from tgfr.data.datasets import drop_unusable, load_faces

    drop_unusable(load_faces(folder))


def build_recipe(folder):
    from tgfr.training.recipes import build_recipe, write_recipe

    write_recipe(folder / "config.yaml", build_recipe("ours"), {"data": "x"})


def read_recipe(folder):
    from tgfr.training.recipes import read_recipe

    return read_recipe(folder / "config.yaml")


def _network():
    from tgfr.encoders.backbones import IResNet

    return IResNet((1, 1, 1, 1), width=4, embedding=16)


def make_checkpoints(folder):
    import torch
    from safetensors.torch import save_file

    weights = _network().state_dict()
    torch.save({"state_dict": weights, "epoch": 3, "lr": np.float64(0.1)}, folder / "zip.pth")
    torch.save(weights, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "a.safetensors")


def read_checkpoints(folder):
    from tgfr.encoders.pretrained_faces import read_checkpoint

    for path in folder.iterdir():
        read_checkpoint(path)


def make_model(folder):
    from tgfr.encoders.text_encoders import build_text_encoder
    from tgfr.fusion.model import TGFR, ModelConfig

    text = build_text_encoder("lstm", [c for row in _photos(8)["captions"] for c in row], dim=16, embedding=8)
    TGFR(ModelConfig(16, (8, 7, 7), 16, "residual"), text).save(folder / "model")


def read_model(folder):
    from tgfr.fusion.model import TGFR

    return TGFR.load(folder / "model")


def make_encoder(folder):
    from tgfr.encoders.backbones import save_encoder

    save_encoder(_network(), folder / "encoder")


def read_encoder(folder):
    from tgfr.encoders.pretrained_faces import load_encoder

    return load_encoder(str(folder / "encoder"))


def _caface():
    from tgfr.core import seed_everything
    from tgfr.sets.pooling import build_set_fusion

    seed_everything(0)
    return build_set_fusion("caface", embedding=16, styles=8).eval()


def make_state(folder):
    import torch

    from tgfr.encoders.features import ImageFeatures
    from tgfr.sets.caface_state import save_state
    from tgfr.sets.pooling import FaceSet

    model, draw = _caface(), torch.Generator().manual_seed(0)
    embedding, styles = torch.randn(1, 5, 16, generator=draw), torch.randn(1, 5, 8, 2, generator=draw)
    faces = FaceSet.full(ImageFeatures(embedding, styles=styles))
    save_state(folder / "state.safetensors", model.update(model.init(1), faces), model)


def read_state(folder):
    from tgfr.sets.caface_state import load_state

    return load_state(folder / "state.safetensors", _caface())


def make_store(folder):
    from tgfr.data.degradation import Degradation
    from tgfr.encoders.face_features import encode_faces

    encode_faces(_photos(6), _network(), [Degradation(size=112)], folder / "store")


def read_store(folder):
    from tgfr.encoders.feature_store import FeatureStore

    store = FeatureStore.open(folder / "store")
    return store.batch(0, np.arange(len(store)))


def make_captions(folder):
    for name in "text", "image":
        (folder / name).mkdir()
    for n, row in enumerate(_photos(6)):
        (folder / f"image/{n}.jpg").write_bytes(row["image"]["bytes"])
        (folder / f"text/{n}.txt").write_text("\n".join(row["captions"]) + "\n")
    (folder / "identity.txt").write_text("".join(f"{n}.jpg {n // 2}\n" for n in range(6)))
    (folder / "captions.json").write_text(json.dumps([{"file": f"{n}.jpg", "text": "She is young."} for n in range(6)]))
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps({"file": f"{n}.jpg", "text": "He smiles."}) + "\n" for n in range(6))
    )


def read_captions(folder):
    from tgfr.formats.sources import read_source
    from tgfr.formats.untrusted import json_items, json_lines

    read_source("mm-celeba-hq", folder)
    list(json_items(folder / "captions.json"))
    list(json_lines(folder / "captions.jsonl"))


def make_video(folder):
    import cv2

    out = cv2.VideoWriter(str(folder / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    for k in range(6):
        out.write(np.roll(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3), 3 * k, 1))
    out.release()


def read_video(folder):
    from tgfr.core import Skips
    from tgfr.sets.tracking import Frames

    list(Frames(folder / "a.mp4").read(Skips()))


def make_onnx(folder):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 3, 3), "w2": (8, 4, 3, 3), "w3": (32, 8 * 14 * 14)}
    weights = [numpy_helper.from_array(draw.normal(size=shape).astype("f") / 9, name) for name, shape in shapes.items()]
    conv = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], strides=[4, 4], **conv),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2], **conv),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w3"], ["y"], transB=1),
    ]
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32])],
    )
    model = helper.make_model(
        helper.make_graph(nodes, "face", *ends, weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 10
    onnx.save(model, folder / "a.onnx")


def read_onnx(folder):
    from tgfr.encoders.onnx_encoder import OnnxEncoder

    OnnxEncoder(folder / "a.onnx", region=None, threads=1)


READERS = {
    "photos": Reader(make_photos, read_photos),
    "bin": Reader(make_bin, read_bin),
    "pickles": Reader(make_pickles, read_pickles),
    "records": Reader(make_records, read_records),
    "ijb": Reader(make_ijb, read_ijb, change_text),
    "pairs": Reader(make_pairs, read_pairs, change_text),
    "parquet": Reader(make_parquet, read_parquet),
    "recipe": Reader(build_recipe, read_recipe, change_text),
    "checkpoints": Reader(make_checkpoints, read_checkpoints),
    "model config": Reader(make_model, read_model, change_text, "*.json"),
    "model weights": Reader(make_model, read_model, change_bytes, "*.safetensors"),
    "encoder": Reader(make_encoder, read_encoder, change_text, "*.json"),
    "state": Reader(make_state, read_state),
    "store": Reader(make_store, read_store),
    "captions": Reader(make_captions, read_captions, change_text, "*.[tj]*[!g]"),
    "video": Reader(make_video, read_video),
    "ONNX bytes": Reader(make_onnx, read_onnx),
    "ONNX fields": Reader(make_onnx, read_onnx, change_protobuf),
}


# ---- the children that read, and the parent that watches


def _child(
    reader: Reader, name: str, folder: Path, first: int, last: int, seed: int, seen: mmap.mmap, log: Path
) -> None:
    "Read the files `first` to `last`; what came of each is noted in memory that the parent sees."
    from tgfr.core import TgfrError

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1), os.dup2(null, 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + (GIGABYTES << 30),) * 2)
    paths = sorted(p for p in folder.rglob(reader.files) if p.is_file())
    for k in range(first, last):
        draw = random.Random(f"{seed} {name} {k}")
        path = draw.choice(paths)
        whole = path.read_bytes()
        path.write_bytes(reader.change(whole, draw))
        try:
            reader.read(folder)
            outcome = "taken"
        except TgfrError:
            outcome = "refused"
        except MemoryError:
            outcome = "memory"
        except BaseException as e:
            outcome = "traceback"
            with log.open("a") as file:
                file.write(json.dumps([name, k, str(path.name), f"{type(e).__name__}: {e}"[:300]]) + "\n")
        path.write_bytes(whole)
        seen[k] = OUTCOMES.index(outcome)


def fuzz(name: str, reader: Reader, files: int, seed: int, log: Path) -> Counter:
    "How many of `files` changed files had each outcome."
    seen = mmap.mmap(-1, files)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "valid").mkdir()
        reader.make(Path(place) / "valid")
        reader.read(Path(place) / "valid")  # what is not changed is taken
        first = 0
        while first < files:
            folder = Path(place) / "work"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(Path(place) / "valid", folder)
            if not (child := os.fork()):
                _child(reader, name, folder, first, files, seed, seen, log)
                os._exit(0)
            done, since = first, time.monotonic()
            while not os.waitpid(child, os.WNOHANG)[0]:
                time.sleep(0.02)
                now = seen.find(b"\0", done)
                if now != done:
                    done, since = now if now >= 0 else files, time.monotonic()
                elif time.monotonic() - since > 3 * SECONDS:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    seen[done] = OUTCOMES.index("hang")
                    break
            first = seen.find(b"\0", first)
            if first < 0:
                break
            if first < files and seen[first] == 0:
                seen[first] = OUTCOMES.index("signal")
    return Counter(OUTCOMES[b] for b in seen[:])


def main() -> int:
    "Print a table; 1 where a reader did anything but refuse or take."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--readers", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--log",
        type=Path,
        default=Path("fuzz.jsonl"),
        help="one line for each traceback: reader, number, file, what it said",
    )
    args = parser.parse_args()
    args.log.write_text("")
    wrong = 0
    print(f"| reader | files | {' | '.join(OUTCOMES[1:])} | seconds |\n|---|{'---:|' * (len(OUTCOMES) + 1)}")
    for name in args.readers:
        start = time.monotonic()
        counts = fuzz(name, READERS[name], args.files, args.seed, args.log)
        wrong += sum(counts[outcome] for outcome in OUTCOMES[3:])
        cells = [name, f"{args.files:,}", *(f"{counts[o]:,}" for o in OUTCOMES[1:]), f"{time.monotonic() - start:.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
