-- The first schema. Times are ISO 8601 UTC text with milliseconds; identifiers sort by age.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE workspaces (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    root       TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE tasks (
    id            TEXT PRIMARY KEY,
    workspace_id  TEXT NOT NULL REFERENCES workspaces (id),
    name          TEXT NOT NULL,
    body          TEXT NOT NULL,
    status        TEXT NOT NULL,
    assignee      TEXT NOT NULL,
    repo          TEXT,
    worktree      TEXT,
    branch        TEXT,
    base          TEXT,
    made_worktree INTEGER NOT NULL DEFAULT 0,
    launch        TEXT NOT NULL DEFAULT '{}',
    created_at    TEXT NOT NULL,
    UNIQUE (workspace_id, name)
) STRICT;

-- Peers. Stored once a pair, the smaller identifier first.
CREATE TABLE links (
    a TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    b TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    PRIMARY KEY (a, b),
    CHECK (a < b)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    task_id       TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    conversation  TEXT NOT NULL,
    state         TEXT NOT NULL,
    waiting_for   TEXT,
    since         TEXT NOT NULL,
    pid           INTEGER,
    holder_socket TEXT,
    transcript    TEXT,
    config_dir    TEXT NOT NULL,
    cli_version   TEXT NOT NULL,
    channel       INTEGER,
    credential    TEXT NOT NULL,
    started_at    TEXT NOT NULL,
    ended_at      TEXT,
    reason        TEXT,
    crashes       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX sessions_of_task ON sessions (task_id, started_at);

-- A task never has two live sessions: the last guard against one conversation in two processes.
CREATE UNIQUE INDEX one_live_session ON sessions (task_id)
    WHERE state IN ('starting', 'idle', 'busy', 'waiting');

CREATE TABLE task_messages (
    id           TEXT PRIMARY KEY,
    task_id      TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    sender       TEXT NOT NULL,
    sender_name  TEXT NOT NULL,
    body         TEXT NOT NULL,
    priority     TEXT NOT NULL,
    reply_to     TEXT,
    key          TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    offered_at   TEXT,
    delivered_at TEXT,
    read_at      TEXT,
    answered_at  TEXT,
    via          TEXT,
    -- 1 after a compaction or /clear took a delivered, unread message out of the context again
    forgotten    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sender, key)
) STRICT;

CREATE INDEX inbox ON task_messages (task_id, created_at);
CREATE INDEX replies ON task_messages (reply_to) WHERE reply_to IS NOT NULL;

CREATE TABLE attempts (
    id           TEXT PRIMARY KEY,
    session_id   TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    conversation TEXT NOT NULL,
    transport    TEXT NOT NULL,
    reminder     INTEGER NOT NULL,
    tool_use_id  TEXT,
    created_at   TEXT NOT NULL,
    ended_at     TEXT,
    outcome      TEXT NOT NULL
) STRICT;

CREATE INDEX open_attempts ON attempts (session_id) WHERE outcome = 'open';
CREATE INDEX attempts_of_conversation ON attempts (conversation);

CREATE TABLE attempt_messages (
    attempt_id TEXT NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    message_id TEXT NOT NULL REFERENCES task_messages (id) ON DELETE CASCADE,
    PRIMARY KEY (attempt_id, message_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_of_message ON attempt_messages (message_id);

-- Facts, in order, append-only. Clients that missed some ask for those after a number.
CREATE TABLE events (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    type         TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    task_id      TEXT,
    payload      TEXT NOT NULL,
    at           TEXT NOT NULL
) STRICT;
