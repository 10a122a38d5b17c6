// What is typed and not sent yet. Kept in the tab's session storage, so that it survives another
// task, a lost connection, signing in again and a reload, and ends with the tab.

import { signal } from "@preact/signals";

const STORAGE = "claudedo.forms";
const forms = signal(new Map(restored(STORAGE)));

/** Like `useState`, but under a key of the form, and for as long as the tab lives. */
export function useKept(key, first) {
  return [forms.value.get(key) ?? first, (value) => put(new Map(forms.value).set(key, value))];
}

/** The first of `names` under which something is kept for `owner`; else null. */
export const firstKept = (owner, names) =>
  names.find((name) => forms.peek().has(`${owner} ${name}`)) ?? null;

/** Forgets what is kept for `owner`: under its name, and under those that begin so. */
export function forget(owner) {
  const mine = (key) => key === owner || key.startsWith(`${owner} `);
  const rest = [...forms.peek()].filter(([key]) => !mine(key));
  if (rest.length < forms.peek().size) put(new Map(rest));
}

function put(next) {
  forms.value = next;
  keep(STORAGE, [...next]);
}

/** Has a list survive a reload under a name. */
export function keep(name, list) {
  try {
    sessionStorage.setItem(name, JSON.stringify(list));
  } catch (error) {
    console.warn("What is typed will not survive a reload:", error.message); // full or forbidden
  }
}

/** The list that was kept under a name. */
export function restored(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name) ?? "[]");
  } catch (error) {
    console.warn("What was typed before cannot be read:", error.message);
    return [];
  }
}
