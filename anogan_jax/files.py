"""Writing files atomically, locks between processes, and digests that detect damage."""

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from anogan_jax.errors import UserError

_CLAIMED = ".anogan_jax.json"
_TEMPORARY = ".anogan_jax-"  # how the names of temporary files begin


def given_path(path: Any, what: str) -> Path:
    """Return the path that a Python caller gave, ``~`` expanded; raise UserError if it is empty or no path.

    The message begins with ``what``, the name of the argument.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{what}: {path!r} is a {type(path).__name__}, not a path")
    if not os.fspath(path):  # Path("") would be the working directory
        raise UserError(f"{what}: an empty path; is a variable not set?")
    return Path(os.path.expanduser(path))  # that of Path raises RuntimeError for an unknown user


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` to write to; move it to ``path`` when the block succeeds.

    A process killed inside the block leaves ``path`` unchanged, and a file that ``remove_leftovers`` removes.

    Raises:
      UserError: the file cannot be written (permission, full disk).
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix  # sets the format
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are private to the user
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of killed processes that are in a folder, or below the folders of these names in it.

    Call it under the folder's lock. Other folders in it may have their own locks, so their files stay.
    """
    for where in (folder.glob, *((folder / name).rglob for name in names)):
        for path in where(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock; the operating system releases it when the process ends, however it ends.

    Args:
      folder: the folder, which is made if necessary.
      what: the verb, "training" or "scoring"; each has its own lock.

    Raises:
      UserError: another process holds it, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a folder")
    holder = folder / f".{what}.process"
    lock = filelock.FileLock(folder / f".{what}.lock", blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    except filelock.Timeout as error:
        other = "another process"
        with suppress(OSError):  # the holder may end at this moment
            other = holder.read_text() or other
        raise UserError(f"{folder}: {other} is {what} here; wait for it, or give another folder") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def claim(folder: Path, names: Iterable[str], origin: str) -> None:
    """Register files and folders that are about to be written as this program's; call it under the folder's lock.

    Raises:
      UserError: one exists and was not written by this program.
    """
    owned = set(claimed(folder)["files"])
    for name in names:
        if name not in owned and (folder / name).exists():
            raise UserError(f"{folder / name}: was not written by this program; give another --output")
    with replacing(folder / _CLAIMED) as temporary:
        temporary.write_text(json.dumps({"origin": origin, "files": sorted(owned | set(names))}))


def claimed(folder: Path) -> dict[str, Any]:
    """Return what this program wrote into a folder: {"files": names, "origin": what they are results of, or None}."""
    try:
        known = json.loads((folder / _CLAIMED).read_text())
        return {"origin": known["origin"], "files": [str(name) for name in known["files"]]}
    except FileNotFoundError:
        return {"origin": None, "files": []}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / _CLAIMED}: damaged; give another --output") from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
