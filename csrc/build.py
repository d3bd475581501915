"""The cffi builder of `nsnet._native`: API mode, one abi3 module for CPython 3.9 and newer.

It knows where the sources are and how strictly they are compiled; it knows nothing of what they do. `api.h` is given to
cffi as it stands and included by every C file, so the two can never disagree.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = ["child.c", "image.c", "mounts.c", "netlink.c", "spawn.c", "visit.c"]

ffibuilder = FFI()
ffibuilder.cdef((HERE / "api.h").read_text())
ffibuilder.set_source(
    "nsnet._native",
    "#include <stddef.h>\n#include <stdint.h>\n" + '#include "api.h"\n',
    sources=[f"csrc/{name}" for name in SOURCES],       # relative to setup.py, as setuptools wants them
    depends=[f"csrc/{name}" for name in ("api.h", "child.h", "parent.h", "rawsys.h")],
    include_dirs=["csrc"],
    libraries=["pthread"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden",
                        "-fno-stack-protector"],        # a canary would need a C library, which a child does not have
    extra_link_args=["-Wl,-e,nsnet_image"],             # where the kernel starts when a child executes the module
    py_limited_api=True,
)
