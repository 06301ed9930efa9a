"""Published weights: folders of the Hugging Face hub, and the checksums in torchvision's file names.

    folder = download("timm/resnet50.a1_in1k")
    tensors, config = read_safetensors(folder), read_timm_config(folder)

The package huggingface_hub downloads, into the cache that it shares with timm and others; a file gets its name there
when it is complete. Its settings are variables of the environment: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN.
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

    Every file is compared with the checksum that the hub publishes for it, from the cache too; one that differs is
    removed from the cache.

    Args:
      hub_id: owner and name, such as "timm/resnet50.a1_in1k".
      revision: a branch, tag or commit of the repository; None for its main branch.

    Returns:
      The folder in the cache: `config.json`, and `model.safetensors` or its index and shards. Leave it unchanged.

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: `hub_id` is no hub id.
      FileNotFoundError: the hub has no such repository, revision or file, or is out of reach and the cache lacks it.
      OSError: the download failed, or a file does not have its checksum.
    """
    hub = _package()
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", hub_id):
        raise ValueError(
            f"expected the id of a repository on the hub such as 'timm/resnet50.a1_in1k', got {hub_id!r}; {_LOCAL}"
        )
    config = _fetch(hub, hub_id, _CONFIG, revision)
    # The folder's name is the commit: what follows is of the same, whatever is pushed meanwhile.
    commit = config.parent.name
    try:
        _fetch(hub, hub_id, _FILE, commit)
    except _NotInRepository:
        index = _fetch(hub, hub_id, _INDEX, commit)
        for shard in sorted(set(read_index(index).values())):
            _fetch(hub, hub_id, shard, commit)
    return config.parent


def verify_torchvision_name(path: str | os.PathLike[str]) -> bool:
    """Compares a file with the checksum in its name, as torchvision's have it: `resnet50-11ad3fa6.pth`.

    Args:
      path: the file; its name ends in "-", at least 8 hexadecimal digits of the sha256 of its bytes, and its suffix.

    Returns:
      True: the checksum is right. False: the name has none.

    Raises:
      FileNotFoundError: the file is not there.
      FileError: the checksum is another.
    """
    path = existing_file(path)
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if named is None:
        return False
    digest = _sha256(path)
    if not digest.startswith(named[1]):
        raise FileError(
            f"{str(path)!r} is damaged, or not what its name says: expected a sha256 that begins with {named[1]}, got "
            f"{digest[: len(named[1])]}; download it again, or rename the file if {named[1]} is no checksum but, "
            "say, a date"
        )
    return True


class _NotInRepository(FileNotFoundError):
    """The repository is there, the file is not."""


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
        why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else "the hub is out of reach"
        raise FileNotFoundError(
            f"{why}, and the cache has no {unquoted(name)} of {where}; download it while online, {_LOCAL}"
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{where} asks for consent; give it on the hub's page and set HF_TOKEN, {_LOCAL}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"there is no {where}, or it is private; check the id, {_LOCAL}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"there is no {where}; check the revision") from error
    except errors.EntryNotFoundError as error:
        raise _NotInRepository(
            f"{where} has no {unquoted(name)}; it is no model of timm in safetensors, {_LOCAL}"
        ) from error
    # The package lets the errors of its HTTP client through, which have no common base.
    except Exception as error:
        raise OSError(f"the download of {unquoted(name)} of {where} failed: {error}; try again, {_LOCAL}") from error
    _check(path, where)
    return path


def _check(path: Path, where: str) -> None:
    """Compares a file of the cache with its checksum, which is the name of the blob that it links to."""
    if not path.is_symlink():
        # Where the system has no links, the cache keeps no checksums.
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
