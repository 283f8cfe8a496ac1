"""Models to and from the Hub, with the Hub played: what is sent, what is fetched, what is refused. Nothing here uses a network."""
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

import tgfr.hub
from tgfr.cli import main
from tgfr.core import TgfrError, read_json, seed_everything
from tgfr.data.cards import parse_card
from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.encoders.text import build_text_encoder
from tgfr.fusion.model import TGFR, ModelConfig
from tgfr.hub import from_pretrained, local_model, push_to_hub
from tgfr.sets.pooling import build_set_fusion
from tgfr.sets.weights import save_set_fusion


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Repositories as folders below tmp_path/hub; `calls` tells what was asked."
    home, calls = tmp_path / "hub", []

    class Api:
        def create_repo(self, repo, private, exist_ok): calls.append(("create", repo, private))
        def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
            for file in Path(folder_path).rglob("*"):
                name = file.relative_to(folder_path)
                if file.is_file() and any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                    (home / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, home / repo_id / name)
            return f"https://hub/{repo_id}/commit/1"

    def download(repo, revision=None, allow_patterns=None):
        calls.append(("fetch", repo, revision))
        if not (home / repo).is_dir(): raise RepositoryNotFoundError("404: no such repository", response=type("Response", (), {"headers": {}, "request": None, "status_code": 404})())
        shutil.copytree(home / repo, cached := tmp_path / f"cache/models--{repo.replace('/', '--')}/snapshots/1", dirs_exist_ok=True)
        return str(cached)

    monkeypatch.setattr(tgfr.hub, "HfApi", Api), monkeypatch.setattr(tgfr.hub, "snapshot_download", download)
    return home, calls


def small_model():
    seed_everything(0)
    return TGFR(ModelConfig(8, (16, 4, 4), dim=8), build_text_encoder("lstm", ["She smiles."], dim=8, embedding=6)).eval()


def test_a_model_goes_out_with_its_card_alone_and_comes_back(tmp_path, hub, capsys):
    home, calls = hub
    (model := small_model()).save(tmp_path / "run/model", {"face encoder": "made up"})
    (tmp_path / "run/model/features").mkdir()
    (tmp_path / "run/model/features/embedding.npy").write_bytes(b"faces"), (tmp_path / "run/model/photo.jpg").write_bytes(b"a face")
    main(["push", str(tmp_path / "run/model"), "me/mine"])
    assert capsys.readouterr().out.strip() == "https://hub/me/mine/commit/1" and calls == [("create", "me/mine", True)]
    sent = {str(p.relative_to(home / "me/mine")) for p in (home / "me/mine").rglob("*") if p.is_file()}
    assert {"config.json", "model.safetensors", "README.md"} <= sent and not any(name.endswith((".npy", ".jpg")) for name in sent)
    again = from_pretrained("me/mine", revision="v1")
    assert calls[-1] == ("fetch", "me/mine", "v1") and type(again) is TGFR
    for name, tensor in model.state_dict().items(): assert torch.equal(tensor, again.state_dict()[name])
    assert "| face encoder | made up |" in (home / "me/mine/README.md").read_text()


def test_public_is_said_by_name(tmp_path, hub):
    small_model().save(tmp_path / "model")
    push_to_hub(tmp_path / "model", "me/mine", private=False)
    assert hub[1] == [("create", "me/mine", False)]


def test_what_cannot_be_loaded_is_not_sent(tmp_path, hub):
    small_model().save(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(TgfrError, match="safetensors"): push_to_hub(tmp_path / "model", "me/mine")
    (tmp_path / "model/README.md").unlink()
    with pytest.raises(TgfrError, match="goes out with its card"): push_to_hub(tmp_path / "model", "me/mine")
    assert hub[1] == []


@pytest.mark.parametrize("name, message", [("nobody/nothing", "the Hub gives no such model"), ("no/such/folder", "neither a folder"), ("https://hub/a/b", "neither a folder")])
def test_names_that_lead_nowhere(name, message, hub):
    with pytest.raises(TgfrError, match=message): from_pretrained(name)


def test_somebody_else_uses_what_was_pushed(tmp_path, hub, capsys):
    "Model and face encoder by their names on the Hub: the figures are those of the folders, and the card in the cache stays."
    seed_everything(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=8), tmp_path / "face")
    TGFR(ModelConfig(8, (16, 14, 14), dim=8), build_text_encoder("lstm", ["She smiles."], dim=8, embedding=6)).eval().save(tmp_path / "words")
    TGFR(ModelConfig(8, (16, 14, 14), dim=8, words=False)).eval().save(tmp_path / "without")
    for name in "face", "words", "without": main(["push", str(tmp_path / name), f"me/{name}"])
    rest = ["--data", "synthetic:people=6,photos=2", "--probe-size", "112", "--replicates", "5", "--out"]
    main(["evaluate", "me/words", "--against", "me/without", "--encoder", "me/face", *rest, str(tmp_path / "there")])
    assert [call for call in hub[1] if call[0] == "fetch"] == [("fetch", f"me/{name}", None) for name in ("words", "without", "face")]
    assert "in the cache of the Hub, the card is left as it is" in capsys.readouterr().err
    main(["evaluate", str(tmp_path / "words"), "--against", str(tmp_path / "without"), "--encoder", str(tmp_path / "face"), *rest, str(tmp_path / "here")])
    here, there = (read_json(tmp_path / place / "report.json") for place in ("here", "there"))
    assert here["results"] == there["results"] and "snapshots" in there["setup"]["model"]
    assert "has not been judged" in (tmp_path / "cache/models--me--words/snapshots/1/README.md").read_text()


def test_the_disk_comes_first_and_weights_files_are_not_looked_for(tmp_path, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_set_fusion(build_set_fusion("quality", 8), tmp_path / "me/quality")
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=8), tmp_path / "me/quality/encoder")
    for name in ("me/quality", "me/face.onnx", "average", "/no/such", "a/b/c"): assert local_model(name) == name
    assert hub[1] == []
    push_to_hub("me/quality", "you/quality")
    assert type(from_pretrained("you/quality")).__name__ == "ScalarQuality" and from_pretrained("you/quality/encoder").config.embedding == 8
    with pytest.raises(TgfrError, match="the Hub gives no such model"): local_model("you/nothing")


def test_a_card_is_a_card(tmp_path):
    "Every saved model has a card the Hub can read."
    save_set_fusion(build_set_fusion("quality", 8), tmp_path / "fusion", {"origin": "a | b\nc"}, {"Results": "None yet."})
    card = parse_card((tmp_path / "fusion/README.md").read_text())
    assert card.meta["library_name"] == "tgfr" and card.meta["tags"] == ["face-recognition", "set-fusion"]
    assert list(card.sections) == ["Results", "Use with care"] and "a \\| b c |" in (tmp_path / "fusion/README.md").read_text()


def test_nothing_sends_on_its_own():
    "No module but `hub` knows how, and no module but the command that is asked for calls it."
    for path in Path(tgfr.hub.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "HfApi" not in text or path.name == "hub.py"
        assert "push_to_hub" not in text or path.name in ("hub.py", "commands.py", "_modidx.py")
