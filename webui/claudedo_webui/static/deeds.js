// What a person does besides talking: decides asks, moves and makes tasks, tidies up. Each function
// asks the worker and throws `ApiError` with its reason; what changed is heard of as an event.

import { ask } from "./api.js";
import { expire } from "./fetching.js";
import { closeAsk, refreshAll, refreshTask, refreshTokens, refreshWorkspaces } from "./live.js";

const pathOf = (kind, id, verb = "") =>
  `/api/${kind}/${encodeURIComponent(id)}${verb && `/${verb}`}`;

/** A request that changes something; an expired cookie is noticed. */
async function change(...request) {
  try {
    return await ask(...request);
  } catch (error) {
    if (error.code === "unauthorized") expire();
    throw error;
  }
}

/** Decides an ask (docs/architecture.md); resolves to the ask as it is now. */
export async function decide(id, decision) {
  const decided = await change("POST", pathOf("asks", id, "decision"), decision);
  if (decided.closed_at) closeAsk(id, decided);
  return decided;
}

/** Says how far a task is; `words` go to whoever must know. */
export async function move(taskId, status, words) {
  await change("POST", pathOf("tasks", taskId, "status"), { status, words: words || null });
  refreshTask(taskId);
}

/** A new task; the same `key` never makes it twice. Resolves to it. */
export async function create({ title, body, assignee, workspace, attachments, key }) {
  const order = { title, body, assignee, workspace, attachments, key };
  const made = await change("POST", "/api/tasks", order);
  refreshAll();
  return made;
}

export async function renameWorkspace(id, name) {
  await change("PATCH", pathOf("workspaces", id), { name });
  refreshWorkspaces();
}

/** Forgets a workspace with all that is in it; refused if work would be lost, unless `force`. */
export async function deleteWorkspace(id, force) {
  await change("DELETE", `${pathOf("workspaces", id)}?force=${force}`);
  refreshWorkspaces();
  refreshAll();
}

/** Ends the sessions of a workspace's tasks; their conversations can be continued. */
export async function stopSessions(taskIds) {
  for (const id of taskIds) await change("POST", pathOf("tasks", id, "stop"), {});
  refreshWorkspaces();
}

export async function revokeToken(id) {
  await change("DELETE", pathOf("tokens", id));
  refreshTokens();
}
