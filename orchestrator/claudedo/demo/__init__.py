"""A world in which the real Claude Code CLI runs without an account.

Holds the scripted model, the throw-away home and the repository that `claudedo demo` shows
itself in; the tests run the real CLI in the same world. Nothing else depends on this package.
"""
