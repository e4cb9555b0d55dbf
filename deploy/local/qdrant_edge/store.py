"""All collections and aliases of one data folder."""

import fcntl
import logging
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO

from deploy.local.qdrant_edge import refusals
from deploy.local.qdrant_edge.catalog import Catalog, CollectionRecord, Contents
from deploy.local.qdrant_edge.collection import Collection
from deploy.local.qdrant_edge.refusals import Refusal, wrong_input
from deploy.local.qdrant_edge.stubs import collections_pb2

log = logging.getLogger(__name__)

MAX_NAME_LENGTH = 255
_FORBIDDEN = frozenset('<>:"/\\|?*\0\x1f')


class Store:
    """The collections; a shard is opened when it is first used.

    Args:
        data_dir: made when it does not exist. One process at a time may use it.

    Raises:
        OSError: another process uses the folder, or it cannot be written.
    """

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "collections"
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(data_dir / "lock")
        self._catalog = Catalog(data_dir / "catalog.json")
        self._open: dict[str, Collection] = {}
        self._remove_leftovers()

    @property
    def contents(self) -> Contents:
        """All names, as the disk holds them."""
        return self._catalog.contents

    def collection(self, name: str) -> Collection:
        """Find a collection by its name or alias. Raises Refusal (NOT_FOUND)."""
        name = self.contents.aliases.get(name, name)
        record = self.contents.collections.get(name)
        if record is None:
            raise refusals.collection_missing(name)
        if name not in self._open:
            self._open[name] = Collection(record, self._root / record.folder)
        return self._open[name]

    def exists(self, name: str) -> bool:
        """Whether a collection or an alias has this name."""
        return name in self.contents.collections or name in self.contents.aliases

    def opened(self) -> Iterable[tuple[str, Collection]]:
        """The collections in use since the start, by name."""
        return list(self._open.items())

    def holds(self, name: str, collection: Collection) -> bool:
        """Whether this collection is still there, and not another one of its name."""
        return self._open.get(name) is collection

    def create(self, config: collections_pb2.CreateCollection) -> None:
        """Raises Refusal when the name is taken or unfit, or the configuration is wrong."""
        name = config.collection_name
        _check_name(name)
        if name in self.contents.collections:
            raise refusals.collection_exists(name)
        if name in self.contents.aliases:
            raise wrong_input(f"Can't create collection with name {name}. Alias with the same name already exists")
        record = CollectionRecord(uuid.uuid4().hex, 0, time.time(), config)
        collection = Collection(record, self._root / record.folder)
        # The shard is made first: a collection in the catalog can always be opened.
        collection.shard.create()
        self._catalog.save(self.contents.with_collection(name, record))
        self._open[name] = collection

    def save_record(self, name: str, record: CollectionRecord) -> None:
        """Make a changed record hold, also after a crash."""
        self._catalog.save(self.contents.with_collection(name, record))

    def update_metadata(self, name: str, changes: collections_pb2.UpdateCollection) -> None:
        """Merge metadata of a collection; a null value takes a key away."""
        collection = self.collection(name)
        config = collections_pb2.CreateCollection()
        config.CopyFrom(collection.record.config)
        for key, value in changes.metadata.items():
            if value.HasField("null_value"):
                config.metadata.pop(key, None)
            else:
                config.metadata[key].CopyFrom(value)
        record = replace(collection.record, config=config)
        self.save_record(self.contents.aliases.get(name, name), record)
        collection.record = record

    async def delete(self, name: str) -> bool:
        """Delete a collection and its aliases; False when there is none of this name."""
        record = self.contents.collections.get(name)
        if record is None:
            return False
        self._catalog.save(self.contents.without_collection(name))
        collection = self._open.pop(name, None)
        if collection is not None:
            async with collection.quiet():
                collection.shard.close()
        shutil.rmtree(self._root / record.folder, ignore_errors=True)
        return True

    def change_aliases(self, actions: Iterable[collections_pb2.AliasOperations]) -> None:
        """Make all changes or, when one is refused, none."""
        aliases = dict(self.contents.aliases)
        for action in actions:
            self._change_alias(aliases, action)
        self._catalog.save(replace(self.contents, aliases=aliases))

    def _change_alias(self, aliases: dict[str, str], action: collections_pb2.AliasOperations) -> None:
        match action.WhichOneof("action"):
            case "create_alias":
                name, target = action.create_alias.alias_name, action.create_alias.collection_name
                if target not in self.contents.collections:
                    raise refusals.collection_missing(target)
                _check_name(name)
                if name in self.contents.collections:
                    raise refusals.collection_exists(name)
                aliases[name] = target
            case "rename_alias":
                old, new = action.rename_alias.old_alias_name, action.rename_alias.new_alias_name
                if old not in aliases:
                    raise refusals.alias_missing(old)
                _check_name(new)
                if new in self.contents.collections:
                    raise refusals.collection_exists(new)
                aliases[new] = aliases.pop(old)
            case "delete_alias":
                aliases.pop(action.delete_alias.alias_name, None)
            case _:
                raise wrong_input("an alias action is empty")

    def close(self) -> None:
        """Bring all data to disk."""
        for name, collection in self._open.items():
            try:
                collection.shard.close()
            except Refusal:
                log.exception("collection %s could not be closed", name)
        self._open.clear()
        self._lock.close()

    def _remove_leftovers(self) -> None:
        """Remove what a crash left behind: folders that the catalog does not know."""
        known = {record.folder: str(record.generation) for record in self.contents.collections.values()}
        for folder in self._root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder)
                continue
            for generation in folder.iterdir():
                if generation.name != known[folder.name]:
                    shutil.rmtree(generation)


def _locked(path: Path) -> IO[bytes]:
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError(f"another process uses the data folder {path.parent}: stop it, or set DATA_DIR") from None
    return file


def _check_name(name: str) -> None:
    if not name or len(name) > MAX_NAME_LENGTH:
        raise wrong_input(f"a name must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    if forbidden := _FORBIDDEN.intersection(name):
        raise wrong_input(f"the name {name!r} contains {sorted(forbidden)}, which is not allowed")
