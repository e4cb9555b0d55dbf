"""Make a PostgreSQL cluster with one database, whole or not at all.

    python initdb.py BINARIES CLUSTER PASSWORD_FILE

It is built beside its place and renamed into it, so that a cluster that is there is always complete. A script of its own, so
that all of it runs as the unprivileged user whom PostgreSQL demands.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

USER = DATABASE = "penstock"


def main(binaries: Path, cluster: Path, password_file: Path) -> None:
    """Create the cluster unless it exists."""
    if cluster.exists():
        print(f"kept {cluster}")
        return
    unfinished = cluster.with_name(f"{cluster.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *(str(binaries / "initdb"), "--pgdata", str(unfinished)),
        *("--username", USER, "--pwfile", str(password_file)),
        # Other users of this machine reach the port as well: a password, and no way in without one.
        *("--auth-host", "scram-sha-256", "--auth-local", "reject"),
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
        *("--data-checksums", "--no-instructions"),
        *("--sync-method", "syncfs" if sys.platform == "linux" else "fsync"),
    ]
    subprocess.run(command, check=True)
    single = [str(binaries / "postgres"), "--single", "-D", str(unfinished), "postgres"]
    subprocess.run(single, input=f"CREATE DATABASE {DATABASE}\n", text=True, check=True)
    unfinished.rename(cluster)
    folder = os.open(cluster.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    print("new cluster made")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
