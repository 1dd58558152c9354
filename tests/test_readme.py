"""The README's bash blocks, run in order as a newcomer would run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 240  # two demos and one update with the default delays, on a busy machine

needs_venv = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "firmware-node").exists() and not os.environ.get("CI"),
    reason="the README's commands are not in .venv: run scripts/setup",
)


def bash_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@needs_venv
def test_readme_leads_a_newcomer_to_a_confirmed_image(tmp_path: Path) -> None:
    # A command that fails must not leave the daemons behind, which hold the output open.
    script = "\n".join(
        ("set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || :' EXIT", *bash_blocks())
    )
    environment = {
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
    }
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        # The daemons are in the script's process group, so none outlives the test.
        if _is_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    assert output.count('"result": "ok"') == 1, output
    assert "refused, as it should be" in output
    last = output[output.rindex("refused, as it should be") :]
    assert re.search(r"^bank A +confirmed +00000001", last, re.MULTILINE), last
    assert re.search(r"^bank B +confirmed +00000002 .* running$", last, re.MULTILINE), last


def _is_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
