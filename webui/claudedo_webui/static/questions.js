// The questions of one ask: choices as buttons, and own words for each.

import { html } from "./html.js";
import { useKept } from "./kept.js";
import { objects } from "./rule.js";

/** A single question with one choice is answered by its button; else a button sends all. */
export function Questions({ ask, busy, act }) {
  const [given, setGiven] = useKept(`${ask.id} given`, {}); // question → its labels, or own words
  const questions = objects(ask.input?.questions)
    .filter(({ question }) => typeof question === "string");
  const atOnce = questions.length === 1 && !questions[0].multiSelect;
  const answers = Object.fromEntries(questions.map((one) => [one.question, answerOf(one, given)]));
  const ready = questions.length > 0 && Object.values(answers).every((answer) => answer.length > 0);
  const change = (question, fields) =>
    setGiven({ ...given, [question]: { ...given[question], ...fields } });
  const choose = (one, label) => {
    if (atOnce) act({ decision: "answer", answers: { [one.question]: label } });
    else change(one.question, { labels: toggled(one, given[one.question]?.labels ?? [], label) });
  };
  return html`${questions.map((one) => html`<${Question} key=${one.question} one=${one}
      given=${given[one.question]} busy=${busy} atOnce=${atOnce} choose=${choose}
      write=${(words) => change(one.question, { words })} />`)}
    ${questions.length === 0
      && html`<pre class="matter" tabindex="0"><code>${ask.body}</code></pre>`}
    <div class="choices">
      <button type="button" class=${atOnce ? "" : "send"} disabled=${busy || !ready}
        onClick=${() => act({ decision: "answer", answers })}>${
        atOnce ? "Answer in own words" : "Answer"}</button>
      <button type="button" disabled=${busy} onClick=${() =>
        act({ decision: "deny" })}>Decline to answer</button>
    </div>`;
}

function Question({ one, given, busy, atOnce, choose, write }) {
  const labels = given?.labels ?? [];
  const options = objects(one.options).filter(({ label }) => label !== undefined);
  return html`<fieldset class="question" disabled=${busy}>
    <legend>${one.header && html`<span class="muted"><bdi>${one.header}</bdi>: </span>`}<bdi>${
      one.question}</bdi>${one.multiSelect && html`<span class="muted"> (several)</span>`}</legend>
    <div class="options">${options.map(({ label, description }, at) => html`
      <button type="button" key=${at} class="option" onClick=${() => choose(one, `${label}`)}
        aria-pressed=${atOnce ? null : labels.includes(`${label}`)}>
        <bdi>${`${label}`}</bdi>
        ${description && html`<small><bdi>${`${description}`}</bdi></small>`}
      </button>`)}</div>
    <label class="own"><span>Own words</span><textarea rows="1" value=${given?.words ?? ""}
      onInput=${(event) => write(event.currentTarget.value)}></textarea></label>
  </fieldset>`;
}

const toggled = ({ multiSelect }, labels, label) => labels.includes(label)
  ? labels.filter((other) => other !== label) : [...(multiSelect ? labels : []), label];

/** Own words stand for themselves; with several choices they come besides. */
function answerOf({ question, multiSelect }, given) {
  const labels = given[question]?.labels ?? [];
  const words = given[question]?.words?.trim();
  if (multiSelect) return words ? [...labels, words] : labels;
  return words || labels[0] || "";
}
