"""For all tests: how long an example takes says nothing on a busy machine, and programs are compiled in half the time."""

import os

import hypothesis
import processes

hypothesis.settings.register_profile("any_machine", deadline=None)
hypothesis.settings.load_profile("any_machine")

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {processes.FAST_COMPILER}"
