"""SHA-256 without OpenSSL, which takes 3 ms and 4 MiB to load for a few names: as the module random has it, from the small C
module that hashlib itself falls back to.
"""

try:
    from _sha2 import sha256            # since Python 3.12
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:                 # a Python built without them
        from hashlib import sha256

__all__ = ["sha256"]
