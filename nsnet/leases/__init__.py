"""Address leases: which addresses of a network are whose, exact between processes, threads, crashes and reboots.

Knows subnets, ranges, owners and files. Does not know what an owner is (a text, chosen by the caller), whether it lives
(the caller says), or what the kernel has on any link.

Which address an owner gets: the one that it has; else the one that it had last, if nobody has it now; else the lowest
that nobody has or is remembered to have had; else, of those, the one that was released longest ago. So an address is
not given again soon, and who comes back finds its own. At most 4096 released addresses are remembered. A
lease ends with the boot that it was taken in, for so does what had the address; then too it is remembered.

On disk, a promise to other programs, in a directory of one machine (not a share: a lease of another machine looks like
one of another boot) that its owner alone may write:

    10.0.0.5, fd00::5       the lease of that address, in the form of inet_ntop(3); no file, no lease. JSON:
                            {"version": 1, "address": "10.0.0.5/24", "owner": "web", "boot_id": "...", "number": 0}
                            boot_id: of random(4); under another one than today's it is no lease any more. number: the
                            owner's leases count up in the order in which they were taken.
    owners/HASH.HEX         the same file (a hard link): whoever it is whose name has these first 32 hex digits of
                            SHA-256, it has or had the address of these 8 or 32 hex digits
    owners/HASH.HEX.N       it had it; the higher N, the later it was released
    owners/.*               being written; left behind by who was killed, and removed by the next
    boot                    the boot_id under which all leases were last looked through
    lock                    held with flock(2) by whoever changes anything; in it 16 bytes, others after every change

To read needs no lock: each file is whole from the first moment. Another program may remove the file of an address while
it holds the lock, and that is its release. A file in the place of a lease that makes no sense stands for a lease of
nobody knows whom.

A lease is written beside its place, synced, renamed into owners/ (killed here, somebody has a memory of what it never
had), and linked to its place, which link(2) refuses if anything is there: not even who ignores the lock is given what
another has. A release is one rename(2), out of its place and into owners/.
"""

from nsnet.lazy import importer
from nsnet.ranges import parse_ranges, pools

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsnet.leases.book import Lease
    from nsnet.leases.disk import Leases
    from nsnet.leases.memory import MemoryLeases

# A network without leases, or with them in memory, needs no files.
__getattr__ = importer(__name__, {"Lease": "book", "Leases": "disk", "MemoryLeases": "memory"})

__all__ = ["Lease", "Leases", "MemoryLeases", "parse_ranges", "pools"]
