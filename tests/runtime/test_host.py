"""How the work of others on the machine is noticed."""

import os
import subprocess
import sys
import time

from quantcore.runtime.host import OtherWork

SPIN = """
import time
end = time.monotonic() + 20
print(flush=True)
while time.monotonic() < end:
    pass
"""


def test_the_work_of_another_process_is_noticed() -> None:
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with OtherWork() as found:
            time.sleep(0.4)
        other.kill()
    assert 0.2 < found.share * os.cpu_count() <= os.cpu_count()


def test_a_block_too_short_for_the_clock_tells_nothing() -> None:
    with OtherWork() as found:
        pass
    assert found.share is None
