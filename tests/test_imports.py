"""Who may import whom, what is imported when, and how long files and functions are: read from the source."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "medvqa_cli"
BASICS = {"errors", "records", "settings", "progress"}
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "progress": set(),
    "records": {"errors"},
    "registry": {"errors"},
    "runs": {"__init__", "errors", "records"},
    "settings": {"errors"},
    "scoring": {"errors", "records"},
    "data": {*BASICS, "scoring"},
    "models": {*BASICS, "data"},
    "plugins": {"registry"},
    "inference": {*BASICS, "data", "models", "scoring"},
    "training": {*BASICS, "data", "models", "scoring", "inference"},
    "evaluation": {*BASICS, "scoring"},
    "reporting": {"errors", "records", "progress"},
    "workflows": {*BASICS, "__init__", "runs", "registry", "plugins", "scoring", "data", "models", "inference",
                  "training", "evaluation", "reporting"},
    "cli": {*BASICS, "__init__", "runs", "registry", "plugins", "workflows", "reporting"},
}
MAY_ALSO_IMPORT = {
    "plugins": {"medvqa_cli.data.protocol", "medvqa_cli.models.protocol", "medvqa_cli.training.attempts"},
    "cli": {"medvqa_cli.data.images"},  # the one safe way to open a picture, to draw it in a terminal
}
PLUGIN_FILES_MAY_IMPORT = {
    "data.sources": {"medvqa_cli.data.protocol", "medvqa_cli.data.reading", "medvqa_cli.data.exchange",
                     "medvqa_cli.records", "medvqa_cli.errors", "medvqa_cli.settings.section", "medvqa_cli.progress"},
    "models.families": {"medvqa_cli.models.protocol", "medvqa_cli.models.family", "medvqa_cli.models.qwen",
                        "medvqa_cli.models.blip", "medvqa_cli.models.idefics",
                        "medvqa_cli.models.phi4_model", "medvqa_cli.models.phi4_pictures",
                        "medvqa_cli.models.llava_mistral",  # the conversion serves `medvqa convert` too
                        "medvqa_cli.models.processors", "medvqa_cli.models.tiny",
                        "medvqa_cli.records", "medvqa_cli.errors", "medvqa_cli.settings.section",
                        "medvqa_cli.data.prompts"},
    "training.rewards": {"medvqa_cli.training.attempts", "medvqa_cli.scoring.rewards", "medvqa_cli.records"},
}
PLUGIN_PARTS = {"demo.py": "medvqa_cli.data.phantoms"}
"""A plugin too long for one file: the package that is its second half, imported by nobody else."""
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "PIL", "bitsandbytes", "matplotlib", "pyarrow",
         "trl"}
HEAVY_ALLOWED = {"models", "inference", "training"}
NUMPY_ALLOWED = {*HEAVY_ALLOWED, "scoring", "evaluation", "reporting"}
NO_PYDANTIC = {"cli", "registry", "plugins", "errors", "records", "runs", "progress", "__main__"}
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_LINES = 10


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    at_start: bool
    """Run when the module is imported: outside functions and outside `if TYPE_CHECKING`."""
    for_types: bool


def find_imports(tree: ast.Module) -> list[Import]:
    return list(_walk(tree, at_start=True, for_types=False))


def _walk(node: ast.AST, *, at_start: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_start, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            inner = [f".{alias.name}" for alias in child.names] if child.module == "medvqa_cli" else [""]
            yield from (Import(f"{child.module}{name}", child.lineno, at_start, for_types) for name in inner)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, at_start=False, for_types=True)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, at_start=at_start and not inside, for_types=for_types)


def source_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First part of a file's place in the package: "cli", "errors"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def show(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in source_files()}


def own_part(module: str) -> str | None:
    """Part of our package an import names, or None for another package."""
    head, _, rest = module.partition(".")
    if head != "medvqa_cli":
        return None
    part = rest.partition(".")[0]
    is_part = bool(part) and ((PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file())
    return part if is_part else "__init__"


def test_every_part_has_a_rule(trees):
    assert {part_of(path) for path in trees} <= set(MAY_IMPORT)


def test_packages_import_only_what_stands_above_them(trees):
    wrong = []
    for path, tree in trees.items():
        here = part_of(path)
        for item in find_imports(tree):
            there = own_part(item.module)
            allowed = there in {None, here, *MAY_IMPORT[here]} or item.module in MAY_ALSO_IMPORT.get(here, set())
            if not allowed:
                wrong.append(f"{show(path)}:{item.line} imports {item.module}")
    assert wrong == []


def test_no_relative_imports(trees):
    wrong = [f"{show(path)}:{node.lineno}" for path, tree in trees.items() for node in ast.walk(tree)
             if isinstance(node, ast.ImportFrom) and node.level]
    assert wrong == []


def test_frameworks_are_imported_late(trees):
    wrong = []
    for path, tree in trees.items():
        here = part_of(path)
        for item in find_imports(tree):
            package = item.module.partition(".")[0]
            if not item.at_start:
                continue
            if package in HEAVY and (here not in HEAVY_ALLOWED or path.name == "protocol.py"):
                wrong.append(f"{show(path)}:{item.line} imports {item.module} when it is imported")
            if package == "numpy" and here not in NUMPY_ALLOWED:
                wrong.append(f"{show(path)}:{item.line} imports numpy when it is imported")
            if package in {"pydantic", "pydantic_core"} and here in NO_PYDANTIC:
                wrong.append(f"{show(path)}:{item.line} imports pydantic when it is imported")
    assert wrong == []


def test_scoring_imports_no_torch_at_all(trees):
    wrong = [f"{show(path)}:{item.line}" for path, tree in trees.items() if part_of(path) == "scoring"
             for item in find_imports(tree) if item.module.partition(".")[0] in HEAVY - {"matplotlib"}]
    assert wrong == []


def test_evaluation_never_touches_models(trees):
    wrong = [f"{show(path)}:{item.line}" for path, tree in trees.items() if part_of(path) == "evaluation"
             for item in find_imports(tree)
             if own_part(item.module) in {"models", "inference", "training"} or item.module.startswith("torch")]
    assert wrong == []


@pytest.mark.parametrize("folder", PLUGIN_FILES_MAY_IMPORT)
def test_a_plugin_file_imports_only_its_protocol_and_readers(trees, folder):
    place = PACKAGE / folder.replace(".", "/")
    wrong = [f"{show(path)}:{item.line} imports {item.module}" for path, tree in trees.items()
             if path.parent == place and not path.name.startswith("_") for item in find_imports(tree)
             if item.module.startswith("medvqa_cli") and item.module not in PLUGIN_FILES_MAY_IMPORT[folder]
             and not item.module.startswith(PLUGIN_PARTS.get(path.name, " "))]
    assert wrong == []


def test_the_second_half_of_a_plugin_serves_nobody_else(trees):
    for file, package in PLUGIN_PARTS.items():
        users = {path.name for path, tree in trees.items() for item in find_imports(tree)
                 if item.module.startswith(package) and package.rpartition(".")[2] not in path.parts}
        assert users == {file}


def test_files_are_short(trees):
    assert [f"{show(path)}: {n} lines" for path in trees
            if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES] == []


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    total = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= first.end_lineno - first.lineno + 1
    return total


def test_functions_are_short(trees):
    lengths = {f"{show(path)}:{node.lineno} {node.name}": count_lines(node) for path, tree in trees.items()
               for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}
    assert statistics.median(lengths.values()) <= MAX_MEDIAN_LINES


def test_the_reader_of_imports_sees_what_is_hidden():
    """The tests above would be worth little if the walk missed a kind of import."""
    found = find_imports(ast.parse(
        "import torch\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import PIL.Image\n"
        "try:\n    from numpy import array\nexcept ImportError:\n    pass\n"
        "class A:\n    import peft\n    def f(self):\n        from medvqa_cli import runs, data\n"))
    assert [(i.module, i.at_start, i.for_types) for i in found] == [
        ("torch", True, False), ("typing", True, False), ("PIL.Image", False, True), ("numpy", True, False),
        ("peft", True, False), ("medvqa_cli.runs", False, False), ("medvqa_cli.data", False, False)]
    assert own_part("medvqa_cli.runs") == "runs"
    assert own_part("medvqa_cli.__version__") == "__init__"
    assert own_part("medvqa_cli.data.prepared.store") == "data"
    assert own_part("typer.core") is None
