// Times as people read them. `now` ticks once a second while the page is visible.

import { signal } from "@preact/signals";
import { html } from "./html.js";

const now = signal(Date.now());
const tick = () => {
  if (!document.hidden) now.value = Date.now();
};
setInterval(tick, 1000);
document.addEventListener("visibilitychange", tick);

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});
const date = new Intl.DateTimeFormat(undefined, {
  weekday: "short", day: "numeric", month: "short", year: "numeric",
});

/** "14:02:11" in the reader's time zone. */
export const clockOf = (iso) => clock.format(new Date(iso));

/** "14:02" today, with the day on another day. */
export const momentOf = (iso) => dayOf(iso) === dayOf(new Date().toISOString())
  ? clockOf(iso).slice(0, 5) : `${dayOf(iso)}, ${clockOf(iso).slice(0, 5)}`;

/** "Tue, 4 Nov 2025" in the reader's time zone. */
export const dayOf = (iso) => date.format(new Date(iso));

/** "12s", "4m", "7h", "3d": how long ago `iso` was at `at` (milliseconds). */
export function ageOf(iso, at) {
  const seconds = Math.max(0, Math.floor((at - Date.parse(iso)) / 1000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

/** A ticking age; redraws only itself. */
export function Age({ since }) {
  const title = `since ${dayOf(since)}, ${clockOf(since)}`;
  return html`<time class="age" datetime=${since} title=${title}
    >${ageOf(since, now.value)}</time>`;
}
