// What "always" would allow, in words; the same words as the command line's.

const EDITING = "edits of files";

/** Null if the session suggested nothing that may be allowed for good. */
export function ruleOf(ask) {
  if (ask.kind === "plan") return EDITING;
  const held = objects(ask.suggestions).flatMap(heldBy);
  return held.length > 0 ? [...new Set(held)].join(", ") : null;
}

/** One suggested update (docs/claude-cli.md 13.3); nothing for what the worker leaves out. */
function heldBy({ type, behavior, mode, rules, directories }) {
  if (type === "addRules" && behavior === "allow") {
    return objects(rules).map(({ toolName, ruleContent }) =>
      ruleContent ? `${toolName}(${ruleContent})` : `every ${toolName} call`);
  }
  if (type === "setMode" && mode === "acceptEdits") return [EDITING];
  if (type === "addDirectories" && Array.isArray(directories)) {
    return directories.map((folder) => `work in ${folder}`);
  }
  return [];
}

/** The objects of a list that a model wrote, and may have written wrongly. */
export const objects = (given) => Array.isArray(given)
  ? given.filter((one) => one !== null && typeof one === "object" && !Array.isArray(one)) : [];
