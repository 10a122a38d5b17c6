// Text that others wrote, as sanitised markup.

import { useLayoutEffect, useRef } from "preact/hooks";
import { html } from "./html.js";
import { markup } from "./markdown.js";

/** Sanitised markdown; the fragment is put in by hand because Preact must not touch it. */
export function Prose({ text, faded }) {
  const place = useRef(null);
  useLayoutEffect(() => place.current.replaceChildren(markup(text)), [text]);
  return html`<div ref=${place} class=${faded ? "body faded" : "body"} dir="auto"></div>`;
}
