"""`python -m tests.budgets` fails when code outgrows the style guide, or names a place that one machine knows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 50
MAX_IGNORES_PER_1000 = 1.0
MAX_BROAD_PER_1000 = 0.5
LOCAL_IMPORTS_IN = ("gateway/app/", "gateway/app.py", "gateway/cli/")
PACKAGES = ("gateway", "adapters", "sandboxes", "conformance")
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "registry.npmjs" + ".org", "proxy.golang" + ".org", "crates" + ".io")
MACHINE = re.compile(r"(?<![\w.])/(?:work|root)/[a-z.]")


def main() -> int:
    """Print every fault; 1 when there is one."""
    faults = [*sizes(), *ratios(), *places()]
    sys.stdout.write("".join(f"{fault}\n" for fault in faults) + f"{len(faults)} faults\n")
    return 1 if faults else 0


def tracked() -> list[Path]:
    """Files of the project: what git knows or would add; without git, everything that is no build product."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(words, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if not hidden(path.relative_to(ROOT))]
    return [Path(name) for name in sorted(set(listed)) if name and (ROOT / name).is_file()]


def hidden(path: Path) -> bool:
    """Whether this is none of ours, judged by its name."""
    private = path.parts[0].startswith(".") and path.parts[0] not in {".ci", ".github"}
    return private or any(part in {"__pycache__", "node_modules"} for part in path.parts)


def sources() -> Iterator[tuple[Path, str]]:
    """Every Python file with its text."""
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] in {*PACKAGES, "tests"}:
            yield path, (ROOT / path).read_text(encoding="utf-8")


def sizes() -> Iterator[str]:
    """Modules and functions that grew too long, and imports that hide in functions."""
    for path, text in sources():
        if text.count("\n") > MAX_MODULE_LINES:
            yield f"{path}: {text.count(chr(10))} lines; split it (at most {MAX_MODULE_LINES})"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from function(path, node)


def function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """What is wrong with one function."""
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > MAX_FUNCTION_LINES:
        yield f"{path}:{node.lineno}: {node.name} has {length} lines (at most {MAX_FUNCTION_LINES})"
    if str(path).startswith((*LOCAL_IMPORTS_IN, "tests/")):
        return
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            yield f"{path}:{inner.lineno}: import inside {node.name}; imports stand at the top"


def ratios() -> Iterator[str]:
    """Escapes from the rules, per thousand lines of the product."""
    product = [text for path, text in sources() if path.parts[0] in PACKAGES]
    thousands = max(1.0, sum(text.count("\n") for text in product) / 1000)
    ignores = sum(text.count("# type: " + "ignore") for text in product) / thousands
    broad = sum(len(re.findall(r"except Exception\b", text)) for text in product) / thousands
    if ignores > MAX_IGNORES_PER_1000:
        yield f"{ignores:.2f} type ignores per 1,000 lines (at most {MAX_IGNORES_PER_1000})"
    if broad > MAX_BROAD_PER_1000:
        yield f"{broad:.2f} broad excepts per 1,000 lines (at most {MAX_BROAD_PER_1000})"


def places() -> Iterator[str]:
    """Nothing that is committed may depend on one machine or on one package index."""
    for path in tracked():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if any(host in line for host in HOSTS):
                yield f"{path}:{number}: names a package index"
            if MACHINE.search(line):
                yield f"{path}:{number}: names a path of one machine"


if __name__ == "__main__":
    sys.exit(main())
