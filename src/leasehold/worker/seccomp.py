"""A system call filter in plain BPF: what the worker never needs again, the kernel refuses.

Spec: docs/spec/worker.md, W-6. Numbers: the kernel's syscall_64.tbl and asm-generic/unistd.h;
instructions: linux/filter.h. Refuses to know why a call would be made.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_TSYNC: Final = 1  # for threads that libraries have already started
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL: Final = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
_X32: Final = 0x40000000  # the x32 table's calls would slip past numbers of the other
_MAKING: Final = os.O_CREAT | os.O_TRUNC | 0o20000000  # the last is of O_TMPFILE alone
_WRITING: Final = os.O_WRONLY | os.O_RDWR | _MAKING
_CLONE_THREAD: Final = 0x10000
_AF_UNIX: Final = 1

ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_SECCOMP: Final = (317, 277)

# Name: number on x86_64, on aarch64; -1 where there is none.
_DENIED: Final = {
    # another program, another process, a look into one
    **{"execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438)},
    **{"pidfd_send_signal": (424, 424), "process_madvise": (440, 440), "kcmp": (312, 272)},
    # another file system or namespace
    **{"mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51)},
    **{"open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433)},
    **{"mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268)},
    # parts of the kernel that are large, and around this filter
    **{"bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282)},
    **{"io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219)},
    **{"init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106)},
    **{"kexec_load": (246, 104), "kexec_file_load": (320, 294), "personality": (135, 92)},
    **{"modify_ldt": (154, -1), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264)},
    # changes to files
    **{"creat": (85, -1), "mkdir": (83, -1), "mkdirat": (258, 34), "mknod": (133, -1)},
    **{"mknodat": (259, 33), "unlink": (87, -1), "unlinkat": (263, 35), "rmdir": (84, -1)},
    **{"rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, -1)},
    **{"linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36), "chmod": (90, -1)},
    **{"fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1)},
    **{"fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "truncate": (76, 45)},
    **{"ftruncate": (77, 46), "fallocate": (285, 47), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "memfd_create": (319, 279), "memfd_secret": (447, 447)},
    # memory and queues shared with strangers
    **{"shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186)},
    **{"mq_open": (240, 180)},
}
# Their arguments lie behind a pointer that BPF cannot follow; the C library then uses the old call.
_ABSENT: Final = {"clone3": (435, 435), "openat2": (437, 437)}
# Allowed where the 32 low bits of one argument pass: call, argument, test, operand, allowed if true.
_GUARDED: Final = (
    ((41, 198), 0, _EQUAL, _AF_UNIX, True),  # socket: only to this machine
    ((56, 220), 0, _ANY_BIT, _CLONE_THREAD, True),  # clone: only threads
    ((2, -1), 1, _ANY_BIT, _WRITING, False),  # open: only to read
    ((257, 56), 2, _ANY_BIT, _WRITING, False),  # openat: only to read
)
_TGKILL: Final = (234, 131)


def program(machine: str, process_id: int, *, opens_to_write: bool = False) -> bytes:
    """The filter as an array of struct sock_filter, for a process with that id.

    With `opens_to_write` files that exist may be opened for that: Landlock says which (W-31). Raises
    KeyError on a machine that it has no numbers for.
    """
    column, architecture = ARCHITECTURES[machine]
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, refuse),
    ]
    for table, verdict in ((_DENIED, refuse), (_ABSENT, absent)):
        for numbers in table.values():
            if numbers[column] >= 0:
                code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, verdict)]
    own_threads = (_TGKILL, 0, _EQUAL, process_id, True)
    for numbers, argument, test, operand, wanted in (*_GUARDED, own_threads):
        if operand == _WRITING and opens_to_write:
            operand = _MAKING
        if numbers[column] >= 0:
            verdicts = (_ALLOW, refuse) if wanted else (refuse, _ALLOW)
            code += [
                (_EQUAL, 0, 4, numbers[column]),
                (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),
                (test, 0, 1, operand),
                *((_RETURN, 0, 0, verdict) for verdict in verdicts),
            ]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(libc: ctypes.CDLL, *, opens_to_write: bool = False) -> None:
    """Put the filter on every thread, for good. Needs no_new_privs. Raises OSError."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, "no system call numbers for this machine")
    code = program(machine, os.getpid(), opens_to_write=opens_to_write)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    number = _SECCOMP[ARCHITECTURES[machine][0]]
    result = libc.syscall(number, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, header)
    if result != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
