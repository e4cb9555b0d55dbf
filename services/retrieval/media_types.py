"""The media types that there are readers for, and how a file's name tells them."""

from __future__ import annotations

from typing import Final

PLAIN: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
DOCX: Final = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
CSV: Final = "text/csv"
TSV: Final = "text/tab-separated-values"
JSONL: Final = "application/jsonl"
ZIP: Final = "application/zip"
# What one document can be.
SUPPORTED: Final = (PLAIN, MARKDOWN, HTML, PDF, DOCX, CSV, TSV)
# What holds many.
CONTAINERS: Final = (JSONL, ZIP)
_CODE_PREFIX: Final = "text/x-"

_ALIASES: Final = {
    "text/x-markdown": MARKDOWN,
    "text/md": MARKDOWN,
    "application/xhtml+xml": HTML,
    "application/x-pdf": PDF,
    "application/csv": CSV,
    "text/x-csv": CSV,
    "application/vnd.ms-excel": CSV,
    "application/x-ndjson": JSONL,
    "application/ndjson": JSONL,
    "application/jsonlines": JSONL,
    "application/json-lines": JSONL,
    "application/x-jsonlines": JSONL,
    "application/x-zip-compressed": ZIP,
    "application/x-zip": ZIP,
    "text/javascript": "text/x-javascript",
    "application/javascript": "text/x-javascript",
    "application/x-javascript": "text/x-javascript",
    "application/typescript": "text/x-typescript",
    "application/json": "text/x-json",
    "application/xml": "text/x-xml",
    "text/xml": "text/x-xml",
    "text/css": "text/x-css",
    "application/yaml": "text/x-yaml",
    "application/x-yaml": "text/x-yaml",
    "text/yaml": "text/x-yaml",
    "application/toml": "text/x-toml",
    "application/sql": "text/x-sql",
    "application/x-sh": "text/x-bash",
    "text/x-sh": "text/x-bash",
    "text/x-shellscript": "text/x-bash",
    "application/x-httpd-php": "text/x-php",
    "text/x-python-script": "text/x-python",
    "text/x-c++": "text/x-cpp",
    "text/x-java-source": "text/x-java",
}
# Languages by the endings of their files. Those without a grammar are cut by lines.
_LANGUAGES: Final = {
    "bash": "sh bash zsh ksh",
    "c": "c h",
    "cpp": "cc cpp cxx hpp hh hxx ipp cu cuh",
    "csharp": "cs csx",
    "css": "css scss sass less",
    "clojure": "clj cljs cljc edn",
    "dart": "dart",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "fortran": "f f90 f95 f03",
    "fsharp": "fs fsx",
    "go": "go",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "hcl": "tf tfvars hcl",
    "ini": "ini cfg conf properties env",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "json": "json json5 jsonc ipynb",
    "julia": "jl",
    "kotlin": "kt kts",
    "lisp": "lisp lsp el scm rkt",
    "lua": "lua",
    "makefile": "mk mak",
    "matlab": "m",
    "nim": "nim",
    "ocaml": "ml mli",
    "pascal": "pas pp dpr",
    "perl": "pl pm t",
    "php": "php phtml",
    "powershell": "ps1 psm1 psd1",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "r": "r",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sc sbt",
    "solidity": "sol",
    "sql": "sql",
    "swift": "swift",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "verilog": "v sv vh",
    "vhdl": "vhd vhdl",
    "xml": "xml xsd xsl xslt svg plist",
    "yaml": "yaml yml",
    "zig": "zig",
}
_NAMES: Final = {
    "dockerfile": "dockerfile",
    "containerfile": "dockerfile",
    "makefile": "makefile",
    "gnumakefile": "makefile",
    "cmakelists.txt": "cmake",
    "rakefile": "ruby",
    "gemfile": "ruby",
    "jenkinsfile": "groovy",
}
_ENDINGS: Final = {
    "md": MARKDOWN,
    "markdown": MARKDOWN,
    "mdx": MARKDOWN,
    "html": HTML,
    "htm": HTML,
    "xhtml": HTML,
    "txt": PLAIN,
    "text": PLAIN,
    "rst": PLAIN,
    "log": PLAIN,
    "csv": CSV,
    "tsv": TSV,
    "tab": TSV,
    "jsonl": JSONL,
    "ndjson": JSONL,
} | {ending: _CODE_PREFIX + language for language, endings in _LANGUAGES.items() for ending in endings.split()}


def is_code(media_type: str) -> bool:
    """Whether it is source code, or what is written like it, such as settings."""
    return media_type.startswith(_CODE_PREFIX)


def language_of(media_type: str) -> str:
    """The language of source code."""
    return media_type.removeprefix(_CODE_PREFIX)


def usual(media_type: str) -> str:
    """The one name of a media type that has several, without its parameters."""
    bare = media_type.partition(";")[0].strip().lower()
    return _ALIASES.get(bare, bare)


def is_readable(media_type: str) -> bool:
    """Whether there is a reader for it, given as `usual` names it."""
    return media_type in SUPPORTED or media_type in CONTAINERS or is_code(media_type)


def by_name(name: str) -> str:
    """What the name of a file tells; empty if nothing. PDF, Word and ZIP are told from their content alone."""
    last = (name.partition("?")[0] if "://" in name else name).rpartition("/")[2].rpartition("\\")[2].lower()
    if last in _NAMES:
        return _CODE_PREFIX + _NAMES[last]
    _, dot, ending = last.rpartition(".")
    return _ENDINGS.get(ending, "") if dot else ""
