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
    "__main__": {"cli"},
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
TORCH_IN_CORE = {"gang.py", "noise.py", "sampling.py", "decoder.py", "reduction.py", "threads.py"}


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


# what may import what inside `batch`: each row those before it, and its own
IN_BATCH = (
    {"documents", "status", "journal", "identity", "estimate", "prompts", "fits", "notes"},
    {"keys", "expand", "edits", "manifest", "reference", "starter"},
    {"record", "single", "submit", "resume"},
    {"latest", "beside", "patch", "measures", "tiles", "look", "steps", "worker", "hire"},
    {"foresee", "validate", "compare", "changes", "describe"},
    {"results", "page", "report"},
    {"ahead", "board", "mend", "ending"},
    {"run"},
    {"verify", "doctor", "upkeep"},
)


def name_of(path: Path) -> str:
    """A file as a module."""
    parts = ["msbd_dist", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too; not those for types."""
    tree, found = ast.parse(path.read_text()), set[str]()
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & MODULES.keys() - {name_of(path)}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; none where there is no circle."""
    done = set[str]()

    def search(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if found := search(other, [*way, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in graph if (found := search(module, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: own_imports(path) for name, path in MODULES.items()}
    assert "msbd_dist.batch.worker" in graph["msbd_dist.batch.hire"]  # inside a function
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not circle(graph)


def test_inside_batch_imports_go_one_way() -> None:
    row = {module: number for number, several in enumerate(IN_BATCH) for module in several}
    here = {path.stem: path for path in (ROOT / "batch").glob("[!_]*.py")}
    assert row.keys() == here.keys()
    for module, path in here.items():
        for other in own_imports(path):
            if other.startswith("msbd_dist.batch."):
                name = other.rpartition(".")[2]
                assert row[name] <= row[module], f"batch: {module} imports {name}"


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
