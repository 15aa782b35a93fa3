"""Which classes of images are normal: by ``data.normal``, by ``data.anomalous``, or by their names."""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase

from anogan_jax.config import DataConfig
from anogan_jax.errors import UserError

_NORMAL = ("good", "ok", "normal")
_ANOMALOUS = re.compile(
    "bad|ko|ng|nok|not_(good|ok|normal)|no_good|abnormal|anomal(y|ies|ous)|defect(s|ive)?|fault(y|s)?"
)
_NUMBER = re.compile(r"^\d+[-_. ]+(?=\D)")
_SHOWN = 8


def plain(name: str) -> str:
    """Return a folder's or class's name in lower case, without a number before it, words joined by underscores.

    >>> [plain(name) for name in ("0.Normal", "00_good", "Ground Truth", "17")]
    ['normal', 'good', 'ground_truth', '17']
    """
    return re.sub(r"[ -]+", "_", _NUMBER.sub("", name.strip()).lower())


def is_called_normal(name: str) -> bool:
    """Return whether a class is called good, ok or normal, in any case, with or without a number before it."""
    return plain(name) in _NORMAL


def is_called_anomalous(name: str) -> bool:
    """Return whether a class is called bad, defect or the like, as in ``is_called_normal``.

    >>> [is_called_anomalous(name) for name in ("NG", "1_Defective", "not good", "badge")]
    [True, True, True, False]
    """
    return bool(_ANOMALOUS.fullmatch(plain(name)))


def chosen_normal(classes: Collection[str], data: DataConfig) -> set[str] | None:
    """Return the normal ones of the classes, as ``data.normal`` or ``data.anomalous`` says, or None without either.

    Both are one name or several, ``0,1,4``; case does not matter, nor a number before a name, and ``*`` stands for any
    text.

    Raises:
      UserError: a name matches no class.
    """
    field = "normal" if data.normal is not None else "anomalous"
    given = getattr(data, field)
    if given is None:
        return None
    found: set[str] = set()
    for wanted in (part.strip() for part in str(given).split(",")):
        matching = {name for name in classes if _matches(name, wanted)}
        if not matching:
            raise UserError(f"data.{field}={given}: there is no class {wanted}; the classes are {shown(classes)}")
        found |= matching
    return found if field == "normal" else set(classes) - found


def shown(names: Collection[str]) -> str:
    """Return names in order; if there are many, the first few."""
    ordered = sorted(names, key=lambda name: (len(name), name) if name.isdecimal() else (0, name))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "none") + more


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or any(fnmatchcase(each, wanted.lower()) for each in (name.lower(), plain(name)))
