"""For all tests: how long an example takes says nothing on a busy machine."""

import hypothesis

hypothesis.settings.register_profile("any_machine", deadline=None)
hypothesis.settings.load_profile("any_machine")
