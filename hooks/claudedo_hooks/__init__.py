"""What runs beside `claude`: holder, bridge and shim, each a single standard-library file.

They are run by path from a copy in the state directory (`python3 -I -S`), so they import nothing of
ours, not even each other, and an upgrade of the package never reaches a running session.
"""
