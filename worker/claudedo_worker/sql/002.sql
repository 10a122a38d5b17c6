-- Remember whether a task's branch was made for it: one that was there before outlives the task.

ALTER TABLE tasks ADD COLUMN made_branch INTEGER NOT NULL DEFAULT 0;

UPDATE tasks SET made_branch = 1 WHERE made_worktree = 1 AND branch = 'claudedo/' || name;
