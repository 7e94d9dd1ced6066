"""Commands that do not outlive who started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from margo_oci.leash import leashed


def test_the_command_is_run_as_it_is() -> None:
    done = subprocess.run(leashed(["/bin/echo", "a b", "$HOME"]), capture_output=True, text=True, check=True)
    assert done.stdout == "a b $HOME\n"


def test_a_command_that_is_not_there_is_told() -> None:
    done = subprocess.run(leashed(["/nowhere/compose"]), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "/nowhere/compose: No such file or directory\n")


def test_what_is_leashed_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "from margo_oci.leash import leashed\n"
        "child = subprocess.Popen(leashed(['/bin/sh', '-c', 'echo $$; exec sleep 60']))\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it is there
        parent.kill()
        assert parent.stdout.read() == ""  # it held this pipe open for as long as it lived
    assert parent.returncode == -signal.SIGKILL
