"""Which collections and aliases exist: one file, replaced as a whole at every change."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict

from deploy.local.qdrant_edge.stubs import collections_pb2

FORMAT = 1


@dataclass(frozen=True)
class CollectionRecord:
    """One collection.

    Attributes:
        folder: the name of its folder below `collections/`; never reused.
        generation: the folder below that holds the data in force. A rebuild writes the next one.
        created: seconds since the epoch.
        config: the request it was created by, updated by UpdateCollection.
    """

    folder: str
    generation: int
    created: float
    config: collections_pb2.CreateCollection


@dataclass(frozen=True)
class Contents:
    """Everything the catalog knows, by name."""

    collections: dict[str, CollectionRecord] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def with_collection(self, name: str, record: CollectionRecord) -> "Contents":
        """With a collection added or replaced."""
        return replace(self, collections={**self.collections, name: record})

    def without_collection(self, name: str) -> "Contents":
        """Without a collection and its aliases."""
        return Contents(
            {key: record for key, record in self.collections.items() if key != name},
            {alias: target for alias, target in self.aliases.items() if target != name},
        )


class Catalog:
    """The contents as they last reached the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.contents = _parse(json.loads(path.read_bytes())) if path.exists() else Contents()

    def save(self, contents: Contents) -> None:
        """Make these the contents; they hold after a crash once this returns."""
        temporary = self._path.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(_document(contents), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.contents = contents


def _document(contents: Contents) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "collections": {
            name: {
                "folder": record.folder,
                "generation": record.generation,
                "created": record.created,
                "config": MessageToDict(record.config, preserving_proto_field_name=True),
            }
            for name, record in contents.collections.items()
        },
        "aliases": contents.aliases,
    }


def _parse(document: dict[str, Any]) -> Contents:
    if document["format"] != FORMAT:
        message = f"the catalog has format {document['format']}, this program reads {FORMAT}"
        raise ValueError(message)
    return Contents(
        {
            name: CollectionRecord(
                entry["folder"],
                entry["generation"],
                entry["created"],
                ParseDict(entry["config"], collections_pb2.CreateCollection()),
            )
            for name, entry in document["collections"].items()
        },
        document["aliases"],
    )
