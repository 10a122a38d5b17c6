"""The worker: the daemon that keeps the mailbox and looks after the sessions.

It may die at any moment without a session noticing. It knows the contract package `claudedo`;
nothing but the command that starts it knows the worker.
"""
