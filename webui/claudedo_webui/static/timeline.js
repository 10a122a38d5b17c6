// What was said in a task, oldest first, each message with how far it came.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { sizeOf } from "./counts.js";
import { edit } from "./drafts.js";
import { html } from "./html.js";
import { Prose } from "./prose.js";
import { hrefOf, problems, spans, tasks, threads, timeline } from "./store.js";
import { fetchEarlier } from "./threads.js";
import { clockOf, dayOf } from "./time.js";

const PAGE = 100; // messages drawn at first, and by each "show earlier"
const NEAR_PX = 60; // so close to the end counts as being there
const LONG_CHARACTERS = 1600;
const LONG_LINES = 18;
const PREVIEW_LINES = 10;
const RUNGS = ["stored", "offered", "delivered", "read", "answered"];

export function Timeline({ task }) {
  const [shown, setShown] = useState(PAGE);
  const all = timeline(task.id);
  const messages = all.slice(-shown);
  const { box, inner, behind, toEnd } = useEnd();
  const hold = useHold(box, messages[0]?.id);
  const [busy, setBusy] = useState(false);
  const whole = spans.value.get(task.id)?.whole ?? true;
  const earlier = async () => {
    setBusy(true);
    if (all.length < shown + PAGE && !whole) await fetchEarlier(task.id);
    hold();
    setShown(shown + PAGE);
    setBusy(false);
  };
  return html`<div class="log-frame">
    <div class="log" ref=${box} role="log" aria-label="Messages" tabindex="0">
      <div class="log-inner" ref=${inner}>
        ${(all.length > shown || !whole) && html`<button type="button" class="quiet earlier"
          disabled=${busy} onClick=${earlier}>Show earlier messages</button>`}
        <${Notice} task=${task} empty=${all.length === 0} />
        ${messages.flatMap((message, at) => [
          startsDay(message, messages[at - 1]) && html`<h2 class="day" key=${`day ${message.id}`}>${
            dayOf(message.created_at)}</h2>`,
          html`<${Message} key=${message.id} message=${message} task=${task} />`,
        ])}
      </div>
    </div>
    ${behind && html`<button type="button" class="to-end" onClick=${toEnd}>Latest ↓</button>`}
  </div>`;
}

function Notice({ task, empty }) {
  const problem = problems.value.get(`thread:${task.id}`);
  if (problem) return html`<p class="notice bad">The messages could not be fetched. ${problem}</p>`;
  if (!empty || !threads.value.has(task.id)) return null;
  return html`<p class="notice">
    No messages yet. What you send is kept until the session takes it.</p>`;
}

const startsDay = (message, before) =>
  !before || dayOf(before.created_at) !== dayOf(message.created_at);

/** Keeps the log at its end while the reader is there, and where they are when they are not. */
function useEnd() {
  const box = useRef(null);
  const inner = useRef(null);
  const atEnd = useRef(true);
  const [behind, setBehind] = useState(false);
  const toEnd = () => {
    box.current.scrollTop = box.current.scrollHeight;
  };
  useLayoutEffect(() => {
    const log = box.current;
    const look = () => {
      atEnd.current = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
      setBehind(!atEnd.current);
    };
    const follow = new ResizeObserver(() => {
      if (atEnd.current) toEnd();
      look();
    });
    follow.observe(inner.current);
    follow.observe(log);
    log.addEventListener("scroll", look, { passive: true });
    return () => {
      follow.disconnect();
      log.removeEventListener("scroll", look);
    };
  }, []);
  return { box, inner, behind, toEnd };
}

/** Gives a function that keeps what is read in its place when more is drawn above it. */
function useHold(box, first) {
  const below = useRef(null);
  useLayoutEffect(() => {
    if (below.current !== null) box.current.scrollTop = box.current.scrollHeight - below.current;
    below.current = null;
  }, [first]);
  return () => {
    below.current = box.current && box.current.scrollHeight - box.current.scrollTop;
  };
}

function Message({ message, task }) {
  const own = message.sender === `task:${task.id}`;
  const person = message.sender === "user";
  const kind = own ? "own" : person ? "person" : "peer";
  return html`<article class="message" data-kind=${kind} id=${anchorOf(message.id)} tabindex="-1">
    <header>
      <span class="who"><bdi>${person ? "you" : message.sender_name ?? message.sender}</bdi>
        <span class="arrow"> → </span><bdi>${recipientOf(message, task)}</bdi></span>
      ${message.priority !== "normal" && html`<span class="priority" data-priority=${
        message.priority}>${message.priority}</span>`}
      ${!person && html`<button type="button" class="quiet reply" onClick=${() =>
        reply(task.id, message)}>reply</button>`}
      <time datetime=${message.created_at} title=${message.created_at}>${
        clockOf(message.created_at)}</time>
    </header>
    <${Elsewhere} message=${message} task=${task} />
    ${message.reply_to && html`<${InReplyTo} task=${task} id=${message.reply_to} />`}
    <${Body} text=${message.body} />
    ${message.attachments?.length > 0 && html`<${Attachments} files=${message.attachments} />`}
    <${Ladder} message=${message} />
  </article>`;
}

/** Where it was said, if not in this task's own thread. */
function Elsewhere({ message, task }) {
  if (!message.thread || message.thread === task.id) return null;
  const other = tasks.value.get(message.thread);
  if (!other || message.recipient === other.name) return null; // said to it: the heading shows that
  return html`<p class="in-reply">in <a href=${hrefOf(other.id)}><bdi>${
    other.title ?? other.name}</bdi></a></p>`;
}

/** Files to be saved; the worker serves them so that no browser shows or runs them. */
function Attachments({ files }) {
  return html`<ul class="attachments" aria-label="Attachments">${files.map((file) => html`
    <li key=${file.id}><a href=${`/api/attachments/${encodeURIComponent(file.id)}`}
      download=${file.filename} rel="noopener"><bdi class="file-name">${file.filename}</bdi></a>
      <span class="muted">${sizeOf(file.size)}</span></li>`)}</ul>`;
}

const anchorOf = (messageId) => `message-${messageId}`;

const recipientOf = ({ recipient }, task) =>
  recipient === "user" ? "you" : recipient === task.id ? task.name : recipient;

function reply(taskId, message) {
  edit(taskId, { replyTo: { id: message.id, text: firstLine(message.body) } });
  document.getElementById("composer-text")?.focus();
}

const firstLine = (text) => text.trim().split("\n", 1)[0].slice(0, 120);

function InReplyTo({ task, id }) {
  const original = threads.value.get(task.id)?.get(id);
  if (!original) return html`<p class="in-reply">in reply to an earlier message</p>`;
  const go = () => {
    const target = document.getElementById(anchorOf(id));
    target?.scrollIntoView({ block: "center" });
    target?.focus();
  };
  return html`<p class="in-reply">in reply to <button type="button" class="quiet" onClick=${go}
    ><bdi>${firstLine(original.body)}</bdi></button></p>`;
}

function Body({ text }) {
  const [open, setOpen] = useState(false);
  const lines = text.split("\n");
  const long = text.length > LONG_CHARACTERS || lines.length > LONG_LINES;
  const cut = lines.slice(0, PREVIEW_LINES).join("\n").slice(0, LONG_CHARACTERS);
  const label = open ? "Show less" : `Show all ${lengthOf(text, lines)}`;
  return html`<${Prose} text=${long && !open ? cut : text} faded=${long && !open} />
    ${long && html`<button type="button" class="quiet more" aria-expanded=${open}
      onClick=${() => setOpen(!open)}>${label}</button>`}`;
}

const lengthOf = (text, lines) => lines.length > PREVIEW_LINES
  ? `${lines.length} lines` : `${text.length.toLocaleString("en")} characters`;

/** The receipt ladder: the words, the times on hover, all of it opened by a click or Enter. */
function Ladder({ message }) {
  const [open, setOpen] = useState(false);
  if (message.recipient === "user") return null; // shown here is read here
  const rungs = RUNGS.map((name) => ({ name, at: message.receipts?.[`${name}_at`] ?? null }));
  const last = rungs.findLast((rung) => rung.at)?.name ?? "stored";
  const label = `Receipt: ${last}. ${open ? "Hide" : "Show"} the times`;
  return html`<div class="ladder" data-rung=${last}>
    <button type="button" class="rungs" aria-expanded=${open} aria-label=${label}
      onClick=${() => setOpen(!open)}>
      ${rungs.map((rung) => html`<${Rung} key=${rung.name} ...${rung} last=${last} />`)}
    </button>
    ${message.via && html`<span class="via">via ${message.via}</span>`}
    ${open && html`<${Times} rungs=${rungs} />`}
  </div>`;
}

function Rung({ name, at, last }) {
  const title = at ? `${name} ${stamp(at)}` : `not ${name} yet`;
  return html`<span class="rung" title=${title} data-reached=${at !== null}
    data-last=${name === last}><i class="dot"></i><span class="rung-word">${name}</span></span>`;
}

function Times({ rungs }) {
  return html`<dl class="times">${rungs.map(({ name, at }) => html`<div key=${name}>
    <dt>${name}</dt><dd>${at ? stamp(at) : "–"}</dd></div>`)}</dl>`;
}

const stamp = (iso) => `${dayOf(iso)}, ${clockOf(iso)}.${iso.match(/\.(\d{3})/)?.[1] ?? "000"}`;
