"""Training where photos have no caption."""

import pytest
import torch
from optional_captions import partly_captioned
from test_cli import parquet

from tgfr.encoders.backbones import IResNet, save_encoder
from tgfr.workflows.train import train

TINY = "dim=16 epochs_align=1 epochs_fuse=1 batch_align=16 batch_fuse=16 epochs_evidence=2 batch_evidence=16".split()


@pytest.fixture(scope="module")
def small_encoder(tmp_path_factory):
    torch.manual_seed(0)
    save_encoder(IResNet((1, 1, 1, 1), width=4, embedding=32, size=32), folder := tmp_path_factory.mktemp("encoder"))
    return str(folder)


def test_training_keeps_photos_without_captions(tmp_path, small_encoder, capsys):
    data = parquet(partly_captioned(20, 4), tmp_path)
    settings = ("fusion=evidence", *TINY)
    model = train("demo", data=str(data), encoder=small_encoder, out=tmp_path / "run", set_=settings)
    card = (tmp_path / "run/model/README.md").read_text()
    assert "80 photos of 20 people" in card and "| photos without a caption | 20 of 80 |" in card
    assert model.config.optional_captions and "photos without a caption: 20 of 80" in capsys.readouterr().err


def test_training_of_other_fusions_leaves_them_out(tmp_path, small_encoder):
    data = parquet(partly_captioned(20, 4), tmp_path)
    settings = ("fusion=concat", *TINY)
    train("demo", data=str(data), encoder=small_encoder, out=tmp_path / "run", image_only=True, set_=settings)
    assert "60 photos of 20 people" in (tmp_path / "run/model/README.md").read_text()
