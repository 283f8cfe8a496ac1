"Downloads of the sets with captions, as small as tests need them, and what was made of them."

import json
import pickle
from pathlib import Path

import pyarrow.parquet as pq

from tgfr.formats.celeba_sources import ASPECTS


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def left_out(report: dict) -> dict[str, int]:
    return {kind: what["count"] for kind, what in report["left out"].items()}


def rows(out: Path) -> dict[str, dict]:
    "Every row of a preparation by photo_id, with its split."
    found = {}
    for path in sorted(out.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found[row["photo_id"]] = row | {"split": path.name.partition("-")[0]}
    return found


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir()}


def make_mm(folder: Path, drawn, texts: str = "text", images: str = "image", celeba: bool = True) -> Path:
    for n, row in enumerate(drawn):
        write(folder / images / f"{n}.jpg", row["image"]["bytes"])
        write(folder / texts / f"{n}.txt", "  \n".join([*row["captions"], row["captions"][0]]) + "\n" * (n % 2))
    if celeba:  # CelebA's own numbers, in an order of their own
        write(
            folder / "CelebA-HQ-to-CelebA-mapping.txt",
            "idx        orig_idx   orig_file\n"
            + "".join(f"{n:<11}{500 - n:<11}{501 - n:06d}.jpg\n" for n in range(len(drawn))),
        )
        write(
            folder / "identity_CelebA.txt",
            "".join(f"{501 - n:06d}.jpg {1000 - 7 * row['identity']}\r\n" for n, row in enumerate(drawn))
            + "202599.jpg 3\r\n",
        )
    else:
        write(
            folder / "identity.txt", "".join(f"{n}.jpg {1000 - 7 * row['identity']}\n" for n, row in enumerate(drawn))
        )
    return folder


def make_dialog(folder: Path, drawn, celeba: bool = False) -> Path:
    def name(n):
        return f"{n + 1:06d}.jpg" if celeba else f"{n}.jpg"

    captions = {}
    for n in range(len(drawn)):
        aspects = {a: f"{a} of photo {n}." for a in ASPECTS}
        captions[name(n)] = {"attribute_wise_captions": aspects, "overall_caption": f"Photo {n}."}
    captions[name(1)]["overall_caption"] = None
    captions[name(2)]["attribute_wise_captions"] = {
        "Bangs": None,
        "Eyeglasses": "",
        "Smiling": "She\nsmiles. ",
    }  # No_Beard and Young are missing
    captions[name(3)] = {"attribute_wise_captions": None, "overall_caption": ""}
    captions[name(4)] = None
    captions[name(6)] = {"overall_caption": ["a list"], "attribute_wise_captions": ["a list"]}
    captions[name(7)] = {"overall_caption": "Half \ud83d a pair."}
    del captions[name(5)]
    write(folder / ("captions.json" if celeba else "text_hq/captions_hq.json"), json.dumps(captions))
    write(
        folder / ("identity_CelebA.txt" if celeba else "metadata/identity_hq.txt"),
        "".join(f"{name(n)} {row['identity'] + 1}\r\n" for n, row in enumerate(drawn)),
    )
    write(
        folder / "combined_annotation.txt",
        "Bangs Eyeglasses No_Beard Smiling Young\n"
        + "".join(f"{name(n)} {n % 6} 0 1 2 5\n" for n in range(len(drawn))),
    )
    for n, row in enumerate(drawn):
        write(folder / ("img_align_celeba" if celeba else "image/images") / name(n), row["image"]["bytes"])
    return folder


def make_face2text(folder: Path, drawn, as_list: bool = False) -> Path:
    texts = [
        {"response_id": str(n), "filename": f"{k + 1:06d}.jpg", "description": f"Person number {k}, answer {n}."}
        for n, k in enumerate([0, 0, 1, 2, 5, 5, 5, 8])
    ]
    texts[2]["description"] = "A naïve man\nwith “a hat”."
    texts[3]["description"] = " "
    write(
        folder / ("raw_2.1.json" if as_list else "raw_2.0.jsonl"),
        json.dumps(texts) if as_list else "\n".join(json.dumps(t, ensure_ascii=False) for t in texts) + "\n",
    )
    write(folder / "clean_train_2.0.jsonl", "not read")
    write(
        folder / "Anno/identity_CelebA.txt",
        "".join(f"{n + 1:06d}.jpg {50 + row['identity']}\r\n" for n, row in enumerate(drawn)),
    )
    for n, row in enumerate(drawn):
        write(folder / "img_align_celeba" / f"{n + 1:06d}.jpg", row["image"]["bytes"])
    return folder


def make_tgfr(folder: Path, drawn, photos: bool = True) -> Path:
    "Persons 0 to 9 with five photos each: three real ones and two copies of the last."
    for split, people in {"train": range(6), "valid": (6,), "test": (7, 8, 9)}.items():
        names = [f"{i}/{i}_{n}" for i in people for n in range(1, 6)]
        write(folder / split / "filenames.pickle", pickle.dumps(names))
        write(folder / split / "class_info.pickle", pickle.dumps([i for i in people for _ in range(5)]))
        for i in people:
            for n in range(1, 6):
                row = drawn[3 * i + min(n, 3) - 1]
                write(folder / f"text/{i}/{i}_{n}.txt", "\n".join(row["captions"] * 2))
                if photos:
                    write(folder / f"images/{split}/{i}/{i}_{n}.jpg", row["image"]["bytes"])
    return folder
