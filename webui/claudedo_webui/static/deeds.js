// What a person does besides talking: decides asks, moves and makes tasks, tidies up. Each function
// asks the worker and throws `ApiError` with its reason; what changed is heard of as an event.

import { ask } from "./api.js";
import { closeAsk, refreshAll, refreshTask, refreshTokens, refreshWorkspaces } from "./live.js";

const pathOf = (kind, id, verb = "") =>
  `/api/${kind}/${encodeURIComponent(id)}${verb && `/${verb}`}`;

/** Decides an ask (docs/architecture.md); resolves to the ask as it is now. */
export async function decide(id, decision) {
  const decided = await ask("POST", pathOf("asks", id, "decision"), decision);
  if (decided.closed_at) closeAsk(id, decided);
  return decided;
}

/** Says how far a task is; `words` go to whoever must know. */
export async function move(taskId, status, words) {
  await ask("POST", pathOf("tasks", taskId, "status"), { status, words: words || null });
  refreshTask(taskId);
}

/** A new task; the same `key` never makes it twice. Resolves to it. */
export async function create({ title, body, assignee, workspace, key }) {
  const made = await ask("POST", "/api/tasks", { title, body, assignee, workspace, key });
  refreshAll();
  return made;
}

export async function renameWorkspace(id, name) {
  await ask("PATCH", pathOf("workspaces", id), { name });
  refreshWorkspaces();
}

/** Forgets a workspace with all that is in it; refused if work would be lost, unless `force`. */
export async function deleteWorkspace(id, force) {
  await ask("DELETE", `${pathOf("workspaces", id)}?force=${force}`);
  refreshWorkspaces();
  refreshAll();
}

/** Ends the sessions of a workspace's tasks; their conversations can be continued. */
export async function stopSessions(taskIds) {
  for (const id of taskIds) await ask("POST", pathOf("tasks", id, "stop"), {});
  refreshWorkspaces();
}

export async function revokeToken(id) {
  await ask("DELETE", pathOf("tokens", id));
  refreshTokens();
}
