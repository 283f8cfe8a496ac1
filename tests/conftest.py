"""Where the goldens are, and how a test asks for them: `@pytest.mark.golden("tgfr_words_loss_*")` and an argument
`golden`."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"


def pytest_addoption(parser):
    parser.addoption(
        "--goldens", type=Path, help="folder of golden vectors (default: ../shared/goldens, else tests/goldens)"
    )
    parser.addoption("--slow", action="store_true", help="also run what is flagged slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow (make test-all)"))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; runs with --slow")
    config.addinivalue_line(
        "markers", "golden(pattern): runs once for each golden file of that name; its id is the file's name"
    )


def golden_folder(config) -> Path:
    """The folder the goldens are read from: the option, the shared folder beside the project, or the small copy
    inside it."""
    if (chosen := config.getoption("--goldens")) is not None:
        return chosen
    return SHARED / "goldens" if (SHARED / "goldens").is_dir() else HERE / "goldens"


class Golden:
    """One golden file: `meta` (its .json), inputs `i`, parameters `p`, expected outputs `o`, as tensors under their
    own names."""

    def __init__(self, path: Path):
        self.path, self.meta, self.checked = path, json.loads(path.with_suffix(".json").read_text()), 0
        tensors = load_file(path)
        self.i, self.p, self.o = (
            {k[len(part) :]: v for k, v in tensors.items() if k.startswith(part)} for part in ("in.", "param.", "out.")
        )

    def check(self, name: str, value, rtol=1e-4, atol=1e-5) -> None:
        "`value` equals the recorded output `name`; gradients (`g_...`) are compared relative to their largest entry."
        self.checked += 1
        expected = self.o[name].double().numpy()
        if "g_" in name or ".grad" in name:
            atol = max(1e-5 * np.abs(expected).max(), 1e-12)
        np.testing.assert_allclose(
            torch.as_tensor(value).detach().double().numpy().reshape(expected.shape),
            expected,
            rtol=rtol,
            atol=atol,
            err_msg=f"{self.path.name}: {name}",
        )

    def check_gradients(self, out, **leaves) -> None:
        """`out` is the recorded `y`, and its product with the recorded `cot_y` gives the leaves the gradients
        recorded under their names."""
        self.check("y", out)
        (out * self.i["cot_y"]).sum().backward()
        for name, leaf in leaves.items():
            self.check(name, leaf.grad)

    def beside(self, name: str) -> "Golden":
        "Another golden of the same folder."
        return Golden(self.path.with_name(f"{name}.safetensors"))

    def caface(self):
        "The published CAFace, whose weights lie beside this golden."
        from tgfr.sets.checkpoints import from_published  # here, so that a broken library fails its tests one by one

        params = self.beside("caface_params")
        return from_published(params.p, heads=params.meta["hparams"]["num_heads"][0])

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of a network too large to store: each drawn from its key's name by the rule the .json tells;
        checksums are compared."""
        shapes, weights = dict(self.meta["state_dict"]), {}
        for key, shape in shapes.items():
            draw, (parent, _, last) = (
                np.random.default_rng([zlib.crc32(key.encode()), self.meta["weight_seed"]]),
                key.rpartition("."),
            )
            layer_norm = any(part in parent.split(".")[-1] for part in ("ln", "norm"))
            if last == "num_batches_tracked":
                value = np.zeros(shape)
            elif last == "running_mean":
                value = 0.1 * draw.standard_normal(shape)
            elif last == "running_var":
                value = draw.uniform(0.5, 1.5, shape)
            elif len(shape) > 1:
                value = draw.standard_normal(shape) * (self.meta["gain"] / np.sqrt(np.prod(shape[1:])))
            elif last == "weight" and (f"{parent}.running_mean" in shapes or layer_norm):
                value = draw.uniform(0.8, 1.2, shape)
            elif last == "weight":
                value = draw.uniform(0.1, 0.4, shape)
            else:
                value = 0.1 * draw.standard_normal(shape)
            weights[key] = torch.from_numpy(
                np.asarray(value, np.int64 if last == "num_batches_tracked" else np.float32)
            )
        for key, sums in self.meta.get("weight_checksums_sum_abssum", {}).items():
            value = weights[key].double()
            np.testing.assert_allclose([value.sum(), value.abs().sum()], sums, rtol=1e-6, err_msg=key)
        return weights


def pytest_generate_tests(metafunc):
    if (mark := metafunc.definition.get_closest_marker("golden")) is None:
        return
    folder = golden_folder(metafunc.config)
    files = sorted(f for pattern in mark.args for f in folder.glob(pattern + ".safetensors"))
    reason = pytest.mark.skip(reason=f"no golden {' or '.join(mark.args)} in {folder}")
    metafunc.parametrize(
        "golden", files or [pytest.param(None, marks=reason)], ids=[f.stem for f in files] or ["none"], indirect=True
    )


@pytest.fixture
def golden(request) -> Golden:
    yield (golden := Golden(request.param))
    request.config.stash.setdefault(GOLDENS, []).append((request.param.stem, golden.checked, golden.meta.get("params")))


GOLDENS = (
    pytest.StashKey()
)  # of (file, comparisons, file of its parameters where they lie apart) for each golden case that ran


def pytest_terminal_summary(terminalreporter, config):
    "Say how many golden cases ran, and which files no test of this run read: nothing is skipped silently."
    if not (ran := config.stash.get(GOLDENS, [])):
        return
    folder = golden_folder(config)
    there = {f.stem for f in folder.glob("*.safetensors")}
    files = there & {name for stem, _, params in ran for name in (stem, params) if isinstance(name, str)}
    idle = sorted(there - files)
    compared = f"{sum(n for _, n, _ in ran):,} recorded tensors compared"
    unread = f"no test of this run read {len(idle)}: {', '.join(idle)}" if idle else "every file was read"
    terminalreporter.write_line(f"goldens of {folder}: {len(ran)} cases on {len(files)} files, {compared}; {unread}")


def noise(count: int, size: int = 112) -> np.ndarray:
    "Photos of random pixels."
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def one_thread():
    """torch on one thread, as `killed_at` needs it: the threads of a pool do not come along into a forked child,
    which would wait for them without end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_registrations():
    "What a test registers (losses, fusions, readers, ...) is gone after it."
    from registries import restored_registries

    with restored_registries():
        yield


@pytest.fixture
def refusal(capsys):
    "What the command line says on stderr of a call that it refuses with code 2."
    from tgfr.cli import main

    def refuse(*args: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(list(args))
        assert left.value.code == 2
        return capsys.readouterr().err

    return refuse


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "The folder of real data, or a skip that says why."
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data: {SHARED / 'data'} is not there")
    return SHARED / "data"


@pytest.fixture(scope="session")
def browser():
    "Headless Chromium, or a skip that says why."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium on this machine")
    quiet = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with playwright.sync_playwright() as p:
        yield (browser := p.chromium.launch(executable_path=chromium, chromium_sandbox=False, args=quiet))
        browser.close()
