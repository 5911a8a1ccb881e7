"""What is known of the file systems that stores lie on, and how a folder is shared by a group.

A memory map is for disks of this machine only: a page that cannot be read, of a file truncated on the server, a lost
connection or a FUSE process that has died, is no error but a signal (SIGBUS) that ends the process. So only kinds that
are known to be local, by the mount table, are mapped. FUSE of any kind is not, nor is what has no mount table (macOS).

A store whose own folder is setgid and writable by its group is shared, whatever the umask of the members: all that is
made in it belongs to the group (setgid sees to that) and is writable by it. What others may do follows from the store's
folder: if they may read that, they may read all, and if not, nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedstore.errors import StorageError
from embedstore.storage.protocol import is_stray

# fmt: off
LOCAL_FILE_SYSTEMS = frozenset([  # as the mount table names them: kernel drivers of disks, and memory
    "apfs", "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs", "hfsplus", "iso9660",
    "jfs", "msdos", "nilfs2", "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs",
    "ubifs", "udf", "ufs", "vfat", "xfs", "zfs",
])
NETWORK_FILE_SYSTEMS = frozenset([  # the well-known ones, those of FUSE without "fuse."
    "9p", "afs", "beegfs", "ceph", "cifs", "gcsfuse", "glusterfs", "gpfs", "juicefs", "lustre", "nfs", "nfs4",
    "orangefs", "panfs", "pvfs2", "rclone", "s3fs", "smb3", "smbfs", "sshfs", "virtiofs", "wekafs",
])
# fmt: on
FUSE_PREFIX = "fuse."

_OCTAL = re.compile(r"\\([0-7]{3})")  # how the mount table writes blanks and backslashes
_PERMISSION = "Ask the owner of the folder for permission."
_DISK = "The disk, or the server behind it, failed: see the system's log, then run `embedstore verify --deep`."
_MOUNT = "Is the file system still mounted, and its server up?"
_OPEN_FILES = "Raise the limit of open files (`ulimit -n`), or run fewer things at once."
_ADVICE = {
    errno.ENOSPC: "No space is left, or no inodes (`df -h`, `df -i`): free some with `embedstore gc`, or elsewhere.",
    errno.EDQUOT: "The quota is used up: free some space with `embedstore gc`, or elsewhere.",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "It is mounted read-only.",
    errno.EIO: _DISK,
    errno.ESTALE: _MOUNT,
    errno.ENOTCONN: _MOUNT,
    errno.ENODEV: _MOUNT,
    errno.ENXIO: _MOUNT,
    errno.EHOSTDOWN: _MOUNT,
    errno.EHOSTUNREACH: _MOUNT,
    errno.ETIMEDOUT: _MOUNT,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
}


def advice_for(error: OSError) -> str:
    """Return what to do about an error of the operating system, a sentence; empty where the error says it all."""
    return _ADVICE.get(error.errno or 0, "")


def refused(action: str, place: str, error: OSError) -> StorageError:
    """Return the error for something that the operating system refused to do.

    Parameters
    ----------
    action : what was to be done: "write".
    place : what it was to be done to.
    error : of the operating system.
    """
    return StorageError(f"Cannot {action} {place}: {error.strerror or error}. {advice_for(error)}".rstrip())


def is_known_local(folder: Path) -> bool:
    """Tell whether a folder lies on a disk of this machine, or in its memory; False where that cannot be told."""
    try:
        where = os.path.realpath(folder)  # first: it may be what makes the automounter mount it
        mounted = list(mounts_above(mount_table(), where))
    except OSError:
        return False
    return bool(mounted) and mounted[-1][1] in LOCAL_FILE_SYSTEMS


def mount_table() -> str:
    """Return the mounts that this process sees, as `/proc/self/mountinfo` has them; OSError where there is none."""
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")


def file_system_kind(table: str, where: str) -> str:
    """Return the kind of file system that a path lies on, those of FUSE without "fuse.".

    Parameters
    ----------
    table : as in `/proc/self/mountinfo` (proc(5)).
    where : absolute, without symbolic links.
    """
    mounted = list(mounts_above(table, where))
    return mounted[-1][1].removeprefix(FUSE_PREFIX) if mounted else ""


def mounts_above(table: str, where: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what is mounted at a path and above it, outermost first: place, kind of file system, options.

    Parameters
    ----------
    table, where : as for `file_system_kind`.
    """
    found = []
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, of_file_system = before.split(" "), after.split(" ")
        mount_point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if where == mount_point or where.startswith(mount_point.rstrip("/") + "/"):
            options = fields[5].split(",") + of_file_system[2].split(",")
            found.append((mount_point, of_file_system[0], options))
    yield from sorted(found, key=lambda mount: len(mount[0]))  # of several at one place the last one counts


_GROUP_FOLDER = stat.S_ISGID | stat.S_IRWXU | stat.S_IRWXG
_GROUP_FILE = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP


@dataclass(frozen=True, slots=True)
class Modes:
    """Permissions of what is made in a shared store."""

    folder: int
    file: int

    @classmethod
    def of(cls, mode: int) -> Modes:
        """Derive them from those of the store's folder."""
        others = mode & (stat.S_IROTH | stat.S_IXOTH)
        return cls(_GROUP_FOLDER | others, _GROUP_FILE | (others & stat.S_IROTH))


def modes_of(store: os.stat_result) -> Modes | None:
    """Return the permissions that things in a store get, by those of its folder; None where the umask decides."""
    mode = store.st_mode
    return Modes.of(mode) if mode & stat.S_ISGID and mode & stat.S_IWGRP else None


def share(store: Path) -> None:
    """Make a folder one that its group shares, with all that is in it; it is made where there is none.

    Others keep, on the store's folder, the permissions that it has, or that the umask leaves to a new one. What
    symbolic links in it lead to, what is neither file nor folder, and what the system put there stay as they are.

    Raises
    ------
    StorageError : something in it belongs to somebody else and is not shared, or the folder cannot be made.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        root = store.resolve()  # it may be reached by a link itself
        modes = Modes.of(root.stat().st_mode)
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not is_stray(name)]
            _set(Path(folder), modes)
            for file in files:
                if not is_stray(file):
                    _set(Path(folder, file), modes)
    except OSError as error:
        raise StorageError(
            f"Cannot share {error.filename or store} with its group: {error.strerror}. "
            "Only the owner of a file can; ask them to run this command, too."
        ) from error


def _set(path: Path, modes: Modes) -> None:
    """Give a file or folder its permissions; through an open one, since a name may have become a link meanwhile."""
    found = path.lstat().st_mode
    wanted = modes.folder if stat.S_ISDIR(found) else modes.file
    if not (stat.S_ISDIR(found) or stat.S_ISREG(found)) or stat.S_IMODE(found) == wanted:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        if path.lstat().st_uid != os.geteuid():
            raise
        path.chmod(wanted)  # our own, and closed to ourselves
        return
    try:
        os.fchmod(descriptor, wanted)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)
