"""Compiles the protos into the typed stubs of the `penstock` wheel and the gateway's descriptor set.

Two inputs come out of installed packages instead of a schema registry: google/api and google/rpc from
googleapis-common-protos, and buf/validate/validate.proto as the descriptor inside protovalidate.

The stubs are generated from descriptors whose import of buf/validate/validate.proto is cut. The rules themselves stay in
the field options, so servers enforce them, while a client installs neither protovalidate nor a second copy of its stubs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = PROTOS / "python"
SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
SCRIPTS = Path(sys.executable).parent
GATEWAY_DESCRIPTOR = ROOT / "services" / "gateway" / "api.binpb"
IMAGE = ROOT / "build" / "image.binpb"
# The contract as of the last release: what `buf breaking` compares with. `make protos-release` moves it.
RELEASED = PROTOS / "released.binpb"

# Stubs work with the protobuf and grpcio they are generated for and with all newer ones, so this is the oldest we support:
# protobuf 6.31 and grpcio 1.76.
PROTOC = "grpcio-tools==1.76.0"

VALIDATE = "buf/validate/validate.proto"
# buf's image format marks files that were only imported by field 8042 of FileDescriptorProto, holding is_import = true.
IS_IMPORT = bytes([0xD2, 0xF6, 0x03, 0x02, 0x08, 0x01])


def protoc(*arguments: str) -> None:
    """Runs the pinned protoc, in an environment of its own: it needs an older protobuf than the services."""
    tool = [os.environ.get("UV", "uv"), "run", "--quiet", "--no-project", "--isolated", "--python", sys.executable]
    command = [*tool, "--with", PROTOC, "python", "-m", "grpc_tools.protoc", *arguments]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stderr)


def compile_all(sources: list[str], scratch: Path) -> descriptor_pb2.FileDescriptorSet:
    """Compiles the sources with comments and all their imports."""
    validate = scratch / "validate.binpb"
    known = descriptor_pb2.FileDescriptorSet()
    known.file.append(descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary()))
    wanted = {dependency for file in known.file for dependency in file.dependency}
    google = scratch / "google.binpb"
    protoc(f"-I{SITE_PACKAGES}", "--include_imports", f"--descriptor_set_out={google}", *sorted(wanted))
    merged = descriptor_pb2.FileDescriptorSet.FromString(google.read_bytes())
    merged.file.extend(known.file)
    validate.write_bytes(merged.SerializeToString())
    out = scratch / "all.binpb"
    protoc(
        f"-I{PROTOS}",
        f"-I{SITE_PACKAGES}",
        f"--descriptor_set_in={validate}",
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={out}",
        *sources,
    )
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def write_image(files: descriptor_pb2.FileDescriptorSet) -> None:
    """Writes the image that `buf lint` and `buf breaking` read."""
    image = b""
    for file in files.file:
        own = file.name.startswith("penstock/")
        body = file.SerializeToString() + (b"" if own else IS_IMPORT)
        image += b"\x0a" + varint(len(body)) + body
    IMAGE.parent.mkdir(exist_ok=True)
    IMAGE.write_bytes(image)


def varint(value: int) -> bytes:
    """Encodes a length as protobuf does."""
    encoded = bytearray()
    while value >= 1 << 7:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def without_comments(image: bytes) -> bytes:
    """An image without source locations, which `buf breaking` does not need; its marks of imports stay as unknown fields."""
    files = descriptor_pb2.FileDescriptorSet.FromString(image)
    for file in files.file:
        file.ClearField("source_code_info")
    return files.SerializeToString(deterministic=True)


def without_validate(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """Cuts the import of validate.proto; the rules stay as options that whoever knows their numbers can read."""
    cut = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        if file.name == VALIDATE:
            continue
        kept = cut.file.add()
        kept.CopyFrom(file)
        if VALIDATE in kept.dependency:
            kept.dependency.remove(VALIDATE)
    return cut


def write_stubs(files: descriptor_pb2.FileDescriptorSet, sources: list[str], scratch: Path) -> None:
    """Writes messages, services and their types, and forgets stubs whose proto is gone."""
    cut = scratch / "cut.binpb"
    cut.write_bytes(without_validate(files).SerializeToString())
    out = scratch / "stubs"
    out.mkdir()
    protoc(
        f"--descriptor_set_in={cut}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out={out}",
        f"--mypy_grpc_out={out}",
        f"--plugin=protoc-gen-mypy={SCRIPTS / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={SCRIPTS / 'protoc-gen-mypy_grpc'}",
        *sources,
    )
    for stale in [*STUBS.glob("penstock/*/v1/*_pb2*.py*")]:
        stale.unlink()
    for stub in sorted(out.rglob("*_pb2*.py*")):
        if stub.name.endswith("_pb2_grpc.py") and "service" not in stub.name:
            continue
        if stub.name.endswith("_pb2_grpc.pyi") and "service" not in stub.name:
            continue
        target = STUBS / stub.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stub, target)
    for package in {path.parent for path in STUBS.glob("penstock/*/v1/*_pb2.py")}:
        for folder in (package, package.parent):
            (folder / "__init__.py").touch()


def main() -> None:
    """Compiles everything; with `--release` also makes this contract the released one."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("penstock/**/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        files = compile_all(sources, scratch)
        write_image(files)
        write_stubs(files, sources, scratch)
    described = without_validate(files)
    GATEWAY_DESCRIPTOR.parent.mkdir(parents=True, exist_ok=True)
    GATEWAY_DESCRIPTOR.write_bytes(described.SerializeToString(deterministic=True))
    if "--release" in sys.argv[1:]:
        RELEASED.write_bytes(without_comments(IMAGE.read_bytes()))


if __name__ == "__main__":
    main()
