-- A person in the loop: threads, moves, attachments, tokens, and the clients that come with them.

-- What a person sees of a task that was not named by one, who made it, and who holds it.
ALTER TABLE tasks ADD COLUMN title TEXT;
ALTER TABLE tasks ADD COLUMN creator TEXT NOT NULL DEFAULT 'user';
ALTER TABLE tasks ADD COLUMN holder TEXT;
ALTER TABLE tasks ADD COLUMN held_until TEXT;

CREATE TABLE moves (
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    at      TEXT NOT NULL,
    before  TEXT NOT NULL,
    after   TEXT NOT NULL,
    party   TEXT NOT NULL,
    name    TEXT NOT NULL
) STRICT;

CREATE INDEX moves_of_task ON moves (task_id, at);

-- The thread that a message belongs to, where that is another one than its recipient's. An answer
-- outlives the task that asked for it.
ALTER TABLE task_messages ADD COLUMN thread_id TEXT;
-- Who must act on it, where that is not the session of the task: "user" or "token:<id>".
ALTER TABLE task_messages ADD COLUMN party TEXT;

CREATE INDEX thread ON task_messages (thread_id) WHERE thread_id IS NOT NULL;
-- What a delivery looks at must not grow with what was said before.
CREATE INDEX undelivered ON task_messages (task_id) WHERE delivered_at IS NULL OR forgotten = 1;
CREATE INDEX halting ON task_messages (task_id, created_at) WHERE priority = 'halt' AND read_at IS NULL;
CREATE INDEX unanswered ON task_messages (task_id)
    WHERE sender = 'user' AND read_at IS NOT NULL AND answered_at IS NULL;
CREATE INDEX spoken ON task_messages (coalesce(thread_id, task_id));
CREATE INDEX mail_of_party ON task_messages (party) WHERE party IS NOT NULL;

CREATE TABLE attachments (
    id         TEXT PRIMARY KEY,
    task_id    TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    -- null until a message carries it
    message_id TEXT REFERENCES task_messages (id) ON DELETE CASCADE,
    filename   TEXT NOT NULL,
    mime_type  TEXT NOT NULL,
    size       INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    party      TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE INDEX attachments_of_task ON attachments (task_id);
CREATE INDEX attachments_of_message ON attachments (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX attachments_of_content ON attachments (sha256);

CREATE TABLE tokens (
    id           TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    created_at   TEXT NOT NULL,
    expires_at   TEXT NOT NULL,
    last_used_at TEXT,
    revoked_at   TEXT
) STRICT;

-- A client's MCP session. It outlives the worker, so that the client goes on under the same id.
CREATE TABLE connections (
    id         TEXT PRIMARY KEY,
    token_id   TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    client     TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT;

CREATE INDEX connections_of_token ON connections (token_id);

-- Messages that a client was given and did not confirm.
CREATE TABLE lends (
    message_id    TEXT PRIMARY KEY REFERENCES task_messages (id) ON DELETE CASCADE,
    -- null once the connection ended: the message may be given again, as one possibly seen
    connection_id TEXT REFERENCES connections (id) ON DELETE SET NULL,
    pushed        INTEGER NOT NULL,
    at            TEXT NOT NULL
) STRICT;

CREATE INDEX lends_of_connection ON lends (connection_id) WHERE connection_id IS NOT NULL;
