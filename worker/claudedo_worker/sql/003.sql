-- Asks; what a task's own files say about its worktree; ports; what a session costs and what stopped it.

CREATE TABLE asks (
    id         TEXT PRIMARY KEY,
    task_id    TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    session_id TEXT REFERENCES sessions (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    title      TEXT NOT NULL,
    body       TEXT NOT NULL,
    tool       TEXT,
    input      TEXT NOT NULL DEFAULT '{}',
    suggestions TEXT NOT NULL DEFAULT '[]',
    agent      TEXT,
    -- which held call of which bridge it is, so that one sent again by the bridge is known again
    call       TEXT,
    -- which tool call it is about, so that the transcript tells who decided
    tool_use_id TEXT,
    opened_at  TEXT NOT NULL,
    closed_at  TEXT,
    outcome    TEXT,
    decided_by TEXT,
    -- what was decided here, stored before it is handed to the session
    decision   TEXT,
    UNIQUE (session_id, call)
) STRICT;

CREATE INDEX open_asks ON asks (task_id) WHERE closed_at IS NULL;

ALTER TABLE tasks ADD COLUMN recipe TEXT NOT NULL DEFAULT '{}';
-- the first of ten ports that no other task is given
ALTER TABLE tasks ADD COLUMN port INTEGER;
CREATE UNIQUE INDEX one_port ON tasks (port) WHERE port IS NOT NULL;
-- the branch that a task's branch started from, and is to be merged into
ALTER TABLE tasks ADD COLUMN base_branch TEXT;

ALTER TABLE sessions ADD COLUMN usage TEXT;

-- What each conversation of a task used, so that a task's sum outlives /clear and a restart.
CREATE TABLE usages (
    task_id      TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    conversation TEXT NOT NULL,
    usage        TEXT NOT NULL,
    PRIMARY KEY (task_id, conversation)
) STRICT, WITHOUT ROWID;

-- What each request cost, by the CLI's own telemetry: counted once, however often it is reported.
CREATE TABLE prices (
    seq          INTEGER PRIMARY KEY,
    task_id      TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    conversation TEXT NOT NULL,
    request      TEXT NOT NULL,
    dollars      REAL NOT NULL,
    UNIQUE (task_id, conversation, request)
) STRICT;

ALTER TABLE sessions ADD COLUMN failure TEXT;
-- the transcript that a fork begins with, until it has one of its own
ALTER TABLE sessions ADD COLUMN fork_of TEXT;

-- What was said, by its words. What was said never changes; words of messages that
-- are gone are removed with their task.
CREATE VIRTUAL TABLE message_words USING fts5 (body, message_id UNINDEXED, tokenize = 'unicode61');

INSERT INTO message_words (body, message_id) SELECT body, id FROM task_messages;

CREATE TRIGGER message_said AFTER INSERT ON task_messages BEGIN
    INSERT INTO message_words (body, message_id) VALUES (new.body, new.id);
END;
