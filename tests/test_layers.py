"""Who may import what, and what the package shows to the outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import msbd_dist

ROOT = Path(msbd_dist.__file__).parent
LAYERS = {
    "errors": set(),
    "core": {"errors", "core"},
    "canvas": {"errors", "core", "canvas"},
    "models": {"errors", "core", "models"},
    "fleet": {"errors", "fleet"},
    "tiny": {"errors", "core", "tiny"},
    "tiny/train": {"errors", "core", "tiny"},
    "tiny/evaluate": {"errors", "core", "models", "tiny"},
    "batch": {"errors", "core", "canvas", "models", "fleet", "batch"},
    "cli": {"errors", "core", "canvas", "batch", "models", "cli"},
    "__init__": {"errors", "core", "batch"},
}
THIRD_PARTY = {
    "core": {"numpy", "PIL", "torch"},
    "canvas": {
        "numpy",
        "PIL",
        "zarr",
        "pyvips",
        "imagecodecs",
        "scipy",
        "fsspec",
        "psutil",
        "aiohttp",
    },
    "fleet": {"ray", "torch"},
    "tiny": {"numpy", "PIL", "scipy"},
    "tiny/train": {
        "numpy",
        "torch",
        "torchvision",
        "diffusers",
        "transformers",
        "open_clip",
        "safetensors",
        "spandrel",
    },
    "tiny/evaluate": {"numpy", "PIL", "scipy", "torch", "open_clip", "cv2"},
}
TORCH_IN_CORE = {"noise.py", "sampling.py", "decoder.py", "reduction.py", "threads.py"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer_of(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    if len(rest) > 1 and f"{first}/{rest[0]}" in LAYERS:
        return f"{first}/{rest[0]}"
    return first.removesuffix(".py")


FILES = sorted(p for p in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_layer_may(path: Path) -> None:
    layer = layer_of(path)
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "msbd_dist":
            assert not rest or rest[0] in LAYERS[layer], f"{path.name} imports {module}"
        elif top == "ray":
            assert layer == "fleet", f"{path} imports ray"
            assert path.name.startswith("ray_"), f"{path} imports ray"
        elif layer in THIRD_PARTY and top not in __import__("sys").stdlib_module_names:
            assert top in THIRD_PARTY[layer], f"{path.name} imports {module}"


def test_torch_is_only_where_core_says_so() -> None:
    users = {p.name for p in (ROOT / "core").glob("*.py") if "torch" in imports(p)}
    assert users == TORCH_IN_CORE


def test_nothing_prints_but_the_command() -> None:
    for path in FILES:
        if layer_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Name) and node.id == "print"), f"{path} prints"


def test_the_public_names() -> None:
    assert msbd_dist.__all__ == ["InputError", "MsbdError", "edit", "run"]
    assert all(hasattr(msbd_dist, name) for name in msbd_dist.__all__)


def test_nothing_asks_whether_the_family_is_the_bundled_one() -> None:
    """Only the card knows the name, to find the folder; the doctor tests itself with it."""
    for path in FILES:
        if layer_of(path) in ("core", "canvas", "fleet") and path.name != "spec.py":
            assert '"tiny"' not in path.read_text(), path
