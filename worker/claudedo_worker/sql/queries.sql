-- Every statement that the store runs, by name. A line "-- name: purpose" opens each. What came about
-- within one millisecond is in the order in which it was stored (rowid), not of its random ids.

-- get_meta: One value of the database's own notes
SELECT value FROM meta WHERE key = :key;

-- set_meta: Write one of the database's own notes
INSERT INTO meta (key, value) VALUES (:key, :value)
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- insert_workspace: A new project
INSERT INTO workspaces (id, name, root, created_at) VALUES (:id, :name, :root, :created_at);

-- workspace_by_root: The project of a repository
SELECT * FROM workspaces WHERE root = :root;

-- workspaces: All projects
SELECT * FROM workspaces ORDER BY name;

-- insert_task: A new task
INSERT INTO tasks (id, workspace_id, name, body, status, assignee, repo, worktree, branch, base,
                   made_worktree, made_branch, launch, created_at, recipe, port, base_branch,
                   title, creator, holder, held_until)
VALUES (:id, :workspace_id, :name, :body, :status, :assignee, :repo, :worktree, :branch, :base,
        :made_worktree, :made_branch, :launch, :created_at, :recipe, :port, :base_branch,
        :title, :creator, :holder, :held_until);

-- update_task: Replace what can change of a task
UPDATE tasks SET body = :body, status = :status, repo = :repo, worktree = :worktree,
       branch = :branch, base = :base, made_worktree = :made_worktree,
       made_branch = :made_branch, launch = :launch, recipe = :recipe, port = :port,
       base_branch = :base_branch
 WHERE id = :id;

-- move_task: Change a task's status, if it is still what it was
UPDATE tasks SET status = :after WHERE id = :id AND status = :before;

-- insert_move: A change of a task's status
INSERT INTO moves (task_id, at, before, after, party, name)
VALUES (:task_id, :at, :before, :after, :party, :name);

-- moves: The changes of a task's status, oldest first
SELECT at, before, after, party, name FROM moves WHERE task_id = :task_id ORDER BY at, rowid;

-- claim_task: Give the oldest agent task of a workspace that nobody works on to a party. One that
-- was claimed and whose lease is over counts as not worked on. A session's own tasks are not given.
UPDATE tasks SET holder = :party, held_until = :until
 WHERE id = (SELECT tasks.id FROM tasks
              WHERE workspace_id = :workspace_id AND assignee = 'agent' AND worktree IS NULL
                AND (status = 'notstarted' OR (status = 'ongoing' AND holder IS NOT NULL))
                AND (holder IS NULL OR held_until < :now)
                AND NOT EXISTS (SELECT 1 FROM sessions WHERE task_id = tasks.id)
                AND NOT EXISTS (SELECT 1 FROM one_shots WHERE task_id = tasks.id)
              ORDER BY tasks.created_at, tasks.rowid LIMIT 1)
RETURNING id;

-- hand_over: What waits in a claimed task's inbox goes to the session that claimed it
UPDATE task_messages SET task_id = :to, thread_id = :task_id
 WHERE task_id = :task_id AND party IS NULL AND delivered_at IS NULL;

-- given_to_holders: What in a claimed task's thread waits for a session that held it
SELECT id, task_id FROM task_messages
 WHERE thread_id = :task_id AND task_id <> :task_id AND party IS NULL AND delivered_at IS NULL
   AND NOT EXISTS (SELECT 1 FROM attempt_messages JOIN attempts ON attempts.id = attempt_id
                    WHERE message_id = task_messages.id AND outcome = 'open' AND reminder = 0);

-- take_back: It goes back to the task
UPDATE task_messages SET task_id = thread_id, thread_id = NULL
 WHERE id IN (SELECT value FROM json_each(:ids));

-- extend_claims: A party shows signs of life: what it claimed stays its own, never for less long
UPDATE tasks SET held_until = :until
 WHERE holder = :party AND status IN ('notstarted', 'ongoing', 'blocked')
   AND coalesce(held_until, '') < :until;

-- release_task: Nobody holds it any more
UPDATE tasks SET holder = NULL, held_until = NULL WHERE id = :id;

-- counts: How many tasks of a workspace have each status
SELECT status, count(*) AS tasks FROM tasks WHERE workspace_id = :workspace_id GROUP BY status;

-- rename_workspace: Give a project another name
UPDATE workspaces SET name = :name WHERE id = :id;

-- task_of_workspace: Any task of a project
SELECT id FROM tasks WHERE workspace_id = :workspace_id LIMIT 1;

-- delete_workspace: Remove a project with its tokens; its tasks are gone before
DELETE FROM workspaces WHERE id = :id;

-- delete_task: Remove a task with its sessions, messages and links
DELETE FROM tasks WHERE id = :id;

-- keep_said: What was said to the session of a task in the thread of another one stays in that
-- thread; where that is a person's, nobody has to act on it any more
UPDATE task_messages SET task_id = thread_id, thread_id = NULL,
       party = CASE (SELECT assignee FROM tasks WHERE tasks.id = thread_id)
               WHEN 'human' THEN 'user' ELSE party END
 WHERE task_id = :task_id AND thread_id <> :task_id
   AND EXISTS (SELECT 1 FROM tasks WHERE tasks.id = thread_id);

-- forget_words: The words of messages that are gone
DELETE FROM message_words WHERE message_id NOT IN (SELECT id FROM task_messages);

-- task: One task with its workspace's name
SELECT tasks.*, workspaces.name AS workspace
  FROM tasks JOIN workspaces ON workspaces.id = tasks.workspace_id WHERE tasks.id = :id;

-- task_by_name: The task of that name in a workspace
SELECT id FROM tasks WHERE workspace_id = :workspace_id AND name = :name;

-- tasks: All tasks, oldest first within their workspace
SELECT tasks.*, workspaces.name AS workspace
  FROM tasks JOIN workspaces ON workspaces.id = tasks.workspace_id
 ORDER BY workspaces.name, tasks.created_at, tasks.rowid;

-- insert_link: Make two tasks peers
INSERT OR IGNORE INTO links (a, b) VALUES (min(:one, :other), max(:one, :other));

-- delete_link: They are peers no more
DELETE FROM links WHERE a = min(:one, :other) AND b = max(:one, :other);

-- links: All pairs of peers
SELECT a, b FROM links;

-- peers: The tasks linked to one task
SELECT tasks.*, workspaces.name AS workspace
  FROM tasks JOIN workspaces ON workspaces.id = tasks.workspace_id
 WHERE tasks.id IN (SELECT b FROM links WHERE a = :task_id UNION SELECT a FROM links WHERE b = :task_id)
 ORDER BY tasks.name;

-- insert_session: A session that is about to be launched
INSERT INTO sessions (id, task_id, conversation, state, waiting_for, since, pid, holder_socket,
                      transcript, config_dir, cli_version, channel, credential, started_at,
                      ended_at, reason, crashes, usage, failure, fork_of, one_shot)
VALUES (:id, :task_id, :conversation, :state, :waiting_for, :since, :pid, :holder_socket,
        :transcript, :config_dir, :cli_version, :channel, :credential, :started_at,
        :ended_at, :reason, :crashes, :usage, :failure, :fork_of, :one_shot);

-- update_session: Replace what can change of a session
UPDATE sessions SET conversation = :conversation, state = :state, waiting_for = :waiting_for,
       since = :since, pid = :pid, holder_socket = :holder_socket, transcript = :transcript,
       cli_version = :cli_version, channel = :channel, ended_at = :ended_at, reason = :reason,
       crashes = :crashes, usage = :usage, failure = :failure
 WHERE id = :id;

-- session: One session
SELECT * FROM sessions WHERE id = :id;

-- session_credential: The hash of the credential that a session's processes show
SELECT credential FROM sessions WHERE id = :id;

-- set_credential: Keep the hash of a session's credential
UPDATE sessions SET credential = :credential WHERE id = :id;

-- latest_session: The newest session of a task
SELECT * FROM sessions WHERE task_id = :task_id ORDER BY started_at DESC, rowid DESC LIMIT 1;

-- latest_sessions: The newest session of every task
SELECT * FROM sessions AS one
 WHERE id = (SELECT id FROM sessions AS other WHERE other.task_id = one.task_id
              ORDER BY started_at DESC, rowid DESC LIMIT 1);

-- live_sessions: Sessions that have, or should have, a process
SELECT * FROM sessions WHERE state IN ('starting', 'idle', 'busy', 'waiting');

-- usages: What each conversation of a task used
SELECT conversation, usage FROM usages WHERE task_id = :task_id;

-- set_usage: What a conversation of a task used until now
INSERT INTO usages (task_id, conversation, usage) VALUES (:task_id, :conversation, :usage)
    ON CONFLICT (task_id, conversation) DO UPDATE SET usage = excluded.usage;

-- insert_price: What a request cost; the first to say so is right
INSERT INTO prices (task_id, conversation, request, dollars)
VALUES (:task_id, :conversation, :request, :dollars)
    ON CONFLICT (task_id, conversation, request) DO NOTHING;

-- prices_after: What the requests of a conversation cost, of which was told after a number
SELECT seq, request, dollars FROM prices
 WHERE task_id = :task_id AND conversation = :conversation AND seq > :after ORDER BY seq;

-- insert_ask: Something only a person can decide
INSERT INTO asks (id, task_id, session_id, kind, title, body, tool, input, suggestions, agent, call,
                  tool_use_id, opened_at)
VALUES (:id, :task_id, :session_id, :kind, :title, :body, :tool, :input, :suggestions, :agent, :call,
        :tool_use_id, :opened_at);

-- close_ask: It is decided, or gone; the first to say so wins
UPDATE asks SET closed_at = :at, outcome = :outcome, decided_by = :decided_by, decision = :decision
 WHERE id = :id AND closed_at IS NULL;

-- correct_ask: The session shows that it was decided elsewhere a moment before
UPDATE asks SET outcome = :outcome, decided_by = :decided_by WHERE id = :id;

-- ask: One ask
SELECT * FROM asks WHERE id = :id;

-- ask_of_call: The ask of a held call of a session's bridge
SELECT * FROM asks WHERE session_id = :session_id AND call = :call;

-- open_asks: What waits for a person, oldest first
SELECT * FROM asks WHERE closed_at IS NULL ORDER BY opened_at, rowid;

-- asks_of_session: All that one session asked, oldest first
SELECT * FROM asks WHERE session_id = :session_id ORDER BY opened_at, rowid;

-- asks_by_task: How many asks are open, for every task that has any
SELECT task_id, count(*) AS asks FROM asks WHERE closed_at IS NULL GROUP BY task_id;

-- insert_message: Store a message; the sender must not have used this key before
INSERT INTO task_messages (id, task_id, sender, sender_name, body, priority, reply_to, key, created_at,
                           thread_id, party)
VALUES (:id, :task_id, :sender, :sender_name, :body, :priority, :reply_to, :key, :created_at,
        :thread_id, :party);

-- message_by_key: The message that a sender stored under this key
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE sender = :sender AND key = :key;

-- receipts: How far some messages came, in the order in which they were stored
SELECT id, task_id, via, created_at AS stored_at, offered_at, delivered_at, read_at, answered_at
  FROM task_messages WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY rowid;

-- message: One message with its recipient's name
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.id = :id;

-- thread: What was said to a task, by it and about it, oldest first
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.task_id = :task_id OR thread_id = :task_id OR sender = 'task:' || :task_id
 ORDER BY task_messages.created_at, task_messages.rowid;

-- part_place: Where a message stands, if it is one of those of `thread`
SELECT rowid AS place FROM task_messages
 WHERE id = :id AND (task_id = :task_id OR thread_id = :task_id OR sender = 'task:' || :task_id);

-- part_before: Those of `thread` before a place, newest first
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.rowid IN (SELECT rowid FROM task_messages WHERE task_id = :task_id
                         UNION SELECT rowid FROM task_messages WHERE thread_id = :task_id
                         UNION SELECT rowid FROM task_messages WHERE sender = 'task:' || :task_id)
   AND task_messages.rowid < :place
 ORDER BY task_messages.rowid DESC LIMIT :limit;

-- part_after: Those of `thread` after a place, oldest first. The signs keep it from looking at what
-- was said before that place.
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.rowid > :place
   AND (+task_messages.task_id = :task_id OR +thread_id = :task_id
        OR +sender = 'task:' || :task_id)
 ORDER BY task_messages.rowid LIMIT :limit;

-- thread_before: What was said in a task's own thread before a place, newest first
SELECT task_messages.*, tasks.name AS recipient, task_messages.rowid AS place
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE coalesce(thread_id, task_messages.task_id) = :task_id
   AND task_messages.rowid < :place
 ORDER BY task_messages.rowid DESC LIMIT :limit;

-- thread_after: The same after a place, oldest first
SELECT task_messages.*, tasks.name AS recipient, task_messages.rowid AS place
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE coalesce(thread_id, task_messages.task_id) = :task_id
   AND task_messages.rowid > :place
 ORDER BY task_messages.rowid LIMIT :limit;

-- read_messages: The person's messages of a thread that its session read and did not answer
SELECT id FROM task_messages
 WHERE +coalesce(thread_id, task_id) = :thread_id AND task_id = :task_id AND sender = 'user'
   AND read_at IS NOT NULL AND answered_at IS NULL;

-- mail_of: What a party that is no session of ours has to act on and did not confirm: halt first,
-- then high, then by age. `lent_to` has it now; `lent` if any connection has, or had, it. `whose`:
-- only what no connection has but this one; '*' for all.
SELECT task_messages.*, tasks.name AS recipient, lends.connection_id AS lent_to,
       lends.pushed, lends.message_id IS NOT NULL AS lent
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
  LEFT JOIN lends ON lends.message_id = task_messages.id
 WHERE delivered_at IS NULL
   AND (party = :party OR (party IS NULL AND tasks.holder = :party))
   AND (:whose = '*' OR lends.connection_id IS NULL OR lends.connection_id = :whose)
 ORDER BY CASE priority WHEN 'halt' THEN 0 WHEN 'high' THEN 1 ELSE 2 END,
          task_messages.created_at, task_messages.rowid LIMIT :limit;

-- insert_attachment: A file that was given
INSERT INTO attachments (id, task_id, message_id, filename, mime_type, size, sha256, party, created_at)
VALUES (:id, :task_id, :message_id, :filename, :mime_type, :size, :sha256, :party, :created_at);

-- carry_attachment: A message carries a file that was given to its thread's task
UPDATE attachments SET message_id = :message_id
 WHERE id = :id AND task_id = :task_id AND message_id IS NULL AND party = :party;

-- attachment: One file
SELECT * FROM attachments WHERE id = :id;

-- attachments_of_messages: The files that some messages carry
SELECT * FROM attachments WHERE message_id IN (SELECT value FROM json_each(:ids))
 ORDER BY created_at, rowid;

-- attachments_of_task: All files of a task
SELECT * FROM attachments WHERE task_id = :task_id ORDER BY created_at, rowid;

-- keep_carried: Files that a message to another task carries outlive the thread's task
UPDATE attachments SET task_id = (SELECT task_id FROM task_messages WHERE id = message_id)
 WHERE task_id = :task_id AND message_id IN
       (SELECT id FROM task_messages WHERE thread_id = :task_id AND task_id <> :task_id);

-- delete_uncarried: Files that were given before a moment and that no message carries
DELETE FROM attachments WHERE message_id IS NULL AND created_at < :before;

-- content_used: Whether any file has this content
SELECT 1 FROM attachments WHERE sha256 = :sha256 LIMIT 1;

-- insert_token: What a client will show
INSERT INTO tokens (id, workspace_id, name, hash, created_at, expires_at)
VALUES (:id, :workspace_id, :name, :hash, :created_at, :expires_at);

-- token_by_hash: The token of that text, valid or not
SELECT * FROM tokens WHERE hash = :hash;

-- token: One token
SELECT * FROM tokens WHERE id = :id;

-- tokens: All tokens, newest first
SELECT * FROM tokens ORDER BY created_at DESC, rowid DESC;

-- rotate_token: Another text takes the place of the one that was
UPDATE tokens SET hash = :hash, expires_at = :expires_at, last_used_at = NULL
 WHERE id = :id AND revoked_at IS NULL;

-- use_token: It was shown
UPDATE tokens SET last_used_at = :at WHERE id = :id;

-- revoke_token: It is worth nothing any more
UPDATE tokens SET revoked_at = :at WHERE id = :id AND revoked_at IS NULL;

-- insert_connection: A client's MCP session
INSERT INTO connections (id, token_id, client, created_at)
VALUES (:id, :token_id, :client, :created_at);

-- connection: One of them
SELECT * FROM connections WHERE id = :id;

-- connections_of: All of a token, newest first
SELECT * FROM connections WHERE token_id = :token_id ORDER BY created_at DESC, rowid DESC;

-- connections: How many each token has
SELECT token_id, count(*) AS connections FROM connections GROUP BY token_id;

-- delete_connection: It ended; what it did not confirm may be given again
DELETE FROM connections WHERE id = :id;

-- lend: A connection gets a message
INSERT OR REPLACE INTO lends (message_id, connection_id, pushed, at)
VALUES (:message_id, :connection_id, :pushed, :at);

-- lends: What a connection has and did not confirm
SELECT message_id, pushed FROM lends WHERE connection_id = :connection_id ORDER BY at, rowid;

-- lenders: The connections that have anything unconfirmed
SELECT DISTINCT connection_id FROM lends WHERE connection_id IS NOT NULL;

-- give_back: It was not confirmed, and may be given again
UPDATE lends SET connection_id = NULL WHERE message_id = :message_id;

-- end_lend: It is confirmed
DELETE FROM lends WHERE message_id = :message_id AND connection_id = :connection_id;

-- search: Messages whose bodies hold all words of an FTS5 expression, newest first
SELECT task_messages.*, tasks.name AS recipient
  FROM message_words JOIN task_messages ON task_messages.id = message_id
  JOIN tasks ON tasks.id = task_messages.task_id
 WHERE message_words MATCH :expression
 ORDER BY task_messages.created_at DESC, task_messages.rowid DESC LIMIT :limit;

-- pending: How many messages of a task are not delivered yet
SELECT count(*) AS pending FROM task_messages
 WHERE task_id = :task_id AND party IS NULL AND delivered_at IS NULL;

-- pending_by_task: The same for every task that has any
SELECT task_id, count(*) AS pending FROM task_messages
 WHERE party IS NULL AND delivered_at IS NULL GROUP BY task_id;

-- deliverable: Messages whose body may be given now: not delivered, in no open attempt that
-- carries bodies. Halt first, then high, then by age.
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.task_id = :task_id AND party IS NULL
   AND (delivered_at IS NULL OR forgotten = 1)
   AND NOT EXISTS (SELECT 1 FROM attempt_messages JOIN attempts ON attempts.id = attempt_id
                    WHERE message_id = task_messages.id AND outcome = 'open' AND reminder = 0)
 ORDER BY CASE priority WHEN 'halt' THEN 0 WHEN 'high' THEN 1 ELSE 2 END,
          task_messages.created_at, task_messages.rowid;

-- halting: Halt messages of a task that the model has not answered with in context
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.task_id = :task_id AND priority = 'halt' AND read_at IS NULL
 ORDER BY task_messages.created_at, task_messages.rowid;

-- mark_offered: A transport took a message, or a reminder of it
UPDATE task_messages SET offered_at = coalesce(offered_at, :at),
       via = CASE WHEN delivered_at IS NULL THEN :via ELSE via END
 WHERE id = :id;

-- mark_delivered: A message's context line was found
UPDATE task_messages
   SET offered_at = coalesce(offered_at, :at), delivered_at = coalesce(delivered_at, :at),
       via = CASE WHEN delivered_at IS NULL THEN :via ELSE via END, forgotten = 0
 WHERE id = :id AND (delivered_at IS NULL OR forgotten = 1);

-- mark_read: The model answered with a message in its context
UPDATE task_messages
   SET read_at = :at,
       answered_at = CASE WHEN EXISTS (SELECT 1 FROM task_messages AS reply
                                        WHERE reply.reply_to = task_messages.id
                                          AND reply.sender = 'task:' || task_messages.task_id
                                          AND task_messages.sender IN ('user', 'task:' || reply.task_id))
                           OR (task_messages.sender = 'user' AND EXISTS
                               (SELECT 1 FROM task_messages AS said
                                 WHERE said.task_id
                                       = coalesce(task_messages.thread_id, task_messages.task_id)
                                   AND said.created_at > task_messages.delivered_at
                                   AND said.party = 'user'
                                   AND +said.sender = 'task:' || task_messages.task_id))
                          THEN :at ELSE answered_at END
 WHERE id = :id AND delivered_at IS NOT NULL AND forgotten = 0 AND read_at IS NULL;

-- mark_answered: A reply came back from the recipient of messages that were read before. A person
-- sees every reply in the thread; a session is answered only by what is sent to it.
UPDATE task_messages SET answered_at = :at
 WHERE id IN (SELECT value FROM json_each(:ids))
   AND 'task:' || task_id = :sender AND sender IN ('user', 'task:' || :recipient)
   AND read_at IS NOT NULL AND answered_at IS NULL
RETURNING id;

-- mark_replied: A client replied to a message of its mail by its id, so it had that in hand. Nobody
-- sees a client's transcript: nothing else tells how far its mail came.
UPDATE task_messages
   SET offered_at = coalesce(offered_at, :at), delivered_at = coalesce(delivered_at, :at),
       read_at = coalesce(read_at, :at), answered_at = :at
 WHERE id = :id AND answered_at IS NULL AND sender IN ('user', 'task:' || :recipient)
   AND (party = :sender OR (party IS NULL AND EXISTS
        (SELECT 1 FROM tasks WHERE tasks.id = task_messages.task_id AND holder = :sender)))
RETURNING id;

-- forget: A delivered message that was not read is out of the context again
UPDATE task_messages SET forgotten = 1
 WHERE id = :id AND delivered_at IS NOT NULL AND read_at IS NULL;

-- insert_attempt: One try to put messages into a context
INSERT INTO attempts (id, session_id, conversation, transport, reminder, tool_use_id, created_at, outcome)
VALUES (:id, :session_id, :conversation, :transport, :reminder, :tool_use_id, :created_at, :outcome);

-- insert_attempt_message: One message of an attempt
INSERT INTO attempt_messages (attempt_id, message_id) VALUES (:attempt_id, :message_id);

-- end_attempt: Say what became of an attempt
UPDATE attempts SET outcome = :outcome, ended_at = :at WHERE id = :id AND outcome <> 'confirmed';

-- attempt_messages: The messages of an attempt
SELECT message_id FROM attempt_messages WHERE attempt_id = :attempt_id ORDER BY message_id;

-- open_attempts: Attempts of a conversation whose outcome is not known
SELECT * FROM attempts WHERE conversation = :conversation AND outcome = 'open'
 ORDER BY created_at, rowid;

-- noticed: Undelivered messages of a task that a channel showed as an untrusted notice
SELECT DISTINCT message_id FROM attempt_messages
  JOIN attempts ON attempts.id = attempt_id
  JOIN task_messages ON task_messages.id = message_id
 WHERE task_messages.task_id = :task_id AND outcome = 'notice' AND delivered_at IS NULL;

-- unread_attempts: Confirmed attempts of a conversation with a message the model has not answered to
SELECT DISTINCT attempts.* FROM attempts
  JOIN attempt_messages ON attempt_id = attempts.id
  JOIN task_messages ON task_messages.id = message_id
 WHERE conversation = :conversation AND outcome = 'confirmed' AND reminder = 0 AND read_at IS NULL
   AND forgotten = 0
 ORDER BY attempts.created_at, attempts.rowid;

-- insert_events: Facts of one kind about one task, stored with what they tell of, in its order
INSERT INTO events (type, workspace_id, task_id, payload, at)
SELECT :type, :workspace_id, :task_id, value, :at FROM json_each(:payloads) WHERE true ORDER BY key
RETURNING seq;

-- events_after: The facts after a number, in order
SELECT * FROM events WHERE seq > :after ORDER BY seq LIMIT :limit;

-- last_event: The number of the newest fact, be it pruned or not
SELECT seq FROM sqlite_sequence WHERE name = 'events';

-- prune_events: Forget facts that are too many or too old
DELETE FROM events
 WHERE at < :before OR seq <= (SELECT seq FROM sqlite_sequence WHERE name = 'events') - :keep;

-- insert_one_shot: A task joins the queue
INSERT INTO one_shots (task_id, needs, base, "check", timeout, budget, retries, priority, status,
                       rules, attempts, not_before, started_at, ended_at, spent, seconds, checking,
                       verdict)
VALUES (:task_id, :needs, :base, :check, :timeout, :budget, :retries, :priority, :status,
        :rules, :attempts, :not_before, :started_at, :ended_at, :spent, :seconds, :checking,
        :verdict);

-- update_one_shot: Replace what can change of a one-shot task
UPDATE one_shots SET needs = :needs, status = :status, rules = :rules, attempts = :attempts,
       not_before = :not_before, started_at = :started_at, ended_at = :ended_at, spent = :spent,
       seconds = :seconds, checking = :checking, verdict = :verdict
 WHERE task_id = :task_id;

-- one_shot: What makes a task a one-shot
SELECT * FROM one_shots WHERE task_id = :task_id;

-- one_shots: All of them, oldest first
SELECT * FROM one_shots ORDER BY seq;

-- unread: Messages to a task's session that its model did not answer with in its context
SELECT task_messages.*, tasks.name AS recipient
  FROM task_messages JOIN tasks ON tasks.id = task_messages.task_id
 WHERE task_messages.task_id = :task_id AND party IS NULL AND read_at IS NULL
 ORDER BY task_messages.rowid;
