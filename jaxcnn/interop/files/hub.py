"""Downloads weights from the Hugging Face hub, and verifies the checksums in torchvision's file names.

    folder = download("timm/resnet50.a1_in1k")
    tensors, config = read_safetensors(folder), read_timm_config(folder)

The package huggingface_hub downloads into its cache, which timm and others share; downloads are atomic. Environment
variables configure it: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from jaxcnn.interop.files.opened import unquoted
from jaxcnn.interop.files.paths import FileError, existing_file
from jaxcnn.interop.files.safetensors_file import read_index

_CONFIG = "config.json"
_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LOCAL = (
    "or pass local files: a folder with config.json and model.safetensors, a .safetensors, a .pth of torchvision, "
    "or an .h5 of Keras"
)


def download(hub_id: str, *, revision: str | None = None) -> Path:
    """Downloads a model, or finds it in the cache.

    Every file, also from the cache, is compared with the checksum that the hub publishes. A file that does not match is
    removed from the cache.

    Args:
      hub_id: owner and name, such as "timm/resnet50.a1_in1k".
      revision: a branch, tag or commit of the repository; None for its main branch.

    Returns:
      The folder in the cache: `config.json`, and `model.safetensors` or its index and shards. Leave it unchanged.

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: `hub_id` is not a hub id.
      FileNotFoundError: the hub has no such repository, revision or file, or the hub cannot be reached and the file is
        not in the cache.
      OSError: the download failed, or the checksum of a file does not match.
    """
    hub = _package()
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise ValueError(
            f"expected the id of a repository on the hub such as 'timm/resnet50.a1_in1k', got {hub_id!r}; {_LOCAL}"
        )
    config = _fetch(hub, hub_id, _CONFIG, revision)
    # The folder's name is the commit: the other files come from the same commit, even after a push.
    commit = config.parent.name
    try:
        _fetch(hub, hub_id, _FILE, commit)
    except _NotInRepository:
        index = _fetch(hub, hub_id, _INDEX, commit)
        for shard in sorted(set(read_index(index).values())):
            _fetch(hub, hub_id, shard, commit)
    return config.parent


def verify_torchvision_name(path: str | os.PathLike[str]) -> bool:
    """Compares a file with the checksum in its name, as in torchvision's `resnet50-11ad3fa6.pth`.

    Args:
      path: the file; its name ends in "-", at least 8 hexadecimal digits of the sha256 of its bytes, and the extension.

    Returns:
      True if the checksum matches, False if the name has none.

    Raises:
      FileNotFoundError: the file does not exist.
      FileError: the checksum does not match.
    """
    path = existing_file(path)
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if named is None:
        return False
    digest = _sha256(path)
    if not digest.startswith(named[1]):
        raise FileError(
            f"{str(path)!r} is damaged: its checksum does not match its name; expected sha256 {named[1]}..., got "
            f"{digest[: len(named[1])]}...; download it again, or rename the file if {named[1]} is not a checksum but, "
            "for example, a date"
        )
    return True


class _NotInRepository(FileNotFoundError):
    """The repository exists, but not the file."""


def _package() -> Any:
    """Imports huggingface_hub."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"downloads expect huggingface_hub to be installed; pip install 'jaxcnn[weights]', {_LOCAL}"
        ) from error
    return huggingface_hub


def _fetch(hub: Any, hub_id: str, name: str, revision: str | None) -> Path:
    """Downloads one file into the cache and checks it."""
    errors = hub.errors
    where = f"{hub_id!r} on the hub" + (f" at revision {revision!r}" if revision else "")
    try:
        path = Path(hub.hf_hub_download(hub_id, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise FileNotFoundError(
            f"{why}, and the cache has no {unquoted(name)} of {where}; download it while online, {_LOCAL}"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{where} requires consent; give it on the hub's page and set HF_TOKEN, {_LOCAL}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"there is no {where}, or it is private; check the id, {_LOCAL}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"there is no {where}; check the revision") from error
    except errors.EntryNotFoundError as error:
        raise _NotInRepository(
            f"{where} has no {unquoted(name)}; choose a model of timm in safetensors, {_LOCAL}"
        ) from error
    # The package also raises the errors of its HTTP client, which have no common base class.
    except Exception as error:
        raise OSError(f"the download of {unquoted(name)} of {where} failed: {error}; try again, {_LOCAL}") from error
    _check(path, where)
    return path


def _check(path: Path, where: str) -> None:
    """Compares a file of the cache with its checksum: the name of the blob that the file links to."""
    if not path.is_symlink():
        # On systems without links, the cache has no checksums.
        return
    blob = path.parent / os.readlink(path)
    match len(blob.name):
        case 64:
            digest = _sha256(path)
        case 40:
            content = path.read_bytes()
            digest = hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
        case _:
            return
    if digest != blob.name:
        path.unlink()
        blob.unlink()
        raise OSError(
            f"{path.name} of {where} is damaged: expected checksum {blob.name}, got {digest}; it was removed from the "
            "cache: download it again"
        )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
