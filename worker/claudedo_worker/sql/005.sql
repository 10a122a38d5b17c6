-- One-shot tasks: what is wanted beside the prompt, how far it is, and what came of it.

CREATE TABLE one_shots (
    -- the order in which they were added
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id    TEXT NOT NULL UNIQUE REFERENCES tasks (id) ON DELETE CASCADE,
    needs      TEXT NOT NULL DEFAULT '[]',
    -- what its branch begins at, where it needs no other task
    base       TEXT,
    "check"    TEXT,
    timeout    REAL,
    budget     REAL,
    retries    INTEGER NOT NULL,
    priority   INTEGER NOT NULL,
    status     TEXT NOT NULL,
    rules      TEXT NOT NULL DEFAULT '{}',
    attempts   INTEGER NOT NULL DEFAULT 0,
    not_before TEXT,
    started_at TEXT,
    ended_at   TEXT,
    spent      REAL NOT NULL DEFAULT 0,
    seconds    REAL NOT NULL DEFAULT 0,
    checking   INTEGER NOT NULL DEFAULT 0,
    verdict    TEXT
) STRICT;

ALTER TABLE sessions ADD COLUMN one_shot INTEGER NOT NULL DEFAULT 0;
