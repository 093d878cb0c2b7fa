"""Saves a step as training does: save_step.py FOLDER STEP BEST_STEP. Says "saved" when it is."""

import ctypes
import sys
from pathlib import Path

from skipjax.checkpoints import Checkpoints
from skipjax.errors import SkipjaxError
from skipjax.silence import silence_failed_writes

sys.path.insert(0, str(Path(__file__).parent.parent))
from faults.states import make_state


def main(folder: str, step: str, best_step: str) -> None:
    silence_failed_writes()  # as main.py does
    checkpoints = Checkpoints(folder)
    try:
        checkpoints.save(make_state(int(step)), {"history": [0.5]}, int(best_step))
        checkpoints.wait()
        shim = ctypes.CDLL(None)
        if hasattr(shim, "faults_note"):
            shim.faults_note(b"saved")
        print("saved", flush=True)
    finally:
        checkpoints.close()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except SkipjaxError as error:
        print(f"skipjax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
