"""vLLM's own OpenAI server in a process of its own: `vllm_server.py ARGUMENTS OF VLLM`, until its input ends.

Run by the interpreter that vLLM is installed for, not by the suite's.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _stop_when_input_ends() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # However the tests end, no server stays behind: their end closes the pipe.
    threading.Thread(target=_stop_when_input_ends, daemon=True).start()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
