"""What a run of one-shot tasks leaves for people and for build servers.

Each module takes the elements of `queue run --json` (`protocol.one_shot_json`) and gives a text or
files. Standard library only.
"""
