"""What a child executes must stand alone: no symbol of the C library, nothing that a dynamic linker would have to fill in."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nsnet import clone

CSRC = Path(__file__).resolve().parents[2] / "csrc"
FLAGS = ["-std=gnu11", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector"]
COMPILERS = [name for name in ("gcc", "aarch64-linux-gnu-gcc", "riscv64-linux-gnu-gcc") if shutil.which(name)]


@pytest.fixture(params=[(compiler, level) for compiler in COMPILERS for level in ("-O0", "-O2", "-O3")], ids=" ".join)
def objects(request, tmp_path):
    """child.o and image.o, and the tools to look at them."""
    compiler, level = request.param
    made = []
    for name in ("child", "image"):
        made.append(str(tmp_path / f"{name}.o"))
        subprocess.run([compiler, *FLAGS, level, "-c", str(CSRC / f"{name}.c"), "-o", made[-1]], check=True)
    return made, compiler[:-3]


def output_of(*argv):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout


def test_the_child_calls_nothing_outside_itself(objects):
    files, prefix = objects
    outside = {name: {line.split()[-1] for line in output_of(f"{prefix}nm", "-u", name).splitlines()} for name in files}
    child, image = (outside[name] for name in files)
    assert child == set() and image <= {"child_exit", "child_of_image", "child_receive", "child_unpack"}


def test_nothing_in_it_needs_relocating(objects):
    """An address in the global offset table, or in initialised data, is what the linker would have put there."""
    files, prefix = objects
    for name in files:
        text = output_of(f"{prefix}readelf", "-rW", name)
        assert not re.search(r"R_\w*GOT\w*", text), name
        sections = re.findall(r"Relocation section '\.rela(\.[\w.]+)'", text)
        assert sections and not [section for section in sections if section.startswith((".data", ".bss", ".tdata"))], sections


def test_the_extension_begins_where_the_child_does():
    if not clone.image.fileno() >= 0:
        pytest.fail("no image on this architecture: the launch copies its parent")
    header = output_of("readelf", "-hW", clone.EXTENSION)
    assert re.search(r"Type:\s+DYN", header) and not re.search(r"Entry point address:\s+0x0$", header, re.M)
    assert "INTERP" not in output_of("readelf", "-lW", clone.EXTENSION)
    assert os.access(clone.EXTENSION, os.X_OK)
