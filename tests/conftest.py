"""Where the goldens are, and how a test asks for them: `@pytest.mark.golden("tgfr_words_loss_*")` and an argument `golden`."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"


def pytest_addoption(parser):
    parser.addoption("--goldens", type=Path, help="folder of golden vectors (default: ../shared/goldens, else tests/goldens)")


def pytest_configure(config):
    config.addinivalue_line("markers", "golden(pattern): runs once for each golden file of that name; its id is the file's name")


def golden_folder(config) -> Path:
    "The folder the goldens are read from: the option, the shared folder beside the project, or the small copy inside it."
    if (chosen := config.getoption("--goldens")) is not None: return chosen
    return SHARED / "goldens" if (SHARED / "goldens").is_dir() else HERE / "goldens"


class Golden:
    "One golden file: `meta` (its .json), inputs `i`, parameters `p`, expected outputs `o`, as tensors under their own names."

    def __init__(self, path: Path):
        self.path, self.meta = path, json.loads(path.with_suffix(".json").read_text())
        tensors = load_file(path)
        self.i, self.p, self.o = ({k[len(part):]: v for k, v in tensors.items() if k.startswith(part)} for part in ("in.", "param.", "out."))

    def check(self, name: str, value, rtol=1e-4, atol=1e-5) -> None:
        "`value` equals the recorded output `name`; gradients (`g_...`) are compared relative to their largest entry."
        expected = self.o[name].double().numpy()
        if "g_" in name or ".grad" in name: atol = max(1e-5 * np.abs(expected).max(), 1e-12)
        np.testing.assert_allclose(torch.as_tensor(value).detach().double().numpy().reshape(expected.shape), expected, rtol=rtol, atol=atol, err_msg=f"{self.path.name}: {name}")


def pytest_generate_tests(metafunc):
    if (mark := metafunc.definition.get_closest_marker("golden")) is None: return
    folder = golden_folder(metafunc.config)
    files = sorted(f for pattern in mark.args for f in folder.glob(pattern + ".safetensors"))
    reason = pytest.mark.skip(reason=f"no golden {' or '.join(mark.args)} in {folder}")
    metafunc.parametrize("golden", files or [pytest.param(None, marks=reason)], ids=[f.stem for f in files] or ["none"], indirect=True)


@pytest.fixture
def golden(request) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of real data, or a skip that says why."
    if not (SHARED / "data").is_dir(): pytest.skip(f"no real data: {SHARED / 'data'} is not there")
    return SHARED / "data"
