"""The GGUF files that were made of models in Hugging Face's format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.chassis.errors import Failure, Reason
from services.inference.lifecycle import Progress, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.inference.engines.llamacpp_files import ModelFile

# Seconds after which what is wrong with the folder may have been mended.
_RETRY_SECONDS: Final = 30.0


class ConvertedFiles:
    """One file for each model, named by the state of the folder that it was made of. Its methods block.

    Args:
        folder: Where they are kept; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, file: ModelFile, told: Callable[[Progress], None], is_abandoned: Callable[[], bool]) -> Path:
        """The file, made now unless it is there; those of earlier states are deleted. Raises ENGINE_UNAVAILABLE."""
        target = self._folder / f"{file.name}.{file.size}.{file.changed}.gguf"
        if target.exists():
            return target
        # It takes 10 MiB that those who only have GGUF files need not pay.
        from services.inference.engines import gguf_conversion  # noqa: PLC0415 - see above

        def tell(done: int, total: int) -> None:
            told(Progress(Stage.CONVERTING, done, total))

        try:
            self.delete(file.name)
            gguf_conversion.room_for(file.path, target)
            tell(0, file.size)
            gguf_conversion.convert(file.path, target, tell, is_abandoned)
        except OSError as error:
            message = f"model: {file.name} cannot be converted into the folder DATA_DIR: {error.strerror}"
            facts = {"model": file.name}
            raise Failure(Reason.ENGINE_UNAVAILABLE, message, metadata=facts, retry_after=_RETRY_SECONDS) from error
        return target

    def delete(self, name: str) -> None:
        """Deletes what was made of a model."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.rsplit(".", 3)[0] == name:
                    path.unlink(missing_ok=True)
