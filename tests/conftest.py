"""For all tests: how long an example takes says nothing on a busy machine, and long files begin first."""

import signal

import hypothesis

hypothesis.settings.register_profile("any_machine", deadline=None)
hypothesis.settings.load_profile("any_machine")

# Who is started in the background ignores Ctrl-C, and so would the commands that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_main.py", "test_meshes.py", "test_hosts.py", "test_notebook.py", "test_arena.py", "test_export.py")


def pytest_collection_modifyitems(items):
    # Where two processes test, one that began with a long file last would be waited for.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
