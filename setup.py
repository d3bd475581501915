"""Builds and installs nsnet. The package is Python and one C extension (csrc/, through cffi)."""

import os
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "nsnet" / "__init__.py").read_text(), re.M).group(1)
TOML = ["tomli>=1.1; python_version<'3.11'"]         # what Python has as tomllib since
COMPILING = {"build", "build_ext", "bdist_wheel", "develop", "editable_wheel", "install"}


def check_machine() -> None:
    """Say what is missing in one line, before setuptools and a compiler say it in a page."""
    if not sys.platform.startswith("linux"):
        sys.exit(f"nsnet cannot be built: it needs Linux namespaces, and this is {sys.platform}")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if not shutil.which(compiler):
        sys.exit(f"nsnet cannot be built: no C compiler, {compiler!r} is not in PATH (Debian: apt-get install gcc libc6-dev)")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        sys.exit(f"nsnet cannot be built: no Python headers, {header} is missing (Debian: apt-get install python3-dev)")


class BuildExtension(build_ext):
    def run(self) -> None:
        super().run()
        if not self.inplace and (HERE / ".git").exists():
            # In a checkout `python -m nsnet` imports ./nsnet, which shadows the installed package: give it the
            # extension as well.
            self.copy_extensions_to_source()


if COMPILING & set(sys.argv):
    check_machine()

setup(
    name="nsnet",
    version=VERSION,
    description="Linux user and network namespaces, joined to a bridge, over raw system calls and raw rtnetlink",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=["nsnet", "nsnet.cli", "nsnet.leases", "nsnet.network", "nsnet.requests", "nsnet.rtnl", "nsnet.verbs"],
    install_requires=["cffi>=1.15"],
    extras_require={"toml": TOML, "test": ["pytest>=7", "hypothesis>=6.80", "pyroute2>=0.9", *TOML],
                    "bench": ["matplotlib>=3.5", "pyroute2>=0.9"]},
    cffi_modules=["csrc/build.py:ffibuilder"],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp39"}},
    entry_points={"console_scripts": ["nsnet = nsnet.cli:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Networking",
    ],
    zip_safe=False,
)
