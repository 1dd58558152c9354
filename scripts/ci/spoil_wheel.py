"""Copies a wheelhouse, with a line added to the project's daemon: another release to install."""

import shutil
import sys
import zipfile
from pathlib import Path

MODULE = "firmware_node/adapters/daemon.py"


def main(wheels: Path, target: Path, line: str) -> None:
    """Everything is copied; in our own wheel ``MODULE`` gets ``line`` at its end."""
    shutil.copytree(wheels, target)
    (path,) = target.glob("firmware_node-*.whl")
    with zipfile.ZipFile(path) as old:
        files = {info: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info, data in files.items():
            if info.filename == MODULE:
                data += f"\n# another release\n{line}\n".encode()
            new.writestr(info, data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
