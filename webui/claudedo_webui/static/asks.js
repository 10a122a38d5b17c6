// What waits for a person: each ask with all that is needed to decide it, and the buttons for it.
// An ask that was decided elsewhere stays a while and says by whom.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.js";
import { plural } from "./counts.js";
import { decide } from "./deeds.js";
import { html } from "./html.js";
import { firstKept, forget, useKept } from "./kept.js";
import { refreshAsk } from "./live.js";
import { Prose } from "./prose.js";
import { Questions } from "./questions.js";
import { ruleOf } from "./rule.js";
import { asks, hrefOf, isShown, nameOfParty, openAsks, problems } from "./store.js";
import { Age, clockOf } from "./time.js";

const STILL_MS = 400;
const DIFF_LINES = 4000; // more are shown without colours
const EDITS = ["Edit", "MultiEdit", "NotebookEdit", "Write"];
const TASK_WORDS = { allowed: "completed", denied: "rejected" };
const DECIDED = { user: "here or by command", terminal: "in its terminal" };

/** All asks of the shown workspaces. */
export function Asks() {
  const list = [...asks.value.values()].filter(isShown);
  const open = list.filter((ask) => !ask.closed_at).length;
  const problem = problems.value.get("asks");
  return html`<main class="view" tabindex="-1" aria-label="Asks">
    <div class="heading"><div class="title">
      <a class="back" href="#" aria-label="All tasks">‹</a>
      <h1>${open === 0 ? "Nothing waits for you" : `${plural(open, "ask")} for you`}</h1>
    </div></div>
    ${problem && html`<p class="notice bad">The asks could not be fetched. ${problem}</p>`}
    <${Cards} list=${list} />
  </main>`;
}

/** The asks of one task, above its thread. */
export function AsksOf({ task }) {
  const list = [...asks.value.values()].filter((ask) => ask.task === task.id);
  return list.length > 0 && html`<${Cards} list=${list} inTask=${true} />`;
}

function Cards({ list, inTask }) {
  const still = useStill(list);
  return html`<div class=${inTask ? "cards in-task" : "cards"}>${list.map((ask) => html`
    <${Card} key=${ask.id} ask=${ask} inTask=${inTask} still=${still} />`)}</div>`;
}

/**
 * Tells whether the cards stand still: one that closes or goes by itself moves those below it, and
 * a click that was on its way must not decide another one.
 */
function useStill(list) {
  const before = useRef({ open: [], ids: [] });
  const movedAt = useRef(-Infinity);
  const own = useRef(new Set()); // decided here: the person knows that it closes
  const open = list.filter((ask) => !ask.closed_at).map((ask) => ask.id);
  const ids = list.map((ask) => ask.id);
  useLayoutEffect(() => {
    const { open: openBefore, ids: idsBefore } = before.current;
    const closed = openBefore.some((id) => !open.includes(id) && !own.current.has(id));
    const gone = idsBefore.some((id) => !ids.includes(id));
    if (closed || gone) movedAt.current = performance.now();
    before.current = { open, ids };
  });
  return {
    since: () => performance.now() - movedAt.current,
    expect: (id) => own.current.add(id),
  };
}

function Card({ ask, inTask, still }) {
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const [mine, setMine] = useState(false);
  useEffect(() => refreshAsk(ask.id), [ask.id]); // what the session said last
  useEffect(() => ask.closed_at && forget(ask.id), [ask.closed_at]);
  const act = async (decision, ids = [ask.id]) => {
    if (busy || still.since() < STILL_MS) return;
    ids.forEach(still.expect);
    setBusy(true);
    setError(null);
    try {
      for (const id of ids) {
        const decided = await decide(id, decision);
        if (id === ask.id) setMine(decided.decided_by === "user");
      }
      focusNext(ask.id);
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      setError(failure.message);
      refreshAsk(ask.id); // it may be closed by now
    } finally {
      setBusy(false);
    }
  };
  const name = `${ask.kind}: ${ask.title}`;
  return html`<article class="ask" data-kind=${ask.kind} data-closed=${Boolean(ask.closed_at)}
    id=${`ask-${ask.id}`} tabindex="-1" aria-label=${name} aria-busy=${busy}>
    <header>
      <span class="kind">${ask.kind === "task" ? "task for you" : ask.kind}</span>
      ${!inTask && html`<a href=${hrefOf(ask.task)}><bdi>${ask.task_name}</bdi></a>
        <span class="muted"><bdi>${ask.workspace}</bdi></span>`}
      ${ask.kind === "task" && html`<span class="muted">from <bdi>${
        nameOfParty(ask.creator ?? "user")}</bdi></span>`}
      ${ask.agent && html`<span class="muted">subagent <bdi>${ask.agent}</bdi></span>`}
      <${Age} since=${ask.opened_at} />
    </header>
    <h2 class=${ask.kind === "question" && !ask.closed_at ? "unseen" : ""}><bdi>${
      ask.title}</bdi></h2>
    ${ask.closed_at ? html`<${Verdict} ask=${ask} mine=${mine} error=${error} />` : html`
      ${ask.said && html`<p class="said" title="What the session said last"><bdi>${
        lastLines(ask.said)}</bdi></p>`}
      <${Matter} ask=${ask} />
      <${Choices} ask=${ask} busy=${busy} act=${act} />
      ${error && html`<p class="bad" role="alert">${error}</p>`}`}
  </article>`;
}

const lastLines = (text) => text.trim().split("\n").filter((line) => line.trim()).slice(-3)
  .join("\n");

/** The keyboard goes on with the next open ask. */
function focusNext(id) {
  const open = openAsks.value.filter(isShown).map((ask) => ask.id);
  const next = open.find((other) => other > id) ?? open[0];
  document.getElementById(`ask-${next ?? id}`)?.focus();
}

/** What became of it, and whether that was what is said here. */
function Verdict({ ask, mine, error }) {
  const where = DECIDED[ask.decided_by];
  const word = (ask.kind === "task" && TASK_WORDS[ask.outcome]) || (ask.outcome ?? "gone");
  const who = mine ? `You ${word} this` : `${capital(word)} ${where}`;
  const said = ask.outcome === "gone" || !where
    ? "Gone: the session went on or ended without an answer."
    : `${who}, ${clockOf(ask.closed_at)}.`;
  return html`<p class="verdict" role="status">${error && !mine
    && html`<strong>Too late. </strong>`}${said}${ask.reason
    && html` <bdi>“${ask.reason}”</bdi>`}</p>`;
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

/** Everything there is to see: the command, the diff, the plan, the task. */
function Matter({ ask }) {
  if (ask.kind === "question") return null; // its questions stand with their choices
  if (ask.kind === "plan" || ask.kind === "task") {
    return html`<div class="matter prose" tabindex="0" role="region" aria-label="All of it"
      ><${Prose} text=${ask.body} /></div>`;
  }
  return html`<pre class="matter" tabindex="0" role="region" aria-label="The whole call" dir="ltr"
    ><code>${EDITS.includes(ask.tool) ? diffed(ask.body) : ask.body}</code></pre>`;
}

function diffed(text) {
  const lines = text.split("\n");
  if (lines.length > DIFF_LINES) return text;
  return lines.map((line, at) => {
    const kind = { "+": "added", "-": "taken", "@": "place" }[line[0]];
    const isName = at < 2 && (line.startsWith("---") || line.startsWith("+++"));
    return html`<span class=${isName ? "muted" : kind}>${line}${"\n"}</span>`;
  });
}

function Choices({ ask, busy, act }) {
  if (ask.kind === "question") return html`<${Questions} ask=${ask} busy=${busy} act=${act} />`;
  if (ask.kind === "plan") return html`<${Plan} ask=${ask} busy=${busy} act=${act} />`;
  if (ask.kind === "task") return html`<${Task} ask=${ask} busy=${busy} act=${act} />`;
  return html`<${Permission} ask=${ask} busy=${busy} act=${act} />`;
}

function Permission({ ask, busy, act }) {
  const [open, setOpen] = useState(() => firstKept(ask.id, ["deny", "edit"]));
  const toggle = (what) => setOpen(open === what ? null : what);
  const rule = ruleOf(ask);
  const same = (ask.same ?? []).filter((id) => asks.value.get(id) && !asks.value.get(id).closed_at);
  return html`<div class="choices">
      <button type="button" class="send" disabled=${busy} onClick=${() =>
        act({ decision: "allow" })}>Allow</button>
      ${same.length > 0 && html`<button type="button" disabled=${busy} onClick=${() =>
        act({ decision: "allow" }, [ask.id, ...same])}>Allow here and in ${
        plural(same.length, "other session")}</button>`}
      ${rule && html`<button type="button" disabled=${busy} onClick=${() =>
        act({ decision: "allow", always: true })}>Always allow <bdi class="mono">${rule}</bdi>
        <span class="muted"> in this session</span></button>`}
      <button type="button" disabled=${busy} aria-expanded=${open === "deny"}
        onClick=${() => toggle("deny")}>Deny…</button>
      ${ask.editable && html`<button type="button" disabled=${busy} aria-expanded=${open === "edit"}
        onClick=${() => toggle("edit")}>Edit…</button>`}
    </div>
    ${open === "deny" && html`<${Words} keptAs=${`${ask.id} deny`} button="Deny"
      label="Why not? The session is told." danger=${true} busy=${busy} may=${true}
      say=${(text) => act({ decision: "deny", reason: text || undefined })} />`}
    ${open === "edit" && html`<${Edit} ask=${ask} busy=${busy} act=${act} />`}`;
}

function Plan({ ask, busy, act }) {
  const [open, setOpen] = useState(() => firstKept(ask.id, ["lacks"]) !== null);
  return html`<div class="choices">
      <button type="button" class="send" disabled=${busy} onClick=${() =>
        act({ decision: "allow" })}>Go ahead</button>
      <button type="button" disabled=${busy} onClick=${() =>
        act({ decision: "allow", always: true })}>Go ahead, and always allow ${ruleOf(ask)}</button>
      <button type="button" disabled=${busy} aria-expanded=${open}
        onClick=${() => setOpen(!open)}>It lacks something…</button>
    </div>
    ${open && html`<${Words} keptAs=${`${ask.id} lacks`} button="Send back" busy=${busy}
      label="What does the plan lack?" say=${(text) => act({ decision: "answer", text })} />`}`;
}

function Task({ ask, busy, act }) {
  const [open, setOpen] = useState(() => firstKept(ask.id, ["answer", "deny"]));
  const toggle = (what) => setOpen(open === what ? null : what);
  return html`<div class="choices">
      <button type="button" class="send" disabled=${busy} aria-expanded=${open === "answer"}
        onClick=${() => toggle("answer")}>Answer…</button>
      <button type="button" disabled=${busy} onClick=${() =>
        act({ decision: "allow" })}>Done</button>
      <button type="button" disabled=${busy} aria-expanded=${open === "deny"}
        onClick=${() => toggle("deny")}>Reject…</button>
    </div>
    ${open === "answer" && html`<${Words} keptAs=${`${ask.id} answer`}
      label="Your answer; it completes the task." button="Answer" busy=${busy}
      say=${(text) => act({ decision: "answer", text })} />`}
    ${open === "deny" && html`<${Words} keptAs=${`${ask.id} deny`} button="Reject"
      label="Why not? Who asked is told." danger=${true} busy=${busy} may=${true}
      say=${(text) => act({ decision: "deny", reason: text || undefined })} />`}`;
}

/** A box that was just opened takes the keyboard; one that comes back with its text does not. */
const focusNew = (box, isNew) => isNew && box.current.focus();

/** A box for own words. `may`: they may be left out. Ctrl or ⌘ with Enter sends. */
function Words({ keptAs, label, button, busy, say, may, danger }) {
  const [text, setText] = useKept(keptAs, "");
  const box = useRef(null);
  useLayoutEffect(() => focusNew(box, text === ""), []);
  const ready = !busy && (may || text.trim() !== "");
  const keyDown = (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || !ready) return;
    event.preventDefault();
    say(text.trim());
  };
  return html`<div class="words">
    <label><span>${label}</span><textarea ref=${box} rows="2" value=${text} onKeyDown=${keyDown}
      onInput=${(event) => setText(event.currentTarget.value)}></textarea></label>
    <button type="button" class=${danger ? "danger" : ""} disabled=${!ready}
      onClick=${() => say(text.trim())}>${button}</button>
  </div>`;
}

/** The bare command of a shell tool, the JSON input of every other. */
function Edit({ ask, busy, act }) {
  const isCommand = typeof ask.input?.command === "string";
  const before = isCommand ? ask.input.command : JSON.stringify(ask.input, null, 2);
  const [text, setText] = useKept(`${ask.id} edit`, before);
  const [wrong, setWrong] = useState(null);
  const box = useRef(null);
  useLayoutEffect(() => focusNew(box, text === before), []);
  const allow = () => {
    try {
      act({ decision: "allow", input: isCommand ? { ...ask.input, command: text } : parsed(text) });
    } catch (error) {
      setWrong(error.message);
    }
  };
  const input = (event) => {
    setText(event.currentTarget.value);
    setWrong(null);
  };
  return html`<div class="words">
    <label><span>${isCommand ? "The command" : "The tool's whole input, JSON"}</span>
      <textarea ref=${box} class="mono" rows=${Math.min(12, text.split("\n").length + 1)}
        value=${text} spellcheck=${false} onInput=${input}></textarea></label>
    <button type="button" disabled=${busy || text === before || text.trim() === ""}
      onClick=${allow}>Allow as edited</button>
    ${wrong && html`<p class="bad" role="alert">${wrong}</p>`}
  </div>`;
}

function parsed(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not valid JSON: ${error.message}.`);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    throw new Error("The input must be a JSON object.");
  }
  return value;
}
