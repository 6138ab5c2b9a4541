"""Counts of the package's structure, for CONTRIBUTING.md's limits: `python scripts/count_structure.py [CHECKOUT]`."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

LONGEST_FUNCTION = 40
MOST_PARAMETERS = 7
MOST_MODULES = 12
MOST_FIELDS = 10
PUBLIC = ("ftkit.api", "ftkit.testing", "ftkit.errors", "ftkit.cli.main")
"""What tests may import, beside `ftkit` itself, without importing its inside."""
PATH = re.compile(r"ftkit(\.\w+)+")
CODE = re.compile(r"(?:^|[;\n])\s*(?:from|import) (ftkit(?:\.\w+)+)")


def main() -> None:
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    files = sorted((checkout / "ftkit").rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    functions = [(path, f) for path, tree in trees.items() for f in functions_of(tree)]
    long = [place(path, f) for path, f in functions if length(f) > LONGEST_FUNCTION]
    wide = [place(path, f) for path, f in functions if parameters(f) > MOST_PARAMETERS and "commands" not in path.parts]
    loose = [path.name for path in (checkout / "ftkit").glob("*.py")]
    crowded = {str(folder.relative_to(checkout)): n for folder, n in modules(files).items() if n > MOST_MODULES}
    mutable = {
        f"{path.relative_to(checkout)}: {c.name}": n
        for path, tree in trees.items()
        for c in ast.walk(tree)
        if isinstance(c, ast.ClassDef) and (n := mutable_fields(c)) > MOST_FIELDS
    }
    inner = inside_of_tests(checkout)
    outside_unit = [name for name in inner if not name.startswith("unit/")]
    several = [name for name, rooms in inner.items() if name.startswith("unit/") and len(rooms) > 1]
    units = len(list((checkout / "tests" / "unit").glob("test_*.py")))
    show("files", len(files), f"median {median(lines.values()):g} lines, {sum(lines.values()):,} in all")
    show("functions", len(functions), f"median {median(length(f) for _, f in functions):g} lines")
    show("modules beside the packages", len(loose), " ".join(sorted(loose)))
    show("packages of more than 12 modules", len(crowded), str(crowded or ""))
    show("basenames twice", len(twice(files)), " ".join(twice(files)))
    show("files over 300 lines", sum(n > 300 for n in lines.values()), "")
    show(f"functions over {LONGEST_FUNCTION} lines", len(long), " ".join(long))
    show(f"functions of more than {MOST_PARAMETERS} parameters", len(wide), " ".join(wide))
    show(f"classes of more than {MOST_FIELDS} mutable public fields", len(mutable), str(mutable or ""))
    show("files of the tests outside unit/ that import the inside", len(outside_unit), " ".join(outside_unit))
    show("unit tests that import several packages of ftkit", len(several), f"of {units}")


def show(what: str, number: int, more: str) -> None:
    sys.stdout.write(f"{number:6}  {what}" + (f": {more}" if more else "") + "\n")


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, less the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([name for name in names if name.arg not in ("self", "cls")])


def modules(files: list[Path]) -> dict[Path, int]:
    found: dict[Path, int] = defaultdict(int)
    for path in files:
        found[path.parent] += path.name != "__init__.py"
    return found


def twice(files: list[Path]) -> list[str]:
    """Names of modules that are in two packages; commands are named as people type them."""
    names = Counter(path.stem for path in files if path.stem != "__init__" and "commands" not in path.parts)
    return sorted(name for name, n in names.items() if n > 1)


def mutable_fields(node: ast.ClassDef) -> int:
    """Annotated public fields of a dataclass that isn't frozen."""
    decorators = [ast.unparse(d) for d in node.decorator_list]
    if not any("dataclass" in d for d in decorators) or any("frozen=True" in d for d in decorators):
        return 0
    return sum(
        isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name) and not f.target.id.startswith("_")
        for f in node.body
    )


def inside_of_tests(checkout: Path) -> dict[str, set[str]]:
    """The packages of ftkit that each file of the tests imports or names in a string, by its path below `tests/`."""
    tests = checkout / "tests"
    files = [path for path in sorted(tests.rglob("*.py")) if "fixtures" not in path.parts]
    known = {path.stem for path in (checkout / "ftkit").iterdir()}
    found = {str(path.relative_to(tests)): inside(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    return {name: rooms & known for name, rooms in found.items() if rooms & known}


def inside(tree: ast.AST) -> set[str]:
    """Packages of ftkit that a file names beside the public modules; also in strings, as code or for `setattr`."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # Of `from ftkit.cli import main`, the module is `ftkit.cli.main`.
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names += below if set(below) <= set(PUBLIC) else [node.module]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names += [node.value] if PATH.fullmatch(node.value) else CODE.findall(node.value)
    return {name.split(".")[1] for name in names if name.startswith("ftkit.") and not is_public(name)}


def is_public(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in PUBLIC if module != "ftkit.testing") or (
        name == "ftkit.testing"
    )


def place(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return f"{path.name}:{function.name}"


if __name__ == "__main__":
    main()
