"""Merges a task's work into a branch, without touching anybody's files that have changes.

Knows git, and nothing of sessions or the database. See docs/finish.md and docs/decisions/008.
"""

from claudedo_worker.merge.job import Job
from claudedo_worker.merge.merging import Changes, Merge, Proposal, changes, merge, propose
from claudedo_worker.merge.source import keep, newest

__all__ = ["Changes", "Job", "Merge", "Proposal", "changes", "keep", "merge", "newest", "propose"]
