"""Models to and from the Hub, with the Hub played: what is sent, what is fetched, what is refused. Nothing here uses
a network."""

import os
import resource
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

import tgfr.hub
from tgfr.cli import main
from tgfr.core import TgfrError, read_json, seed_everything, write_json
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.pretrained_faces import check_encoder
from tgfr.encoders.text_encoders import build_text_encoder
from tgfr.formats.cards import parse_card
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.hub import from_pretrained, local_model, push_to_hub
from tgfr.sets.caface import CAFace
from tgfr.sets.checkpoints import save_set_fusion
from tgfr.sets.pooling import build_set_fusion
from tgfr.training.recipes import read_recipe


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Repositories as folders below tmp_path/hub; `calls` tells what was asked."
    home, calls = tmp_path / "hub", []

    class Api:
        def create_repo(self, repo, private, exist_ok):
            calls.append(("create", repo, private))

        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            for file in Path(folder_path).rglob("*"):
                name = file.relative_to(folder_path)
                if file.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                    (home / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, home / repo_id / name)
            return f"https://hub/{repo_id}/commit/1"

    def download(repo, revision=None, allow_patterns=None):
        calls.append(("fetch", repo, revision))
        if not (home / repo).is_dir():
            raise RepositoryNotFoundError(
                "404: no such repository",
                response=type("Response", (), {"headers": {}, "request": None, "status_code": 404})(),
            )
        shutil.copytree(
            home / repo, cached := tmp_path / f"cache/models--{repo.replace('/', '--')}/snapshots/1", dirs_exist_ok=True
        )
        return str(cached)

    monkeypatch.setattr(tgfr.hub, "HfApi", Api), monkeypatch.setattr(tgfr.hub, "snapshot_download", download)
    return home, calls


def small_model(side=4):
    seed_everything(0)
    return TGFR(
        ModelConfig(8, (16, side, side), dim=8), build_text_encoder("lstm", ["She smiles."] * 2, dim=8, embedding=6)
    ).eval()


def test_a_model_goes_out_with_its_card_alone_and_comes_back(tmp_path, hub, capsys):
    home, calls = hub
    (model := small_model()).save(tmp_path / "run/model", {"face encoder": "made up"})
    (tmp_path / "run/model/features").mkdir()
    (
        (tmp_path / "run/model/features/embedding.npy").write_bytes(b"faces"),
        (tmp_path / "run/model/photo.jpg").write_bytes(b"a face"),
    )
    main(["push", str(tmp_path / "run/model"), "me/mine"])
    assert capsys.readouterr().out.strip() == "https://hub/me/mine/commit/1" and calls == [("create", "me/mine", True)]
    sent = {str(p.relative_to(home / "me/mine")) for p in (home / "me/mine").rglob("*") if p.is_file()}
    assert {"config.json", "model.safetensors", "README.md"} <= sent and not any(
        name.endswith((".npy", ".jpg")) for name in sent
    )
    again = from_pretrained("me/mine", revision="v1")
    assert calls[-1] == ("fetch", "me/mine", "v1") and type(again) is TGFR
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert "| face encoder | made up |" in (home / "me/mine/README.md").read_text()


@pytest.mark.parametrize(
    "least, at_home", [(2, {"xanthippe", "okonkwo"}), (3, {"xanthippe", "okonkwo", "beard"}), (1, set())]
)
def test_words_of_one_person_stay_at_home(tmp_path, hub, capsys, least, at_home):
    """A name in every caption of one person is in no file that is sent; all other captions are read as before, and
    the model in the folder stays."""
    seed_everything(0)
    captions = [
        "Xanthippe smiles.",
        "Xanthippe Okonkwo has a hat.",
        "She smiles.",
        "He has a hat and a beard.",
        "She has a beard",
        "a hat, she smiles, he has and he",
    ]
    text = build_text_encoder("lstm", captions, dim=8, embedding=6, people=["x", "x", "a", "b", "c", "d"])
    model = TGFR(ModelConfig(8, (16, 4, 4), dim=8), text).eval()
    model.save(tmp_path / "model")
    before = {p: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    main(["push", str(tmp_path / "model"), "me/mine", "--min-people", str(least)])
    sent = b"".join(p.read_bytes().lower() for p in (hub[0] / "me/mine").rglob("*") if p.is_file())
    for name in ("xanthippe", "okonkwo", "beard"):
        assert (name.encode() in sent) == (name not in at_home)
    assert {p: p.read_bytes() for p in before} == before and (hub[0] / "me/mine/model.safetensors").is_file()
    assert ("words stay here" in capsys.readouterr().err) == bool(at_home)
    again = from_pretrained("me/mine")
    for caption in ("She has a hat, she smiles.", "smiles"):
        assert torch.equal(again.encode_captions([caption]).words, model.encode_captions([caption]).words)
    assert (again.text_encoder.tokenize(["Xanthippe smiles"])["ids"][0, 0] == 1) == bool(at_home)
    push_to_hub(hub[0] / "me/mine", "you/mine", min_people=least)  # what was fetched can be sent on


def test_a_vocabulary_without_counts_is_not_sent_unasked(tmp_path, hub):
    small_model().save(tmp_path / "model")
    write_json(
        tmp_path / "model/text/vocabulary.json", {"words": read_json(tmp_path / "model/text/vocabulary.json")["words"]}
    )
    with pytest.raises(TgfrError, match="does not tell how many people"):
        push_to_hub(tmp_path / "model", "me/mine")
    assert hub[1] == [] and type(from_pretrained(tmp_path / "model")) is TGFR
    push_to_hub(tmp_path / "model", "me/mine", min_people=1)


def refused_by(kind, text):
    def call(*args, **kwargs):
        raise kind(text)

    return call


class NetworkError(Exception):
    "As httpx2.ConnectError: of no type that a library of the Hub has."


@pytest.mark.parametrize(
    "kind",
    [NetworkError, OSError, PermissionError, RuntimeError, TimeoutError, OfflineModeIsEnabled, LocalTokenNotFoundError],
)
@pytest.mark.parametrize("text", ["[Errno 111]\nConnection refused", ""])
def test_no_network_is_one_line(tmp_path, monkeypatch, refusal, kind, text):
    small_model().save(tmp_path / "model")
    for step in ("create_repo", "upload_folder"):
        monkeypatch.setattr(
            tgfr.hub,
            "HfApi",
            type(
                "Api",
                (),
                {"create_repo": lambda *a, **k: None, step: refused_by(kind, text)}
                | ({"upload_folder": refused_by(kind, text)} if step == "create_repo" else {}),
            ),
        )
        assert refusal("push", str(tmp_path / "model"), "me/mine").startswith(
            "tgfr: me/mine: the Hub did not take it (" + kind.__name__
        )
    monkeypatch.setattr(tgfr.hub, "snapshot_download", refused_by(kind, text))
    with pytest.raises(TgfrError, match="the Hub gives no such model") as error:
        from_pretrained("me/mine")
    assert "\n" not in str(error.value)


def test_a_port_where_nobody_listens(tmp_path):
    "The real library, without a network."
    small_model().save(tmp_path / "model")
    code = f"from tgfr.cli import main; main(['push', {str(tmp_path / 'model')!r}, 'me/mine'])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 2 and "the Hub did not take it" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "{" * 50_000,
        "a: &a [1]\nb: *a",
        "a: 2001-99-99",
        "a: " + "1" * 10_000,
        "x" * (2 << 20),
        "<<: [{a: 1}]\n? [1]\n: 2",
        "a: !!python/object/apply:os.system [x]",
        "\x00",
        "a: !!float 1e999999",
    ],
)
def test_a_recipe_of_brackets_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(TgfrError, match="config.yaml") as error:
        read_recipe(tmp_path / "config.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("depth", [500, 900, 100_000])
def test_a_config_of_brackets_is_one_line(tmp_path, depth):
    small_model().save(tmp_path / "model")
    for file in ("config.json", "text/config.json", "text/vocabulary.json"):
        good = (tmp_path / "model" / file).read_text()
        for text in (
            "[" * depth + "]" * depth,
            '{"a":' * depth + "1" + "}" * depth,
            good.rstrip()[:-1] + ', "more": ' + "[" * depth + "]" * depth + "}",
        ):
            (tmp_path / "model" / file).write_text(text)
            if file == "text/vocabulary.json" and "words" in text and depth < 1000:
                continue  # a field more is none of its business
            with pytest.raises(TgfrError) as error:
                from_pretrained(tmp_path / "model")
            assert "\n" not in str(error.value) and len(str(error.value)) < 2000
        (tmp_path / "model" / file).write_text(good)


def test_public_is_said_by_name(tmp_path, hub):
    small_model().save(tmp_path / "model")
    push_to_hub(tmp_path / "model", "me/mine", public=True)
    assert hub[1] == [("create", "me/mine", False)]


def test_what_cannot_be_loaded_is_not_sent(tmp_path, hub):
    small_model().save(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(TgfrError, match="safetensors"):
        push_to_hub(tmp_path / "model", "me/mine")
    (tmp_path / "model/README.md").unlink()
    with pytest.raises(TgfrError, match="goes out with its card"):
        push_to_hub(tmp_path / "model", "me/mine")
    assert hub[1] == []


@pytest.mark.parametrize(
    "name, message",
    [
        ("nobody/nothing", "the Hub gives no such model"),
        ("no/such/folder", "neither a folder"),
        ("https://hub/a/b", "neither a folder"),
    ],
)
def test_names_that_lead_nowhere(name, message, hub):
    with pytest.raises(TgfrError, match=message):
        from_pretrained(name)


def test_somebody_else_uses_what_was_pushed(tmp_path, hub, capsys):
    """Model and face encoder by their names on the Hub: the figures are those of the folders, and the card in the
    cache stays."""
    seed_everything(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=8), tmp_path / "face")
    small_model(14).save(tmp_path / "words")
    TGFR(ModelConfig(8, (16, 14, 14), dim=8, use_captions=False)).eval().save(tmp_path / "without")
    for name in "face", "words", "without":
        main(["push", str(tmp_path / name), f"me/{name}"])
    rest = ["--data", "synthetic:people=6,photos=2", "--probe-size", "112", "--replicates", "5", "--out"]
    main(["evaluate", "me/words", "--against", "me/without", "--encoder", "me/face", *rest, str(tmp_path / "there")])
    assert [call for call in hub[1] if call[0] == "fetch"] == [
        ("fetch", f"me/{name}", None) for name in ("words", "without", "face")
    ]
    assert "in the cache of the Hub, the card is left as it is" in capsys.readouterr().err
    main(
        [
            "evaluate",
            str(tmp_path / "words"),
            "--against",
            str(tmp_path / "without"),
            "--encoder",
            str(tmp_path / "face"),
            *rest,
            str(tmp_path / "here"),
        ]
    )
    here, there = (read_json(tmp_path / place / "report.json") for place in ("here", "there"))
    assert here["results"] == there["results"] and "snapshots" in there["setup"]["model"]
    assert "has not been evaluated" in (tmp_path / "cache/models--me--words/snapshots/1/README.md").read_text()


def test_the_disk_comes_first_and_weights_files_are_not_looked_for(tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_set_fusion(build_set_fusion("quality", 8), tmp_path / "me/quality")
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=8), tmp_path / "me/quality/encoder")
    for name in ("me/quality", "me/face.onnx", "average", "/no/such", "a/b/c"):
        assert local_model(name) == name
    assert hub[1] == []
    push_to_hub("me/quality", "you/alone")
    with pytest.raises(TgfrError, match="encoder/config.json: no such file"):  # its licence may not allow it
        from_pretrained("you/alone/encoder")
    push_to_hub("me/quality", "you/quality", with_encoder=True)
    assert (
        type(from_pretrained("you/quality")).__name__ == "ScalarQuality"
        and from_pretrained("you/quality/encoder").config.embedding == 8
    )
    with pytest.raises(TgfrError, match="the Hub gives no such model"):
        local_model("you/nothing")


def test_a_card_is_a_card(tmp_path):
    "Every saved model has a card the Hub can read."
    save_set_fusion(
        build_set_fusion("quality", 8), tmp_path / "fusion", {"origin": "a | b\nc"}, {"Results": "None yet."}
    )
    card = parse_card((tmp_path / "fusion/README.md").read_text())
    assert card.meta["library_name"] == "tgfr" and card.meta["tags"] == ["face-recognition", "set-fusion"]
    assert (
        list(card.sections) == ["Results", "Use with care"]
        and "a \\| b c |" in (tmp_path / "fusion/README.md").read_text()
    )


ODD = (
    None,
    0,
    -1,
    True,
    1.5,
    "8",
    [],
    [1],
    [65_536] * 3,
    {"a": 1},
    60_000,
    10**9,
    10**30,
    float("nan"),
)  # what a damaged or hostile file may say


def refusals(file, load):
    """Put one of ODD in the place of each key's value in `file`, and of all of it: one line that names the folder,
    or the key is among those returned."""
    good, said, passed = read_json(file), [], set()
    for key, value in [(None, value) for value in (*ODD, {"a": 1} | good)] + [
        (key, value) for key in good for value in ODD if value is not good[key]
    ]:
        write_json(file, value if key is None else good | {key: value})
        try:
            load()
        except TgfrError as e:
            said.append(str(e))
        else:
            passed.add(key)
    write_json(file, good)
    load()
    assert said and all(str(file.parent) in line and "\n" not in line and len(line) < 2000 for line in said)
    return passed


def transformer_model():
    "A TGFR model that reads captions with a small BERT."
    from text_models import TEXT, tiny_tokenizer
    from transformers import BertConfig, BertModel

    from tgfr.encoders.text_encoders import TransformerTextEncoder

    return TGFR(
        ModelConfig(8, (16, 4, 4), dim=8),
        TransformerTextEncoder(
            (BertModel(BertConfig(**TEXT), add_pooling_layer=False), tiny_tokenizer()), dim=8, length=12
        ),
    ).eval()


@pytest.fixture
def little_memory():
    "A gigabyte more than is taken by now, so that a network of a claimed size cannot be built."
    before, pages = resource.getrlimit(resource.RLIMIT_AS), int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "make, part, free",
    [  # and what any encoder, or the same weights, may have otherwise
        (small_model, "", {"face_encoder", "frozen_weight", "frozen_power"}),  # any number from 0 on
        (small_model, "text/", {"dropout", "length", "init_range"}),
        (transformer_model, "text/", {"train_layers", "mask_padding"}),
        (
            lambda: TGFR(ModelConfig(8, (16, 4, 4), dim=8, fusion="fcfm", residual_head=False, use_captions=False)),
            "",
            {"face_encoder", "frozen_weight", "frozen_power"},
        ),
        (lambda: CAFace(32, 16), "", {"face_encoder", "confidence", "heads", "drop"}),
        (lambda: build_set_fusion("quality", 32), "", {"face_encoder"}),
    ],
)
def test_damaged_and_hostile_configs_are_one_line(tmp_path, make, part, free, little_memory):
    model = make()
    model.save(tmp_path) if isinstance(model, TGFR) else save_set_fusion(model, tmp_path)
    assert refusals(tmp_path / f"{part}config.json", lambda: from_pretrained(tmp_path)) <= free


@pytest.mark.parametrize(
    "claim, said",
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: an integer from 0 to 256"),
        ({"hidden_size": 1 << 20}, "does not fit"),
        ({"vocab_size": 10**9}, "does not fit"),
        ({"num_hidden_layers": "all"}, "num_hidden_layers"),
        ({"max_position_embeddings": 10**11}, "max_position_embeddings: an integer from 0 to 1,048,576"),
        ({"model_type": "vit"}, "text/"),
        ({"model_type": "nosuch"}, "nosuch"),
    ],
)
def test_claims_of_a_transformer_take_neither_time_nor_memory(tmp_path, claim, said, little_memory):
    transformer_model().save(tmp_path)
    config = read_json(tmp_path / "text/config.json")
    write_json(tmp_path / "text/config.json", config | {"transformer": config["transformer"] | claim})
    with pytest.raises(TgfrError, match=said):
        TGFR.load(tmp_path)


def test_what_is_wrong_with_a_config_is_said(tmp_path):
    small_model().save(tmp_path)
    good = read_json(tmp_path / "config.json")
    for wrong, said in (
        (5, "5, expected an object with the keys dim, embedding"),
        (good | {"regions": None}, "regions=None: expected three integers"),
        (good | {"fusion": "nosuch", "residual_head": False}, "fusion='nosuch': expected None or one of concat"),
        (good | {"embedding": "8"}, "embedding='8': expected an integer from 1 to 65,536"),
        (good | {"dim": 10**9}, "dim=1000000000: expected an integer"),
        (good | {"dim": 64}, "dim=64: the text encoder's is 8"),
        (good | {"words": True}, "unknown or missing keys: words"),
        (good | {"use_captions": "yes"}, "use_captions='yes': expected True or False"),
        ({k: v for k, v in good.items() if k != "residual_head"}, "missing keys: residual_head"),
    ):
        write_json(tmp_path / "config.json", wrong)
        with pytest.raises(TgfrError) as error:
            TGFR.load(tmp_path)
        assert str(error.value).startswith(f"{tmp_path}/config.json: ") and said in str(error.value)


def test_a_model_names_its_encoder(tmp_path):
    own, other = (IResNet((1, 1, 1, 1), width=4, embedding=8) for _ in range(2))
    small_model().save(tmp_path / "mine", {"data": "drawn"}, encoder=own)
    assert read_json(tmp_path / "mine/config.json")["face_encoder"] == {
        "name": own.config.name,
        "fingerprint": own.content_digest,
    }
    assert (
        f"| face encoder | {own.config.name}, fingerprint {own.content_digest} |"
        in (tmp_path / "mine/README.md").read_text()
    )
    small_model().save(tmp_path / "nobodys")
    assert (
        read_json(tmp_path / "nobodys/config.json")["face_encoder"] is None
        and "face encoder |" not in (tmp_path / "nobodys/README.md").read_text()
    )
    old = read_json(tmp_path / "mine/config.json")
    del old["face_encoder"]
    write_json(tmp_path / "old/config.json", old)
    for name in "model.safetensors", "text":
        (shutil.copytree if name == "text" else shutil.copy)(tmp_path / "mine" / name, tmp_path / "old" / name)
    for name in "mine", "nobodys", "old":
        assert torch.equal(TGFR.load(tmp_path / name).image_head.carrier, small_model().image_head.carrier)
        check_encoder(tmp_path / name, own.config.name, own.content_digest)
        if name != "mine":
            check_encoder(tmp_path / name, other.config.name, other.content_digest)
    belongs = f"mine: belongs to the encoder .*fingerprint {own.content_digest}"
    features = f"but these are features of .*, fingerprint {other.content_digest}"
    with pytest.raises(TgfrError, match=f"{belongs}, {features}"):
        check_encoder(tmp_path / "mine", other.config.name, other.content_digest)


def test_nothing_sends_on_its_own():
    "No module but `hub` knows how, and no module but the command that is asked for calls it."
    for path in Path(tgfr.hub.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "HfApi" not in text or path.name == "hub.py"
        assert "push_to_hub" not in text or path.name in ("hub.py", "cli.py", "_modidx.py")
